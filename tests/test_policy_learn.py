"""jail policy learn: what it writes lets the program work again, and stops one that does more."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.command import PATIENCE_S, Done, run_jail, start_jail
from tests.part import require
from tests.sight import wait_until

pytestmark = pytest.mark.beside

SOCKETS = """
import socket, sys
a, b = socket.socketpair()
a.sendall(b"hi")
print(b.recv(2))
if len(sys.argv) > 1:
    socket.socket(socket.AF_INET, socket.SOCK_STREAM)
"""
CLIENT = """
import socket
serving = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
serving.bind(("127.0.0.1", 0))
serving.listen()
client = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
client.connect(serving.getsockname())
print("met")
"""
C_PROGRAM = """
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>
static void *work(void *_) { return 0; }
int main(int argc, char **argv) {
    pthread_t thread;
    if (pthread_create(&thread, 0, work, 0) || pthread_join(thread, 0)) return 3;
    printf("worked\\n");
    return argc > 1 && getpgid(0) < 0 ? errno : 0;
}
"""


def learn(*words: str, stdin: bytes | None = None) -> Done:
    return run_jail("learn", *words, command="policy", stdin=stdin)


def read_learned(path: Path) -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads(path.read_text())["learned"]
    return table


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    return tmp_path / "my.toml"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One that a jail's user can enter."""
    tmp_path.chmod(0o755)
    for each in tmp_path.parents:
        if each.owner() == tmp_path.owner() and each != Path("/tmp"):
            each.chmod(0o755)
    return tmp_path


