"""A second wall: what Landlock still refuses where the first one has a hole, made by the test.

The control of each is the same attack, through the same hole, on a host without Landlock.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

import jail.supervisor
from jail import HostError, Jail, ProgramError
from jail.host import HostFacts, read_facts
from jail.inputs import plan_jail
from jail.kernel import mount
from jail.landlock import MIN_ABI, SCOPE_ABI
from jail.launchplan import Bind, Landlock, LaunchPlan, Seal
from jail.plan import Inputs, Plan, make_plan
from jail.spec import JailSpec
from tests.attacks.payload import run_inside
from tests.attacks.sentinel import hash_tree
from tests.conftest import OpenJail
from tests.part import require
from tests.tree import CANARY

REFUSED: Final = {"Permission denied", "Invalid cross-device link"}
HOLE: Final = mount.MOUNT_ATTR_RDONLY | mount.MOUNT_ATTR_NODEV


@pytest.fixture(autouse=True)
def _has_landlock() -> None:
    require("landlock")


def break_first_wall(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[LaunchPlan], LaunchPlan]
) -> None:
    """Jails are built by plans that this has spoilt; their rules are those of before."""

    def make(spec: JailSpec, facts: HostFacts, inputs: Inputs) -> Plan:
        plan = make_plan(spec, facts, inputs)
        return replace(plan, launch=change(plan.launch))

    monkeypatch.setattr(jail.supervisor, "make_plan", make)


def unlock(launch: LaunchPlan) -> LaunchPlan:
    """No bind is read-only, no root is sealed."""
    steps = [
        step._replace(attr=step.attr & ~HOLE) if isinstance(step, Bind) else step
        for step in launch.steps
        if not isinstance(step, Seal)
    ]
    return launch._replace(steps=tuple(steps))


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """A directory that everybody may write, as far as modes go."""
    folder = tmp_path / "volume"
    (folder / "sub").mkdir(parents=True)
    for name in ("file", "sub/file"):
        (folder / name).write_text("content")
        (folder / name).chmod(0o666)
    for each in (folder, folder / "sub"):
        each.chmod(0o777)
    (folder / "spare").hardlink_to(folder / "file")
    return folder


# -- files ----------------------------------------------------------------------------------------


async def alter(j: Jail, *words: str) -> dict[str, str]:
    answers: dict[str, str] = await run_inside(j, "alter", *words)
    assert len(answers) > 12
    return answers


async def test_a_read_only_volume_stays_so_without_its_read_only_mount(
    open_jail: OpenJail,
    open_bare_jail: OpenJail,
    monkeypatch: pytest.MonkeyPatch,
    volume: Path,
) -> None:
    """By its name, by a descriptor opened again, by way of another process's root."""
    break_first_wall(monkeypatch, unlock)
    given = {"volumes": [f"{volume}:/data:ro"]}
    async with open_bare_jail(**given) as j:
        assert set((await alter(j, "/data")).values()) == {"OK"}
        assert set((await alter(j, "/data", "/proc/self/root/data")).values()) == {"OK"}
    before = hash_tree(volume)
    async with open_jail(**given) as j:
        assert set((await alter(j, "/data")).values()) <= REFUSED
        assert set((await alter(j, "/data", "/proc/self/root/data")).values()) <= REFUSED
        assert (await j.run(["cat", "/data/file", "/data/sub/file"])).stdout == b"content" * 2
        with pytest.raises(jail.TransferError):
            await j.put("/data/file", "other")
    assert hash_tree(volume) == before


async def test_a_single_file_that_is_read_only_stays_so(
    open_jail: OpenJail,
    open_bare_jail: OpenJail,
    monkeypatch: pytest.MonkeyPatch,
    volume: Path,
) -> None:
    break_first_wall(monkeypatch, unlock)
    given = {"volumes": [f"{volume}/file:/data:ro", f"{volume}/sub/file:/own"]}
    for open_, status in ((open_bare_jail, 0), (open_jail, 2)):
        async with open_(**given) as j:
            assert (await j.run(["sh", "-c", "echo changed >/data"])).exit_code == status
            assert (await j.run(["sh", "-c", "echo changed >/own"])).exit_code == 0
        assert (volume / "file").read_text() == "changed\n"
        assert (volume / "sub/file").read_text() == "changed\n"


