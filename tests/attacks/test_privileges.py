"""Nobody becomes more than he is: set-id programs, file capabilities, groups."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.conftest import OpenJail
from tests.part import not_exercised, require
from tests.probe import Probe, make_call

# -- set-id programs ------------------------------------------------------------------------------

SET_ID_PROGRAMS: Final = ("su", "mount", "umount", "passwd", "newuidmap", "chsh", "newgrp")
SHOW_VECTOR: Final = {"LD_SHOW_AUXV": "1"}
FILE_CAPABILITY: Final = """
import os, struct, sys
everything = [0xFFFFFFFF] * 4
value = struct.pack("<IIIII", 0x02000001, *everything)
os.setxattr(sys.argv[1], "security.capability", value)
"""


@pytest.fixture
def set_id_program() -> str:
    """One of the host's that becomes root for everybody, and which the loader treats so."""
    for name in SET_ID_PROGRAMS:
        if is_set_id(Path("/usr/bin", name)):
            return f"/usr/bin/{name}"
    return not_exercised("no set-id program in /usr/bin whose bits do something")


def is_set_id(path: Path) -> bool:
    if not path.exists() or not path.stat().st_mode & 0o4000:
        return False
    command = [str(path), "--help"]
    done = subprocess.run(command, env=SHOW_VECTOR, capture_output=True, timeout=10, check=False)
    return b"AT_EUID" not in done.stdout


async def test_the_host_s_set_id_programs_give_no_other_id(
    open_jail: OpenJail, set_id_program: str
) -> None:
    """NS-05. The loader shows the auxiliary vector of programs that are nothing special."""
    async with open_jail() as j:
        result = await j.run([set_id_program, "--help"], env=SHOW_VECTOR)
    lines = [line for line in result.stdout.decode().splitlines() if line.startswith("AT_")]
    vector = {name: value.strip() for name, value in (line.split(":", 1) for line in lines)}
    assert vector["AT_SECURE"] == "0"
    assert vector["AT_UID"] == vector["AT_EUID"] == vector["AT_GID"] == vector["AT_EGID"] == "1000"


@pytest.fixture(params=["set-id", "capabilities"])
def blessed_rootfs(
    request: pytest.FixtureRequest, own_rootfs: Path, probe: Probe
) -> Iterator[Path]:
    """In it /bin/identity has the bits, or the capabilities, of our own id: root's, in ``auto``."""
    require("unshare")
    program = own_rootfs / "bin/identity"
    program.write_bytes(probe.path.read_bytes())
    program.chmod(0o6755 if request.param == "set-id" else 0o755)
    if request.param == "capabilities":
        bless = ["unshare", "-Ur", "python3", "-c", FILE_CAPABILITY, str(program)]
        subprocess.run(bless, check=True, timeout=10)
    yield own_rootfs
    program.unlink()


