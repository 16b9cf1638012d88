"""What /proc says of the supervisor, and where its magic links lead."""

from __future__ import annotations

import contextlib
import errno
import getpass
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from jail import Jail, ProgramError, Supervisor, TransferError
from tests.attacks.payload import run_inside, run_outside
from tests.attacks.sentinel import hash_files, hash_tree, make_secret, to_needles
from tests.conftest import OpenJail
from tests.part import not_exercised

# -- what there is to know ------------------------------------------------------------------------


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """What the supervisor has and a program must not learn: name → word."""
    planted = make_secret()
    monkeypatch.setenv("JAIL_TEST_SECRET", planted)
    return {
        "environment": planted,
        "home": str(Path.home()),
        "user": getpass.getuser(),
        "folder": str(tmp_path),
        "checkout": os.getcwd(),
        "interpreter": sys.prefix,
        "sibling": make_secret(),
    }


async def test_nothing_in_proc_tells_of_the_supervisor(
    supervisor: Supervisor, userns: str, secrets: dict[str, str]
) -> None:
    """PF-07. Not its environment, its paths, its user's name; nothing of a sibling, no address."""
    needles = to_needles(secrets.values())
    outside = run_outside("survey", "/proc/self", input=needles)
    for control in ("environment", "home"):
        found = outside["found"][secrets[control].encode().hex()]
        assert "/proc/self/environ" in found, "outside a program has them"
    name = f"sibling-{secrets['sibling']}"[:60]
    async with (
        supervisor.open_jail(userns=userns, hostname=name, env={"X": name}) as sibling,
        sibling.start(["sh", "-c", f"read {name.replace('-', '_')}"]),
        supervisor.open_jail(userns=userns) as j,
    ):
        inside = await run_inside(j, "survey", input=needles)
    names = {word.encode().hex(): name for name, word in secrets.items()}
    assert {names[word]: paths for word, paths in inside["found"].items() if paths} == {}
    assert inside["addresses"] == []
    assert inside["size"] > 10_000


async def test_process_1_is_nobody_s_child_and_opaque(open_jail: OpenJail) -> None:
    """PF-07. The agent's memory, environment, descriptors and links can't be opened."""
    shut = ("environ", "maps", "mem", "auxv", "fd", "io", "stack", "syscall", "exe", "root", "cwd")
    script = f"for n in {' '.join(shut)}; do cat /proc/1/$n >/dev/null 2>&1 && echo $n; done; :"
    async with open_jail() as j:
        opened = await j.run(["sh", "-c", script + "; ls /proc/1/fd /proc/1/map_files"])
        status = await j.run(["cat", "/proc/1/status", "/proc/1/cmdline", "/proc/1/cgroup"])
    assert opened.stdout == b""
    lines = status.stdout.decode().replace("\0", "").splitlines()
    assert {"PPid:\t0", "Tgid:\t1", "NSpid:\t1"} <= set(lines)
    assert all(line.endswith(":/") for line in lines if line[:1].isdigit()), "the cgroup's root"


# -- overwriting what runs us ---------------------------------------------------------------------

OVERWRITE: Final = r"""#!/proc/self/exe
import os, sys
done = []
def attempt(name, act):
    try: act(); done.append(name)
    except OSError: pass
def reopen(path):
    fd = os.open(path, os.O_PATH)
    os.close(os.open(f"/proc/self/fd/{fd}", os.O_WRONLY))
for path in sys.argv[1:] + ["/proc/self/exe", "/proc/1/exe", f"/proc/{os.getppid()}/exe"]:
    attempt(f"write {path}", lambda: os.close(os.open(path, os.O_WRONLY)))
    attempt(f"append {path}", lambda: os.close(os.open(path, os.O_WRONLY | os.O_APPEND)))
    attempt(f"reopen {path}", lambda: reopen(path))
    attempt(f"truncate {path}", lambda: os.truncate(path, 0))
    if not os.readlink("/proc/self/exe").startswith("/memfd:"):
        attempt(f"chmod {path}", lambda: os.chmod(path, 0o777))
        attempt(f"chown {path}", lambda: os.chown(path, os.getuid(), os.getgid()))
        attempt(f"xattr {path}", lambda: os.setxattr(path, "user.x", b"x"))
        attempt(f"utime {path}", lambda: os.utime(path, (0, 0)))
    attempt(f"link {path}", lambda: os.link(path, "/tmp/link", follow_symlinks=True))
print("tried", *done, sep="\n")
"""