async def test_root_of_a_hostile_root_does_not_change_what_is_read_only(
    open_jail: OpenJail,
    open_bare_jail: OpenJail,
    monkeypatch: pytest.MonkeyPatch,
    own_rootfs: Path,
    volume: Path,
) -> None:
    """As uid 0, who owns the files; with a link on the way to each place that can be written."""
    (own_rootfs / "work").rmdir()
    (own_rootfs / "var/place").mkdir()
    (own_rootfs / "place").symlink_to("/var/place")
    break_first_wall(monkeypatch, unlock)
    attack = (
        "echo x 2>/dev/null >/etc/passwd; echo $?; touch /etc/new; echo $?;"
        "rm /bin/vi; echo $?; mv /usr /var/usr; echo $?; ln -s /x /root/x; echo $?;"
        "echo x 2>/dev/null >/ro/file; echo $?; touch /place/mine; echo $?; cat /place/mine"
    )
    given = {"volumes": [f"{volume}:/ro:ro"], "tmpfs": ["/place"], "user": "0"}
    before = hash_tree(own_rootfs)
    for open_, expected in ((open_bare_jail, "0000000"), (open_jail, "1111110")):
        async with open_(rootfs=own_rootfs, read_only=True, **given) as j:
            result = await j.run(["sh", "-c", attack])
        assert result.stdout.replace(b"\n", b"").decode() == expected, result.stderr
    assert hash_tree(own_rootfs) == before


LEAKS: Final = {
    "file": ("cat /proc/self/fd/0/file", CANARY),
    "folder": ("ls /proc/self/fd/0/sub", b"file"),
    "climb": ("cat /proc/self/fd/0/../../etc/passwd", b"root:"),
    "program": ("exec /proc/self/fd/0/../../usr/bin/id", b"uid="),
}


@pytest.mark.parametrize("leak", LEAKS)
async def test_a_descriptor_of_the_host_opens_nothing(
    open_jail: OpenJail,
    open_bare_jail: OpenJail,
    monkeypatch: pytest.MonkeyPatch,
    outside: Path,
    leak: str,
) -> None:
    """CVE-2024-21626: a directory that leaked is a way out, up to the host's root."""
    folder = outside if leak in ("file", "folder") else "/usr/bin"

    def open_stdin(*args: Any) -> int:
        fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        args[-1].callback(os.close, fd)
        return fd

    monkeypatch.setattr(Jail, "_open_stdin", open_stdin)
    script, seen = LEAKS[leak]
    async with open_bare_jail() as j:
        assert seen in (await j.run(["sh", "-c", script])).stdout
    async with open_jail() as j:
        refused = await j.run(["sh", "-c", script])
    assert refused.stdout == b""
    assert b"Permission denied" in refused.stderr


async def test_a_program_of_the_host_is_not_executed(
    open_jail: OpenJail, open_bare_jail: OpenJail
) -> None:
    """CVE-2019-5736. The agent's own: /proc/self/exe as interpreter is looked up in the agent."""
    for open_ in (open_bare_jail, open_jail):
        async with open_() as j:
            await j.put("trick", "#!/proc/self/exe -c0\n", mode=0o755)
            if open_ is open_bare_jail:
                assert (await j.run(["./trick"])).exit_code is not None
            else:
                with pytest.raises(ProgramError, match="Permission denied"):
                    await j.run(["./trick"])


# -- devices --------------------------------------------------------------------------------------

ASK_DEVICE: Final = """
import array, fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
fcntl.ioctl(fd, 0x80045200, array.array("i", [0]), True)  # RNDGETENTCNT: random(4)
"""