PROGRAMS = {
    "coreutils": (["mkdir", "/tmp/new"], ["mkdir", "-m", "1777", "/tmp/new"]),
    "a pipe": (
        ["sh", "-c", "echo b a | tr ' ' '\\n' | sort"],
        ["sh", "-c", "echo b a | tr ' ' '\\n' | sort; kill -0 $$"],
    ),
    "python": (["python3", "-c", SOCKETS], ["python3", "-c", SOCKETS, "more"]),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_same_program_passes_and_one_that_does_more_is_stopped(name: str, policy: Path) -> None:
    same, more = PROGRAMS[name]
    require(same[0])
    assert run_jail("--", *more).status == 0
    learned = learn("-o", str(policy), "--", *same)
    assert learned.status == 0, learned.stderr
    again = run_jail("--seccomp", str(policy), "--", *same)
    assert (again.status, again.stdout) == (0, learned.stdout), again.stderr
    assert run_jail("--seccomp", str(policy), "--", *more).status != 0


def test_a_program_with_threads_passes_and_one_call_more_is_stopped(folder: Path) -> None:
    require("gcc")
    source, program, policy = folder / "a.c", folder / "a", folder / "my.toml"
    source.write_text(C_PROGRAM)
    subprocess.run(["gcc", "-pthread", "-o", program, source], check=True, timeout=PATIENCE_S)
    shown = ("-v", f"{program}:/a:ro")
    learned = learn("-o", str(policy), *shown, "--", "/a")
    assert (learned.status, learned.stdout) == (0, b"worked\n"), learned.stderr
    run = ("--seccomp", str(policy), *shown, "--", "/a")
    assert run_jail(*run).stdout == b"worked\n"
    stopped = run_jail(*run, "more")
    assert (stopped.status, stopped.stdout) == (38, b"worked\n")
    assert run_jail(*shown, "--", "/a", "more").status == 0


def test_what_the_base_refuses_is_told_with_its_arguments(policy: Path) -> None:
    require("python3")
    learned = learn("-o", str(policy), "--", "python3", "-c", CLIENT)
    assert learned.status == 0, learned.stderr
    (beyond,) = (line for line in learned.stderr.splitlines() if "beyond strict: " in line)
    assert "connect" in beyond and "socket(AF_INET, SOCK_STREAM, IPPROTO_TCP)" in beyond
    assert "fcntl" not in beyond


def test_a_client_that_names_its_protocol_passes(policy: Path) -> None:
    require("python3")
    program = ("--", "python3", "-c", CLIENT)
    assert learn("-o", str(policy), *program).status == 0
    again = run_jail("--seccomp", str(policy), *program)
    assert (again.status, again.stdout) == (0, b"met\n"), again.stderr


def test_a_compiler_passes_under_what_it_was_learned_from(folder: Path) -> None:
    require("gcc")
    (folder / "a.c").write_text(C_PROGRAM)
    policy, compile_it = folder / "my.toml", ("--", "gcc", "-o", "/tmp/a", "/src/a.c")
    shown = ("-v", f"{folder}:/src:ro")
    learned = learn("-o", str(policy), *shown, *compile_it)
    assert learned.status == 0, learned.stderr
    assert run_jail("--seccomp", str(policy), *shown, *compile_it).status == 0
    table = read_learned(policy)
    assert "vfork" in table["beyond"] or "clone" in table["values"]
    assert "/src/a.c" in table["paths"]["read"]
    assert any(each.endswith("/cc1") for each in table["paths"]["executed"])
    assert "/tmp/a" in table["paths"]["created"]


def test_what_another_run_does_is_added(policy: Path) -> None:
    first, second = ["sh", "-c", "umask"], ["sh", "-c", "umask; kill -0 $$"]
    assert learn("--append", "-o", str(policy), "--", *first).status == 0
    assert run_jail("--seccomp", str(policy), "--", *second).status != 0
    assert learn("--append", "-o", str(policy), "--", *second).status == 0
    for argv in (first, second):
        assert run_jail("--seccomp", str(policy), "--", *argv).status == 0
    assert read_learned(policy)["runs"] == [shlex.join(first), shlex.join(second)]


def test_the_ceiling_refuses_meanwhile_and_its_answer_is_learned(policy: Path) -> None:
    require("python3")
    code = "import socket\ntry: socket.socket(38, 5)\nexcept OSError as e: print(e.errno)"
    learned = learn("-o", str(policy), "--", "python3", "-c", code)
    assert learned.stdout == b"97\n"
    assert "socket(AF_ALG, SOCK_SEQPACKET, 0) EAFNOSUPPORT" in learned.stderr
    again = run_jail("--seccomp", str(policy), "--", "python3", "-c", code)
    assert again.stdout == b"97\n"


def test_nothing_is_learned_beyond_a_narrow_ceiling(policy: Path) -> None:
    program = ["sh", "-c", "(true); echo $?"]
    learned = learn("--seccomp", "strict", "-o", str(policy), "--", *program)
    assert learned.status != 0
    assert "beyond" not in read_learned(policy)
    assert "fork" in learned.stderr


def test_what_a_ceiling_ends_a_program_for_ends_it(policy: Path) -> None:
    ceiling = policy.with_name("ceiling.toml")
    ceiling.write_text(
        'extends = "default"\n[[rule]]\ncalls = ["getppid", "umask"]\naction = "kill"\nwhy = "no"\n'
    )
    learned = learn("--seccomp", str(ceiling), "-o", str(policy), "--", "sh", "-c", "umask; echo")
    assert learned.status == 128 + signal.SIGSYS
    assert learned.stdout == b""
    assert "umask kill" in learned.stderr or "getppid kill" in learned.stderr


def test_without_a_ceiling_all_is_learned(policy: Path) -> None:
    program = ["unshare", "-r", "id", "-u"]
    if run_jail("--seccomp", "unconfined", "--", *program).status:
        pytest.fail("no user namespace inside a jail without a policy")
    learned = learn("--seccomp", "unconfined", "-o", str(policy), "--", *program)
    assert (learned.status, learned.stdout) == (0, b"0\n"), learned.stderr
    assert run_jail("--seccomp", str(policy), "--", *program).stdout == b"0\n"
    assert run_jail("--seccomp", str(policy), "--", "unshare", "-n", "true").status != 0


NAMES = """
import os, socket, threading
question = bytes.fromhex("123401000001000000000000076578616d706c65036f72670000010001")
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.sendto(question, ("127.0.0.1", 53))
other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
other.connect(("127.0.0.1", 53))
other.sendmsg([question.replace(b"example", b"another")])
listening = socket.create_server(("127.0.0.1", 8080))
socket.create_connection(("127.0.0.1", 8080))
for path in ("/tmp/no", "\\0abstract"):
    try:
        socket.socket(socket.AF_UNIX).connect(path)
    except OSError:
        pass
os.chdir("/data/in")
print(open("words").read())
os.mkdir("../../out/new")
os.stat("new", dir_fd=os.open("/out", os.O_RDONLY))
open("/out/new/result", "w").write("x")
os.replace("/out/new/result", "/out/new/better")
for missing in ("/data/in/no", "/home"):
    assert not os.path.exists(missing)
"""


def test_paths_mounts_and_names_are_learned(folder: Path) -> None:
    require("python3")
    policy = folder / "my.toml"
    for name in ("data", "data/in", "out", "unused"):
        (folder / name).mkdir()
    (folder / "data/in/words").write_text("a word")
    shown = [f"-v={folder}/{name}:/{name}" for name in ("data", "out", "unused")]
    code = ("--", "python3", "-c", NAMES)
    learned = learn("-o", str(policy), *shown, "--tmpfs=/idle", "-w", "/data", *code)
    assert (learned.status, learned.stdout) == (0, b"a word\n"), learned.stderr
    table = read_learned(policy)
    paths = table["paths"]
    assert {"/data/in", "/data/in/words", "/out/new"} <= set(paths["read"])
    assert {"/out/new", "/out/new/result", "/out/new/better"} <= set(paths["created"])
    assert {"/data/in/no", "/home"} <= set(paths["missing"])
    assert any("/python3" in each for each in paths["executed"])
    assert table["mounts"] == [f"-v {folder}/data:/data:ro", f"-v {folder}/out:/out:rw"]
    assert table["network"] == [
        "bind tcp 127.0.0.1:8080",
        "dns another.org",
        "dns example.org",
        "tcp 127.0.0.1:8080",
        "udp 127.0.0.1:53",
        "unix /tmp/no",
        "unix @abstract",
    ]
    if os.access("/home", os.R_OK):
        assert "-v /home:/home:ro" in learned.stderr
    (folder / "out/new/better").unlink()
    (folder / "out/new").rmdir()
    (told,) = (line for line in learned.stderr.splitlines() if "now: jail run " in line)
    words = shlex.split(told.partition("now: jail run ")[2])
    assert "--network" not in words and f"{folder}/unused:/unused" not in told
    again = run_jail(*words[:-1], NAMES)  # a line end can't be told in one line
    assert (again.status, again.stdout) == (0, b"a word\n"), again.stderr


CONNECT = "import socket; s = socket.socket(); s.settimeout(1); s.connect_ex(('198.51.100.1', 81))"


def test_what_was_observed_of_the_network_becomes_its_rules(folder: Path) -> None:
    policy = str(folder / "my.toml")
    given = ["--observe", "--deny", "a.org", "--add-host", "db:10.1.2.3"]
    learned = learn("-o", policy, *given, "--", "python3", "-c", CONNECT)
    assert learned.status == 0, learned.stderr
    (told,) = (line for line in learned.stderr.splitlines() if "now: jail run " in line)
    words = shlex.split(told.partition("now: jail run ")[2])
    assert words[: words.index("--")] == [
        "--seccomp", policy, "--deny", "a.org", "--add-host", "db:10.1.2.3",
        "--allow", "198.51.100.1:81",
    ]  # fmt: skip
    idle = learn("-o", policy, *given, "--", "true")
    (told,) = (line for line in idle.stderr.splitlines() if "now: jail run " in line)
    assert told.endswith(f"now: jail run --seccomp {policy} --add-host db:10.1.2.3 -- true")


def test_a_profile_for_docker_lets_the_program_pass(policy: Path) -> None:
    profile = policy.with_suffix(".json")
    program = PROGRAMS["a pipe"]
    assert learn("--format", "docker", "-o", str(profile), "--", *program[0]).status == 0
    assert run_jail("--seccomp", str(profile), "--", *program[0]).status == 0
    assert run_jail("--seccomp", str(profile), "--", *program[1]).status != 0


def test_without_a_file_the_policy_is_all_that_stdout_gets() -> None:
    learned = learn("--", "echo", "hello")
    assert learned.status == 0
    assert tomllib.loads(learned.stdout.decode())["extends"] == "strict"


def test_our_stdin_is_passed_on(policy: Path) -> None:
    learned = learn("-i", "-o", str(policy), "--", "cat", stdin=b"a line")
    assert learned.stdout == b"a line"


def test_a_program_that_fails_is_learned_from_and_its_status_is_ours(policy: Path) -> None:
    assert learn("-o", str(policy), "--", "false").status == 1
    assert policy.stat().st_mode & 0o777 == 0o644
    assert run_jail("--seccomp", str(policy), "--", "false").status == 1


def test_a_program_with_a_timer_makes_its_way(policy: Path) -> None:
    """A signal every half millisecond: a call that nobody looks at yet is begun anew."""
    require("python3")
    code = (
        "import os, signal; signal.signal(signal.SIGALRM, lambda *_: None);"
        "signal.siginterrupt(signal.SIGALRM, False);"
        "signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005);"
        "[os.stat('/usr') for _ in range(2000)]; print('made it')"
    )
    learned = learn("-o", str(policy), "--", "python3", "-c", code)
    assert learned.stdout == b"made it\n", learned.stderr


def test_many_threads_and_processes_are_answered(policy: Path) -> None:
    script = (
        "for i in 1 2 3 4 5 6 7 8; do (for j in 1 2 3 4 5; do ls / >/dev/null; done) & done; wait"
    )
    learned = learn("-o", str(policy), "--", "sh", "-c", script)
    assert learned.status == 0, learned.stderr
    assert run_jail("--seccomp", str(policy), "--", "sh", "-c", script).status == 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("not toml", "no policy"),
        ('extends = "strict"\n', "not learned"),
        ('extends = "strict"\n[learned]\nceiling = "default"\n', "machine"),
    ],
)
def test_nothing_is_added_to_what_was_not_learned(text: str, reason: str, policy: Path) -> None:
    policy.write_text(text)
    learned = learn("--append", "-o", str(policy), "--", "true")
    assert (learned.status, learned.stdout) == (125, b"")
    assert reason in learned.stderr
    assert policy.read_text() == text