def run_as_stranger(folder: Path, *argv: str) -> str:
    """As id 1 of a namespace whose root is our own id; ``folder`` is its /tmp."""
    script = 'mount --bind "$0" /tmp && exec setpriv --reuid 1 --regid 1 --clear-groups "$@"'
    root = ["unshare", "-Um", "--map-auto", "--map-root-user", "sh", "-c", script, str(folder)]
    done = subprocess.run([*root, *argv], capture_output=True, text=True, timeout=10, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_a_set_id_or_capable_file_of_the_root_s_owner_gives_nothing(
    open_jail: OpenJail, blessed_rootfs: Path
) -> None:
    """NS-05. Its owner may be root inside: without no_new_privs and nosuid that is a way up."""
    require("subuid", "setpriv")
    plain = "uid {0} {0} {0}\ngid {0} {0} {0}\ncaps 0000000000000000\n"
    outside = run_as_stranger(blessed_rootfs / "bin", "/tmp/identity", "identity")
    if outside == plain.format(1):
        not_exercised("a file's set-id bits and capabilities give nothing here")
    async with open_jail(rootfs=blessed_rootfs) as j:
        result = await j.run(["/bin/identity", "identity"])
    assert result.stdout.decode() == plain.format(1000)


# -- groups ---------------------------------------------------------------------------------------

OWNER, GROUP = 2000, 50  # subordinate ids, by their numbers in a namespace that maps them all
AS_MANY: Final = (
    *("unshare", "-U", f"--map-user={os.getuid()}", f"--map-group={os.getgid()}"),
    *("--map-auto", "--setuid", "0", "--setgid", "0"),
)
MAKE_FILES: Final = """
import os, sys
for name, mode in (("for_the_group", 0o640), ("not_for_the_group", 0o604)):
    path = os.path.join(sys.argv[1], name)
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
    os.chmod(path, mode)
    os.chown(path, *map(int, sys.argv[2:]))
"""
JOIN: Final = """
import os, sys
uid, gid, groups = int(sys.argv[1]), int(sys.argv[2]), [int(n) for n in sys.argv[3].split()]
os.setgroups(groups)
os.setresgid(gid, gid, gid)
os.setresuid(uid, uid, uid)
os.execv(sys.argv[4], sys.argv[4:])
"""
READ: Final = """
import json, os, sys
readable = {}
def look():
    for name in ("for_the_group", "not_for_the_group"):
        try: open(f"{sys.argv[1]}/{name}").close(); readable[name] = True
        except PermissionError: readable[name] = False
def leave():
    try: os.setgroups([]); return "OK"
    except OSError as error: return error.strerror
left = leave() if len(sys.argv) > 2 else ""
look()
print(json.dumps([readable, left, open("/proc/self/setgroups").read().strip()]))
"""
DRIVE: Final = """
import json, sys, trio, jail
seccomp, volume, source = sys.argv[1:]
argv = ["/usr/bin/python3", "-c", source, "/data", "leave"]
async def main():
    options = dict(userns="single", seccomp=seccomp, volumes=[f"{volume}:/data:ro"])
    async with jail.open_jail(**options) as j:
        result = await j.run(argv)
        assert result.ok, (result.message, result.stderr)
        print(json.dumps([json.loads(result.stdout), list(j.plan.notes)]))
trio.run(main)
"""


@pytest.fixture
def group_folder(tmp_path: Path) -> Iterator[Path]:
    """A stranger's files, for (and not for) a group that is none of ours on the host."""
    require("subuid", "unshare")
    folder = tmp_path / "group"
    folder.mkdir()
    ids = (str(OWNER), str(GROUP))
    make = [*AS_MANY, "python3", "-c", MAKE_FILES, str(folder), *ids]
    subprocess.run(make, check=True, timeout=10)
    yield folder
    subprocess.run([*AS_MANY, "rm", "-r", str(folder)], check=True, timeout=10)


def run_in_groups(groups: str, *argv: str) -> Any:
    """As ourselves, with these supplementary groups."""
    ids = (str(os.getuid()), str(os.getgid()))
    command = [*AS_MANY, "python3", "-c", JOIN, *ids, groups, *argv]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("seccomp", ["default", "unconfined"])
def test_a_group_that_can_t_be_dropped_still_holds_back(group_folder: Path, seccomp: str) -> None:
    """NS-14. One mapped id: a file that a group may not read stays shut (CVE-2014-8989).

    The other side of that coin is in the notes: what a group may read of a volume is readable.
    """
    folder = str(group_folder)
    mine, _, _ = run_in_groups(f"{GROUP}", sys.executable, "-c", READ, folder)
    assert mine == {"for_the_group": True, "not_for_the_group": False}
    nobodys, _, _ = run_in_groups("", sys.executable, "-c", READ, folder)
    assert nobodys == {"for_the_group": False, "not_for_the_group": True}
    drive = (sys.executable, "-c", DRIVE, seccomp, folder, READ)
    inside, notes = run_in_groups(f"{GROUP}", *drive)
    readable, answer, setgroups = inside
    assert (answer, setgroups) == ("Operation not permitted", "deny")
    assert readable == {"for_the_group": True, "not_for_the_group": False}
    assert any("supplementary groups stay" in note for note in notes)


async def test_the_groups_of_the_user_stay_outside(
    open_jail: OpenJail, userns: str, probe: Probe
) -> None:
    """NS-14. Dropped where the maps allow it; and nobody has any more by asking."""
    if not os.getgroups():
        not_exercised("this user has no supplementary group")
    async with open_jail() as j:
        listed = await j.run(["grep", "Groups", "/proc/self/status", "/proc/1/status"])
        again = await probe.try_calls(j, [make_call("setgroups", 0, 0)])
    lines = listed.stdout.decode().splitlines()
    assert len(lines) == 2
    if userns == "auto":
        assert all(line.split("Groups:")[1].split() == [] for line in lines)
    assert again == {"setgroups": "EPERM"}
