"""``jail run``: what it takes, what it answers, and what it says when it can't."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jail.cli import main, split_program
from tests.command import JAIL, run_jail
from tests.part import require

# -- exit status ----------------------------------------------------------------------------------

ENDS = {
    "its own": (["--", "sh", "-c", "exit 7"], 7, "RE", None),
    "a signal": (["--", "sh", "-c", "kill -SEGV $$"], 139, "SG", None),
    "wall time": (["--wall-time", "0.2", "--", "sleep", "60"], 124, "TLE", "wall_time"),
    "cpu time": (
        ["--cpu-time", "0.2", "--", "sh", "-c", "while :; do :; done"],
        124,
        "TLE",
        "cpu_time",
    ),
    "memory": (["-m", "64m", "--", "python3", "-c", "bytearray(300 << 20)"], 137, "MLE", "memory"),
    "output": (["--output-limit", "1m", "--", "yes"], 153, "OLE", "output"),
    "not there": (["--", "no-such-program"], 127, "IE", None),
    "not executable": (["--", "/etc/passwd"], 126, "IE", None),
    "its own 127": (["--", "sh", "-c", "exit 127"], 127, "RE", None),
    "its own 125": (["--", "sh", "-c", "exit 125"], 125, "RE", None),
    "its own 137": (["--", "sh", "-c", "exit 137"], 137, "RE", None),
    "its own 124": (["--", "sh", "-c", "exit 124"], 124, "RE", None),
    "our fault": (["-m", "0", "--", "true"], 125, "IE", None),
}


@pytest.mark.parametrize("end", ENDS)
def test_the_exit_status_is_docker_s_and_the_json_tells_them_apart(end: str) -> None:
    words, status, verdict, limit = ENDS[end]
    done = run_jail("--json", "-", *words)
    told = done.json
    assert done.status == status == told["exit_status"]
    assert (told["verdict"], told["limit"]) == (verdict, limit)
    assert told["fault"] == {
        "not there": "program",
        "not executable": "program",
        "our fault": "caller",
    }.get(end)
    assert done.stderr == "", "with - only that JSON is printed"


def test_an_end_that_was_a_limit_s_is_one_line_on_stderr() -> None:
    done = run_jail("--wall-time", "0.1", "--", "sleep", "60")
    assert done.stderr == "jail: TLE: wall time limit of 0.1 s reached\n"
    assert run_jail("--", "sh", "-c", "exit 3").stderr == "", "its own end is its own affair"


# -- streams --------------------------------------------------------------------------------------


def test_output_is_the_program_s_own_byte_by_byte() -> None:
    done = run_jail("--", "sh", "-c", r"printf 'a\0\377b'; printf 'err' >&2; exit 3")
    assert done == (3, b"a\0\xffb", "err")


def test_stdin_is_empty_unless_it_is_asked_for() -> None:
    assert run_jail("--", "cat", stdin=b"secret").stdout == b""
    data = bytes(range(256)) * 5000
    assert run_jail("-i", "--", "cat", stdin=data).stdout == data


def test_a_program_that_reads_nothing_ends_all_the_same() -> None:
    assert run_jail("-i", "--", "true", stdin=b"x" * 1_000_000) == (0, b"", "")


def test_a_file_as_stdin_is_read_from_where_it_stands(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"0123456789")
    with open(tmp_path / "in", "rb") as file:
        os.lseek(file.fileno(), 4, os.SEEK_SET)
        command = [sys.executable, "-m", "jail", "run", "-i", "--", "cat"]
        done = subprocess.run(command, stdin=file, capture_output=True, timeout=30, check=True)
    assert done.stdout == b"456789"


# -- reports --------------------------------------------------------------------------------------


def test_json_goes_to_a_file_and_the_output_where_it_always_goes(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    done = run_jail("--json", str(file), "--", "sh", "-c", "echo out; echo err >&2; exit 2")
    assert done == (2, b"out\n", "err\n")
    told = json.loads(file.read_text())
    assert (told["stdout"], told["stderr"], told["exit_code"]) == ("out\n", "err\n", 2)
    assert told["enforced_by"]["memory"] == "watch+rlimit"


def test_the_meta_file_is_isolate_s(tmp_path: Path) -> None:
    def read_meta(*words: str) -> dict[str, str]:
        run_jail("--meta", str(tmp_path / "meta"), *words)
        lines = (tmp_path / "meta").read_text().splitlines()
        return dict(line.split(":", 1) for line in lines)

    fine = read_meta("--", "true")
    assert {"time", "time-wall", "max-rss", "exitcode", "csw-forced"} <= set(fine)
    assert "status" not in fine
    assert float(fine["time"]) <= float(fine["time-wall"]) + 0.05
    assert (
        read_meta("--", "sh", "-c", "exit 3").items() >= {"status": "RE", "exitcode": "3"}.items()
    )
    killed = read_meta("--", "sh", "-c", "kill -9 $$")
    assert killed.items() >= {"status": "SG", "exitsig": "9"}.items()
    late = read_meta("--wall-time", "0.1", "--", "sleep", "9")
    assert late.items() >= {"status": "TO", "killed": "1"}.items()
    assert "wall time limit" in late["message"]
    assert read_meta("-m", "0", "--", "true")["status"] == "XX"


@pytest.mark.parametrize("option", ["--json", "--meta"])
def test_a_report_that_can_t_be_written_is_said_before_anything_runs(
    option: str, tmp_path: Path
) -> None:
    (tmp_path / "seen").mkdir()
    volume = f"{tmp_path}/seen:/seen"
    done = run_jail(option, "/no/such/file", "-v", volume, "--", "touch", "/seen/it")
    assert done == (125, b"", f"jail: {option} /no/such/file: No such file or directory\n")
    assert os.listdir(tmp_path / "seen") == []


# -- the options ----------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["json", "meta"])
def test_a_report_that_is_lost_is_no_success(option: str) -> None:
    done = run_jail(f"--{option}", "/dev/full", "--", "true")
    assert done.status == 125
    assert done.stderr == "jail: the result can't be written: No space left on device\n"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("more", [[], ["-i"], ["--json", "-"]], ids=" ".join)
def test_closed_standard_streams_are_nobody_else_s(closed: str, more: list[str]) -> None:
    """Their numbers would be given to the next descriptors that are opened: sockets of ours."""
    words = [*JAIL, "run", *more, "--", "sh", "-c", "echo out; echo err >&2; exit 7"]
    shell = ["sh", "-c", f'exec "$@" {closed}', "sh", *words]
    done = subprocess.run(shell, capture_output=True, timeout=30, check=False)
    assert done.returncode == 7
    assert b"Traceback" not in done.stdout + done.stderr


def test_who_and_where() -> None:
    words = ["-h", "judge", "-w", "/work", "-u", "12:34", "-e", "GREETING=hello world"]
    script = (
        'hostname; pwd; id -u; id -g; echo "$GREETING"; env | cut -d= -f1 | sort | tr "\\n" " "'
    )
    done = run_jail(*words, "--", "sh", "-c", script)
    assert done.status == 0, done.stderr
    lines = done.stdout.decode().splitlines()
    assert lines[:5] == ["judge", "/work", "12", "34", "hello world"]
    assert lines[5].split() == ["GREETING", "HOME", "HOSTNAME", "LANG", "PATH", "PWD", "USER"]


def test_volumes_and_tmpfs(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("input")
    (tmp_path / "out").mkdir()
    words = ["-v", f"{tmp_path}/in:/data/in:ro", "--volume", f"{tmp_path}/out:/out"]
    script = "cp /data/in /out/copy; echo x > /data/in; echo x > /scratch/x && stat -fc %T /scratch"
    done = run_jail(*words, "--tmpfs", "/scratch:1m", "--", "sh", "-c", script)
    assert done.stdout == b"tmpfs\n"
    assert "Read-only file system" in done.stderr
    assert (tmp_path / "out/copy").read_text() == "input"
    assert (tmp_path / "out/copy").stat().st_uid == os.getuid()


def test_a_root_file_system_of_one_s_own(rootfs: Path) -> None:
    write = ["busybox", "sh", "-c", "echo hi > /new; cat /new"]
    done = run_jail("--rootfs", str(rootfs), "-u", "0", "--", *write)
    assert done == (0, b"hi\n", "")
    assert not (rootfs / "new").exists()
    done = run_jail("--rootfs", str(rootfs), "--read-only", "--", "touch", "/new")
    assert (done.status, "Read-only file system" in done.stderr) == (1, True)


def test_limits_in_docker_s_units() -> None:
    words = ["--ulimit", "nofile=33:44", "--ulimit", "core=0", "--pids-limit", "20", "--disk", "1m"]
    script = (
        "ulimit -Sn; ulimit -Hn; ulimit -c; head -c 5000000 /dev/zero > /tmp/x; stat -c %s /tmp/x"
    )
    done = run_jail(*words, "--", "bash", "-c", script)
    lines = done.stdout.split()
    assert lines[:3] == [b"33", b"44", b"0"]
    assert int(lines[3]) <= 1 << 20


def test_without_limits_there_are_none_but_those_given() -> None:
    told = run_jail("--no-limits", "--wall-time", "10", "--json", "-", "--", "true").json
    held = told["enforced_by"]
    unlimited = [held[name] for name in ("memory", "cpu_time", "pids", "output", "disk")]
    assert (unlimited, held["wall_time"]) == (["none"] * 5, "supervisor")
    assert (
        run_jail("-m", "unlimited", "--json", "-", "--", "true").json["enforced_by"]["memory"]
        == "none"
    )


@pytest.mark.parametrize("userns", ["auto", "single"])
def test_either_kind_of_ids(userns: str) -> None:
    if userns == "auto":
        require("subuid")
    told = run_jail("--userns", userns, "--json", "-", "--", "cat", "/proc/self/uid_map").json
    expected = {"auto": "subuid", "single": "single"}[userns]
    assert told["enforced_by"]["ids"] == expected
    assert len(told["stdout"].splitlines()) == (1 if userns == "single" else 3)


def test_the_host_s_network_only_when_asked_for() -> None:
    script = (
        "ls /sys/class/net 2>/dev/null; cat /proc/net/dev | tail -n +3 | cut -d: -f1 | tr -d ' '"
    )
    assert run_jail("--", "sh", "-c", script).stdout.split() == [b"lo"]
    script = "readlink /proc/self/ns/net"
    assert run_jail("--network", "host", "--", "sh", "-c", script).stdout.decode().strip() == (
        os.readlink("/proc/self/ns/net")
    )


def test_rules_make_a_network_that_has_nothing_else() -> None:
    script = "cat /etc/resolv.conf; getent hosts db; getent hosts example.com; exit 0"
    words = ["--allow", "example.org:443", "--add-host", "db:10.1.2.3", "--explain-denied"]
    done = run_jail(*words, "--", "sh", "-c", script)
    assert done.stdout.split() == [b"nameserver", b"10.0.2.3", b"10.1.2.3", b"db"]
    lines = done.stderr.splitlines()
    assert any(each.startswith("jail: refused: the name example.com: ") for each in lines)
    assert lines[-2:] == ["  no rule allows this name", "  allowed by: --allow example.com"]


def test_what_is_observed_is_told_as_options() -> None:
    connect = "import socket; socket.socket().connect_ex(('169.254.169.254', 80))"
    words = ["--observe", "--", "python3", "-c", connect]
    assert run_jail(*words).stderr.splitlines() == [
        "jail: refused: TCP to 169.254.169.254, port 80: once",
        "  cloud metadata address",
        "  allowed by: --allow 169.254.169.254:80",
        "jail: needed: no rule",
    ]
    told = run_jail("--json", "-", *words).json["network"]
    assert (told["driver"], told["needed"], told["partial"]) == ("filtered", [], False)
    (attempt,) = told["attempts"]
    assert (attempt["protocol"], attempt["allowed"], attempt["port"]) == ("tcp", False, 80)


def test_a_weaker_mechanism_than_required_is_refused_with_the_remedy() -> None:
    done = run_jail("--require", "memory=cgroup", "--", "true")
    assert done.status == 125
    first, *remedy = done.stderr.splitlines()
    said = "jail: require memory=cgroup: here memory is enforced by watch+rlimit; "
    assert first.startswith(said) and first != said, "and why"
    assert remedy
    assert run_jail("--require", "memory=watch", "--", "true") == (0, b"", "")


def test_the_program_s_own_options_are_its_own() -> None:
    done = run_jail("--", "echo", "--help", "-m", "--", "-x")
    assert done.stdout == b"--help -m -- -x\n"
    assert run_jail("echo", "-m", "--json").stdout == b"-m --json\n", "docker's way, without --"
    assert split_program(["-t", "--", "a", "--", "b"]) == (["-t"], ["a", "--", "b"])


# -- explain --------------------------------------------------------------------------------------


def test_explain_says_what_would_be_done_and_does_nothing(tmp_path: Path) -> None:
    (tmp_path / "seen").mkdir()
    volume = f"{tmp_path}/seen:/seen"
    done = run_jail("--explain", "-v", volume, "-m", "64m", "--", "touch", "/seen/it")
    assert (done.status, done.stderr, os.listdir(tmp_path / "seen")) == (0, "", [])
    text = done.stdout.decode()
    for part in (
        f"bind {tmp_path}/seen on /seen (nosuid,nodev)",
        "user, mount, pid, net",
        "memory: watch",
    ):
        assert part in text
    for kind in ("nproc:", "fsize:", "seccomp:", "/proc without", "environment:"):
        assert kind in text


def test_explain_as_json_is_one_line(tmp_path: Path) -> None:
    told = run_jail("--explain", "--json", "-", "--", "true").json
    assert told["namespaces"][:3] == ["user", "mount", "pid"]
    assert ["Seal", ""] in told["steps"]


# -- bad input ------------------------------------------------------------------------------------

WRONG = {
    "an unknown option": (["--no-such"], "unrecognized arguments: --no-such"),
    "a half option": (["--mem", "1m"], "unrecognized arguments: --mem"),
    "a missing value": (["-m"], "expected one argument"),
    "no program": ([], "no program given"),
    "an empty program": (["--", ""], "no program given"),
    "a limit of 0": (["-m", "0", "--", "true"], "memory: '0' must be more than 0"),
    "a size of 12q": (["-m", "12q", "--", "true"], "memory: '12q' is not a size"),
    "a time of 1x": (["--cpu-time", "1x", "--", "true"], "cpu_time: '1x' is not a time"),
    "a count of -3": (["--pids-limit", "-3", "--", "true"], "pids_limit"),
    "an unknown user": (["-u", "nobody-at-all", "--", "true"], "nobody-at-all"),
    "a rootfs that is a file": (["--rootfs", "/etc/passwd", "--", "true"], "is a file"),
    "a rootfs that isn't there": (["--rootfs", "/no/such", "--", "true"], "No such file"),
    "a source that isn't there": (["-v", "/no/such:/x", "--", "true"], "/no/such"),
    "a volume without a target": (["-v", "/usr", "--", "true"], "write SRC:DST"),
    "a target that is relative": (["-v", "/usr:x", "--", "true"], "must begin with /"),
    "a target with dots": (["-v", "/usr:/a/../b", "--", "true"], "must not contain .."),
    "an environment without a value": (["-e", "HOME", "--", "true"], "write K=V"),
    "an unknown network": (["--network", "bridge", "--", "true"], "none, host"),
    "a rule that is none": (["--allow", "http://a.org", "--", "true"], "http://a.org"),
    "a wildcard in the middle": (["--deny", "a.*.org", "--", "true"], "at the front"),
    "rules for another network": (
        ["--network", "host", "--observe", "--", "true"],
        "network filtered",
    ),
    "ports twice": (["--network", "slirp", "-p", "80:1", "-p", "80:2", "--", "true"], "same port"),
    "ports with no way in": (["-p", "80:80", "--", "true"], "no way in"),
    "an unknown policy": (["--seccomp", "lax", "--", "true"], "no seccomp policy 'lax'"),
    "an unknown namespace": (["--userns", "keep-id", "--", "true"], "auto, single"),
    "an unknown ulimit": (["--ulimit", "files=3", "--", "true"], "ulimit 'files'"),
    "an unknown limit": (["--require", "speed=light", "--", "true"], "require speed"),
    "half a requirement": (["--require", "memory", "--", "true"], "write LIMIT=MECHANISM"),
    "a hostname with a blank": (["-h", "a b", "--", "true"], "hostname"),
    "a meta file that is stdout": (["--meta", "-", "--", "true"], "give a file"),
    "a terminal that isn't one": (["-i", "-t", "--", "true"], "stdin is not a terminal"),
    "a working directory that isn't there": (["-w", "/usr/no", "--", "true"], "/usr/no"),
    "an interpreter that isn't there": (
        ["-v", "SCRIPT:/x/s", "--", "/x/s"],
        "/no/such/interpreter",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_bad_input_is_one_clear_line(what: str, tmp_path: Path) -> None:
    words, part = WRONG[what]
    (tmp_path / "script").write_text("#!/no/such/interpreter\n")
    (tmp_path / "script").chmod(0o755)
    words = [word.replace("SCRIPT", f"{tmp_path}/script") for word in words]
    done = run_jail(*words)
    assert done.status in (125, 126)
    assert (done.stdout, len(done.stderr.splitlines())) == (b"", 1), done.stderr
    assert done.stderr.startswith("jail: ")
    assert part in done.stderr


def test_what_a_stranger_wrote_reaches_no_terminal_raw() -> None:
    done = run_jail("--", "no\x1b]52;c;aGk=\x07such")
    assert (done.status, "\x1b" in done.stderr, "\x07" in done.stderr) == (127, False, False)


def test_an_environment_beyond_1_mb_is_refused() -> None:
    words = [word for n in range(15) for word in ("-e", f"K{n}={'x' * 100_000}")]
    done = run_jail(*words, "--", "true")
    assert (done.status, done.stdout) == (125, b"")
    assert done.stderr.startswith("jail: env: ")


# -- the rest -------------------------------------------------------------------------------------


def test_help_tells_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for option in [
        "--rootfs",
        "--volume",
        "--tmpfs",
        "--env",
        "--workdir",
        "--user",
        "--hostname",
        "--interactive",
        "--tty",
        "--memory",
        "--cpu-time",
        "--wall-time",
        "--pids-limit",
        "--output-limit",
        "--disk",
        "--ulimit",
        "--read-only",
        "--network",
        "--allow",
        "--deny",
        "--observe",
        "--publish",
        "--add-host",
        "--dns",
        "--seccomp",
        "--userns",
        "--require",
        "--json",
        "--meta",
        "--explain",
        "--no-limits",
        "-v",
        "-e",
        "-w",
        "-u",
        "-h",
        "-i",
        "-t",
        "-m",
        "-p",
    ]:
        assert f"{option} " in text or f"{option}," in text or f"{option}\n" in text, option


def test_without_a_command_it_says_how_to_use_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 125
    assert "doctor" in capsys.readouterr().err


def test_the_doctor_answers_for_this_host() -> None:
    done = run_jail("--json", command="doctor")
    report = json.loads(done.stdout)
    assert (done.status, report["ok"]) == (0, True)
    assert "This host reaches tier" in run_jail(command="doctor").stdout.decode()


def test_a_host_that_can_t_is_told_how_to_mend_it() -> None:
    """As on a host with user.max_user_namespaces=0: the doctor's own lines."""
    require("unshare")
    script = 'echo 0 >/proc/sys/user/max_user_namespaces && exec "$@"'
    done = subprocess.run(
        ["unshare", "-Ur", "sh", "-c", script, "sh", *JAIL, "run", "--", "true"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    first, *remedy = done.stderr.splitlines()
    assert (done.returncode, first[:6]) == (125, "jail: ")
    assert any("user.max_user_namespaces" in line for line in remedy), done.stderr