def test_what_was_changed_by_hand_is_not_lost(policy: Path) -> None:
    assert learn("-o", str(policy), "--", "true").status == 0
    rule = '[[rule]]\ncalls = ["fork"]\naction = "allow"\nwhy = "mine"\n\n[learned]'
    policy.write_text(policy.read_text().replace("[learned]", rule, 1))
    changed = policy.read_text()
    learned = learn("--append", "-o", str(policy), "--", "true")
    assert learned.status == 125
    assert "changed" in learned.stderr
    assert policy.read_text() == changed


def test_what_is_added_was_decided_by_the_same_ceiling(policy: Path) -> None:
    assert learn("--seccomp", "strict", "-o", str(policy), "--", "true").status == 0
    learned = learn("--append", "-o", str(policy), "--", "true")
    assert learned.status == 125
    assert "--seccomp strict" in learned.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["-o", "/nowhere/my.toml", "--", "true"],
        ["--append", "--", "true"],
        ["--append", "--format", "docker", "-o", "x.json", "--", "true"],
        ["--format", "docker", "-o", "x.toml", "--", "true"],
        ["-o", "x.json", "--", "true"],
        ["--explain-denied", "--", "true"],
        ["--seccomp", "lax", "--", "true"],
        ["-v", "nonsense", "--", "true"],
        ["--"],
        ["--", "no-such-program"],
    ],
)
def test_what_can_t_be_is_said_in_a_line(words: list[str]) -> None:
    learned = learn(*words)
    assert learned.status in (125, 127)
    assert learned.stdout == b""
    assert learned.stderr.count("\n") <= 2 and learned.stderr.startswith("jail: ")