async def test_a_device_elsewhere_than_in_dev_takes_no_requests(
    open_jail: OpenJail, open_bare_jail: OpenJail, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PF-12, where a volume were not nodev."""
    break_first_wall(monkeypatch, unlock)
    for open_, status in ((open_bare_jail, 0), (open_jail, 1)):
        async with open_(volumes=["/dev:/devices:ro"]) as j:
            asked = await j.run(["python3", "-c", ASK_DEVICE, "/devices/urandom"])
            assert asked.exit_code == status, asked.stderr
            assert (await j.run(["python3", "-c", ASK_DEVICE, "/dev/urandom"])).ok
    assert b"PermissionError" in asked.stderr


async def test_not_even_a_whiteout_is_made(open_jail: OpenJail, open_bare_jail: OpenJail) -> None:
    """PF-12. The kernel itself lets anybody make 0:0, which an overlay takes for “deleted”."""
    make = ["python3", "-c", "import os; os.mknod('/tmp/x', 0o020666, 0)"]
    async with open_bare_jail() as j:
        assert (await j.run(make)).ok
    async with open_jail() as j:
        assert b"PermissionError" in (await j.run(make)).stderr


# -- mounts ---------------------------------------------------------------------------------------


async def test_root_of_a_nested_namespace_mounts_nothing(
    open_jail: OpenJail, open_bare_jail: OpenJail
) -> None:
    """PF-03, FS-22. Without a filter namespaces nest; mount(2) is refused all the same."""
    require("unshare")
    script = "mount -t tmpfs none /tmp && mount --bind /usr /work && umount /work"
    nested = ["unshare", "-Urm", "--propagation", "unchanged", "sh", "-c", script]
    async with open_bare_jail(seccomp="unconfined") as j:
        assert (await j.run(nested)).ok
    async with open_jail(seccomp="unconfined") as j:
        assert j.enforced_by["landlock"] == "ruleset"
        refused = await j.run(nested)
    assert b"permission denied" in refused.stderr.lower(), refused


# -- sockets and signals --------------------------------------------------------------------------

CONNECT: Final = """
import socket, sys
kind = {"stream": socket.SOCK_STREAM, "dgram": socket.SOCK_DGRAM}[sys.argv[1]]
client = socket.socket(socket.AF_UNIX, kind)
client.connect("\\0" + sys.argv[2])
"""
OWN_SOCKET: Final = """
import socket
server = socket.socket(socket.AF_UNIX)
server.bind("\\0own")
server.listen()
socket.socket(socket.AF_UNIX).connect("\\0own")
"""


@pytest.fixture(params=["stream", "dgram"])
def abstract(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """(kind, name) of a socket of the host's."""
    kind = socket.SOCK_STREAM if request.param == "stream" else socket.SOCK_DGRAM
    with closing(socket.socket(socket.AF_UNIX, kind)) as server:
        name = f"jail-test-{uuid.uuid4().hex}"
        server.bind(f"\0{name}")
        if request.param == "stream":
            server.listen()
        yield request.param, name


async def test_an_abstract_socket_of_the_host_can_t_be_reached_by_its_network(
    open_jail: OpenJail, open_bare_jail: OpenJail, abstract: tuple[str, str]
) -> None:
    """What is left of ``--network host`` without it: X11's, a session bus's, containerd's."""
    scoped = read_facts().landlock_abi >= SCOPE_ABI
    connect = ["python3", "-c", CONNECT, *abstract]
    async with open_bare_jail(network="host") as j:
        assert (await j.run(connect)).ok
    async with open_jail(network="host") as j:
        refused = await j.run(connect)
        assert (b"PermissionError" in refused.stderr) is scoped, refused
        assert (await j.run(["python3", "-c", OWN_SOCKET])).ok


ENTER_AND_KILL: Final = """
import os, signal, sys
from jail.kernel import landlock, process
process.prctl(process.PR_SET_NO_NEW_PRIVS, 1)
fd = landlock.landlock_create_ruleset(0, 0, int(sys.argv[2]))
landlock.landlock_restrict_self(fd, 0)
child = os.fork()
if child == 0:
    signal.pause()
os.kill(child, signal.SIGTERM)
assert os.waitpid(child, 0)[1] == signal.SIGTERM
os.kill(int(sys.argv[1]), signal.SIGTERM)
"""


def test_a_signal_goes_no_further_than_the_domain() -> None:
    """NS-07. In a jail the pid namespace leaves no one to aim at, so this is tried without one."""
    if read_facts().landlock_abi < SCOPE_ABI:
        pytest.skip("this host lacks a part: Landlock's scopes")
    rules = plan_rules(read_facts().landlock_abi)
    assert rules is not None
    scoped = rules.scoped
    for flags, ended in ((0, True), (scoped, False)):
        if flags == 0:
            flags = scoped & ~2 or 1
        with subprocess.Popen(["sleep", "60"]) as victim:
            argv = [sys.executable, "-c", ENTER_AND_KILL, str(victim.pid), str(flags)]
            done = subprocess.run(argv, capture_output=True, timeout=20, check=False)
            assert (done.returncode == 0) is ended, done.stderr
            assert ended or b"PermissionError" in done.stderr
            victim.kill()
        assert victim.returncode == (-signal.SIGTERM if ended else -signal.SIGKILL)


# -- and what must go on --------------------------------------------------------------------------


def plan_rules(abi: int) -> Landlock | None:
    facts = replace(read_facts(), landlock_abi=abi)
    return plan_jail(jail.make_spec(), facts).launch.landlock


@pytest.mark.parametrize("abi", range(MIN_ABI, 8))
async def test_every_version_that_this_kernel_has_lets_programs_work(
    abi: int, userns: str, volume: Path
) -> None:
    """It takes the older ones' rulesets, too."""
    real = read_facts()
    if abi > real.landlock_abi:
        pytest.skip(f"NOT-EXERCISED: this kernel's Landlock is version {real.landlock_abi}")
    facts = replace(real, landlock_abi=abi)
    options: dict[str, Any] = {
        "volumes": [f"{volume}:/rw", f"{volume}/sub/file:/one"],
        "tmpfs": ["/deep/tmpfs"],
    }
    async with (
        jail.open_supervisor(facts) as supervisor,
        supervisor.open_jail(userns=userns, **options) as j,
    ):
        assert j.enforced_by["landlock"] == "ruleset"
        for folder in ("/rw", "/work", "/tmp", "/dev/shm", "/deep/tmpfs"):
            made = f"cd {folder}; mkdir -p sub; echo content >file; ln -f file spare"
            assert (await j.run(["sh", "-ec", made])).ok
            answers = await alter(j, folder)
            assert set(answers.values()) == {"OK"}, (folder, answers)
        seen = await j.run(["sh", "-ec", "echo x >/one; cat /one /rw/sub/file"])
        assert seen.stdout == b"x\nx\n", seen.stderr


async def test_nothing_is_refused_that_a_writable_root_allows(
    open_jail: OpenJail, own_rootfs: Path
) -> None:
    """As a package manager works: in every directory, as root."""
    script = (
        "mkdir -p /opt/x/y /var/lib/p; echo new >/etc/passwd.new; mv /etc/passwd.new /etc/passwd;"
        "ln /etc/passwd /opt/x/hard; mv /opt/x /usr/x; mv /usr/x/hard /var/lib/p/; mkfifo /root/f;"
        "rm -r /usr/x; chmod 700 /root; touch /file; rm /file; : >/var/lib/p/hard; echo done"
    )
    async with open_jail(rootfs=own_rootfs, user="0") as j:
        result = await j.run(["sh", "-ec", script])
    assert result.stdout == b"done\n", result.stderr


ORDINARY: Final = """
import ctypes, os, socket, subprocess, sys
os.chdir(sys.argv[1])
# Opened again: what has no name, a pipe, an empty stdin, what is deleted, what is in memory.
fd = os.open(".", os.O_RDWR | os.O_TMPFILE, 0o600)
os.write(fd, b"x")
libc = ctypes.CDLL(None, use_errno=True)
assert libc.linkat(-100, f"/proc/self/fd/{fd}".encode(), -100, b"linked", 0x400) == 0
assert open("linked").read() == "x"
r, w = os.pipe()
with open(f"/proc/self/fd/{w}", "w") as file: file.write("y")
assert os.read(r, 9) == b"y"
assert open("/dev/stdin").read() == ""
gone = os.open("gone", os.O_RDWR | os.O_CREAT, 0o600)
os.unlink("gone")
open(f"/proc/self/fd/{gone}", "r+").write("z")
memory = os.memfd_create("program")
os.write(memory, open("/bin/true", "rb").read())
subprocess.run([f"/proc/self/fd/{memory}"], pass_fds=[memory], check=True)
# Named sockets, links to places outside, locks, times.
server = socket.socket(socket.AF_UNIX); server.bind("socket"); server.listen()
socket.socket(socket.AF_UNIX).connect("socket")
os.symlink("/nowhere/at/all", "dangling")
os.utime("linked"); os.setxattr("linked", "user.x", b"1") if sys.argv[1] == "/rw" else None
# What /proc has for programs to write, terminals, queues, shared memory.
open("/proc/self/comm", "w").write("renamed")
open("/proc/self/task/%d/comm" % os.getpid(), "w").write("renamed")
open("/proc/self/oom_score_adj", "w").write("500")
open("/proc/self/coredump_filter", "w").write("0x33")
master, slave = os.openpty()
os.ttyname(slave); os.get_terminal_size(slave); os.isatty(slave)
open(os.ttyname(slave), "w").write("to the terminal")
for name in ("null", "zero", "full", "random", "urandom"):
    assert not os.isatty(os.open(f"/dev/{name}", os.O_RDWR))
assert libc.mq_open(b"/queue", os.O_CREAT | os.O_RDWR, 0o600, None) >= 0
from multiprocessing import shared_memory
shared = shared_memory.SharedMemory(create=True, size=10); shared.close(); shared.unlink()
print("ordinary")
"""


@pytest.mark.parametrize("place", ["/work", "/tmp", "/rw", "/tmpfs"])
async def test_what_programs_do_with_files_they_still_do(
    open_jail: OpenJail, volume: Path, place: str
) -> None:
    async with open_jail(volumes=[f"{volume}:/rw"], tmpfs=["/tmpfs"]) as j:
        result = await j.run(["python3", "-c", ORDINARY, place])
    assert result.stdout == b"ordinary\n", result.stderr.decode()


async def test_whoever_requires_it_is_told_how_to_get_it(open_bare_jail: OpenJail) -> None:
    with pytest.raises(HostError, match="require landlock=ruleset") as caught:
        async with open_bare_jail(require={"landlock": "ruleset"}):
            pytest.fail("it was opened")
    assert caught.value.step == "landlock"