@pytest.fixture(params=["system", "own"])
def interpreter(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """The supervisor's: the system's, or one of the user's own, as pyenv, conda and uv install."""
    path = Path(sys.executable).resolve()
    if request.param == "own":
        path = Path(shutil.copy2(path, tmp_path))
        monkeypatch.setattr(sys, "executable", str(path))
    elif os.access(path, os.W_OK):
        not_exercised("this interpreter is the user's own")
    yield path
    if request.param == "own":
        path.unlink()


def list_ours(interpreter: Path) -> list[Path]:
    """The files that run a jail."""
    ours = [path for name in ("jail", "agent") for path in Path(name).rglob("*.py")]
    return [Path("/usr/bin/python3"), Path("/usr/bin/env"), interpreter, *ours]


@pytest.mark.parametrize("volume", [False, True])
async def test_the_interpreter_that_runs_the_agent_can_t_be_changed(
    interpreter: Path,
    open_jail: OpenJail,
    open_bare_jail: OpenJail,
    volume: bool,
    tmp_path: Path,
) -> None:
    """PF-08, CVE-2019-5736. With a ``#!`` of /proc/self/exe one is the agent's own program.

    With a volume to write to the program has the user's own id in either way to map ids. Landlock
    executes nothing that isn't below the jail's root, or in memory; without it the trick works.
    """
    watched = list_ours(interpreter)
    before = hash_files(watched)
    data = tmp_path / "data"
    data.mkdir()
    volumes = [f"{data}:/data"] if volume else []
    for open_ in (open_jail, open_bare_jail):
        async with open_(volumes=volumes) as j:
            await j.put("/work/trick", OVERWRITE, mode=0o755)
            await j.put("/work/plain.py", OVERWRITE)
            plain = await j.run(["python3", "/work/plain.py", "/usr/bin/env", str(interpreter)])
            assert plain.stdout == b"tried\n", plain
            try:
                trick = await j.run(["/work/trick", "/usr/bin/env", str(interpreter)])
                assert trick.stdout == b"tried\n", trick
            except ProgramError as error:
                assert (error.errno, j.enforced_by["landlock"]) == (errno.EACCES, "ruleset")
    assert hash_files(watched) == before


# -- where links lead -----------------------------------------------------------------------------


@pytest.mark.parametrize("user", [None, "0"])
async def test_every_magic_link_stays_inside(open_jail: OpenJail, user: str | None) -> None:
    """PF-09. From root, cwd and descriptors of any process one climbs to the jail's own root."""
    outside = run_outside("links")
    own = os.stat("/")
    assert outside[f"/proc/{os.getpid()}/root"] == f"{own.st_dev}:{own.st_ino}"
    async with open_jail(user=user) as j, j.start(["sleep", "60"]):
        inside = await run_inside(j, "links")
    root = inside.pop("/")
    assert root != outside["/"]
    assert len({link.split("/")[2] for link in inside}) == 3, "the agent, sleep and the payload"
    for link, answer in inside.items():
        _, _, pid, kind, *_ = link.split("/")
        if pid == "1":
            assert answer == "Permission denied", link
        elif kind in ("root", "cwd"):
            assert answer == root, link


async def find_cwd(j: Jail, cwd: str) -> str:
    """Where a program finds itself that is started there; "" where it can't be."""
    with contextlib.suppress(ProgramError):
        script = "pwd -P; stat -c %d:%i / ../../../../../../.."
        result = await j.run(["sh", "-c", script], cwd=cwd)
        assert result.ok, result.stderr
        where, *inodes = result.stdout.decode().splitlines()
        assert len(set(inodes)) == 1, f"from {cwd} one climbs to another root"
        return where
    return ""


async def test_no_working_directory_is_a_way_out(open_jail: OpenJail, root: str | Path) -> None:
    """PF-09, CVE-2024-21626. The agent's descriptors, named as a directory to start in."""
    async with open_jail(rootfs=root) as j:
        assert await find_cwd(j, "/work") == "/work"
        for number in range(3, 64):
            assert await find_cwd(j, f"/proc/self/fd/{number}") == "", number
            assert await find_cwd(j, f"/proc/1/fd/{number}/..") == "", number
        for link in ("/proc/self/root", "/proc/self/cwd", "/proc/1/root"):
            assert await find_cwd(j, link) in ("", "/"), link


async def test_no_descriptor_of_the_agent_is_a_way_for_files_or_interpreters(
    open_jail: OpenJail, root: str | Path, tmp_path: Path
) -> None:
    """PF-09, FS-02. A program plants links; the caller reads and writes by innocent names."""
    canary, secret = tmp_path / "canary", make_secret()
    canary.write_text(secret)
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o755)
    script = "n=3; while [ $n -lt 40 ]; do ln -s /proc/self/fd/$n/..$0 way$n; n=$((n+1)); done"
    before = hash_tree(tmp_path)
    async with open_jail(rootfs=root) as j:
        assert (await j.run(["sh", "-c", script, str(tmp_path)])).ok
        for number in range(3, 40):
            with pytest.raises(TransferError):
                await j.get(f"way{number}/canary")
            with pytest.raises(TransferError):
                await j.put(f"way{number}/planted", "planted")
            interpreter = f"#!/proc/self/fd/{number}/../bin/sh\n"
            await j.put("trick", interpreter, mode=0o755)
            with pytest.raises(ProgramError):
                await j.run(["/work/trick"])
    assert hash_tree(tmp_path) == before