def test_a_policy_is_not_touched_where_nothing_was_learned(policy: Path) -> None:
    policy.write_text("mine")
    assert learn("-o", str(policy), "--", "no-such-program").status == 127
    assert policy.read_text() == "mine"
    assert [each.name for each in policy.parent.iterdir()] == [policy.name]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
async def test_who_learns_may_be_ended(number: signal.Signals, folder: Path) -> None:
    """And with it all that it watched, which the oracle looks for."""
    policy, sign = folder / "my.toml", folder / "out"
    sign.mkdir()
    sign.chmod(0o777)
    words = ("-o", str(policy), "-v", f"{sign}:/out", "--", "sh", "-c", "echo >/out/x; sleep 60")
    with start_jail("learn", *words, command="policy", stderr=subprocess.DEVNULL) as process:
        await wait_until(lambda: (sign / "x").exists(), "it has begun", PATIENCE_S)
        process.send_signal(number)
        process.wait(PATIENCE_S)
    assert process.returncode == (128 + number if number == signal.SIGINT else -number)
    assert not policy.exists()


DEAF = """
import sys
from jail.agent.kernel import open_listener
from jail.cli import main
from jail.kernel.process import PR_SET_NO_NEW_PRIVS, prctl

prctl(PR_SET_NO_NEW_PRIVS, 1)
listener = open_listener(bytes.fromhex("060000000000ff7f"))
sys.exit(main(["policy", "learn", "--userns", "single", "-o", sys.argv[1], "--", "true"]))
"""


def test_where_the_only_listener_is_somebody_else_s_nothing_is_learned(policy: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DEAF, str(policy)], capture_output=True, timeout=PATIENCE_S
    )
    assert done.returncode == 125
    assert b"nothing can be learned here" in done.stderr
    assert not policy.exists()


def test_a_pipe_takes_the_policy_too() -> None:
    done = learn("-o", "/dev/stdout", "--", "true")
    assert (done.status, b'extends = "strict"' in done.stdout) == (0, True)
