"""Set-id files: with one id they would be the invoking user's, for everybody on the host."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.conftest import OpenJail
from tests.part import not_exercised
from tests.tree import run_python

MiB = 1024 * 1024


# -- FS-10: set-id ---------------------------------------------------------------------------------
MINT = """
import json, os, shutil, stat, subprocess, sys
os.chdir(sys.argv[1])
done = {}
def attempt(name, work):
    try:
        work()
    except OSError as error:
        done[name] = error.errno
    else:
        done[name] = 0
for bit in (0o4000, 0o2000, 0o6000):
    mode = bit | 0o755
    name = f"{bit:o}"
    shutil.copy("/usr/bin/env", name + "f")
    attempt(name + " chmod", lambda: os.chmod(name + "f", mode))
    fd = os.open(name + "f", os.O_RDONLY)
    attempt(name + " fchmod", lambda: os.fchmod(fd, mode))
    attempt(name + " fchmodat", lambda: os.chmod(name + "f", mode, dir_fd=os.open(".", 0)))
    attempt(name + " proc", lambda: os.chmod(f"/proc/self/fd/{fd}", mode))
    attempt(name + " open", lambda: os.open(name + "o", os.O_CREAT | os.O_WRONLY, mode))
    attempt(name + " tmpfile", lambda: os.open(".", os.O_TMPFILE | os.O_WRONLY, mode))
    attempt(name + " mknod", lambda: os.mknod(name + "n", stat.S_IFREG | mode))
    attempt(name + " mkfifo", lambda: os.mkfifo(name + "p", mode))
    attempt(name + " install", lambda: subprocess.run(
        ["install", "-m", f"{mode:o}", "/usr/bin/env", name + "i"], check=True, stderr=-3))
    attempt(name + " tar", lambda: None)
found = sorted(n for n in os.listdir(".") if os.lstat(n).st_mode & 0o6000)
print(json.dumps({"done": done, "found": found}))
"""


def mint_outside(folder: Path) -> dict[str, Any]:
    folder.mkdir()
    source = MINT.replace("check=True, stderr=-3", "check=False, stderr=-3")
    done = subprocess.run(
        [sys.executable, "-c", source, str(folder)], capture_output=True, check=True, timeout=20
    )
    shutil.rmtree(folder)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


async def test_fs_10_no_set_id_file_is_ever_made(
    open_jail: OpenJail, share: Path, tmp_path: Path
) -> None:
    """With one id they would be the invoking user's, for everybody on the host to run."""
    control = mint_outside(tmp_path / "control")
    if not control["found"]:
        not_exercised("not even without a jail can this user make a set-id file here")
    source = MINT.replace("check=True, stderr=-3", "check=False, stderr=-3")
    async with open_jail(volumes=[f"{share}:/share"]) as j:
        for place in ("/share", "/work", "/tmp"):
            answer = json.loads(await run_python(j, source, place))
            assert answer["found"] == [], place
            worked = {name for name, code in control["done"].items() if code == 0}
            for name in worked - {n for n in worked if n.endswith((" install", " tar"))}:
                assert answer["done"][name] == errno.EPERM, (place, name)
    bits = {name: os.lstat(share / name).st_mode & 0o6000 for name in os.listdir(share)}
    assert bits
    assert not any(bits.values()), bits


XATTRS = """
import json, os, struct, sys
os.chdir(sys.argv[1])
open("f", "w").close()
done = {}
acl = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHi", *entry) for entry in
    ((1, 6, -1), (2, 7, 12345), (4, 4, -1), (16, 7, -1), (32, 4, -1)))
for name, value in {
    "security.capability": struct.pack("<5I", 0x02000001, 0xffffffff, 0, 0xffffffff, 0),
    "security.ima": b"x", "trusted.x": b"x",
    "system.posix_acl_access": acl,
}.items():
    try:
        os.setxattr("f", name, value)
        done[name] = 0
    except OSError as error:
        done[name] = error.errno
print(json.dumps(done))
"""


async def test_fs_10_no_capability_and_no_label_is_given_to_a_file(
    open_jail: OpenJail, share: Path
) -> None:
    for user in (None, "0"):
        async with open_jail(volumes=[f"{share}:/share"], user=user) as j:
            done = json.loads(await run_python(j, XATTRS, "/share"))
        done.pop("system.posix_acl_access")  # an owner's right, and no more than a mode can give
        assert all(done.values()), done
    names = os.listxattr(share / "f")
    assert not [
        name for name in names if name.startswith(("security.cap", "security.ima", "trust"))
    ]


async def test_fs_10_set_id_bits_are_dropped_at_the_boundary(
    open_jail: OpenJail, share: Path, tmp_path: Path
) -> None:
    (share / "minted").write_text("x")
    (share / "minted").chmod(0o6755)
    (share / "d").mkdir()
    (share / "d").chmod(0o2755)
    if (share / "minted").stat().st_mode & 0o6000 != 0o6000:
        not_exercised("this file system keeps no set-id bits")
    async with open_jail(volumes=[f"{share}:/share"]) as j:
        await j.put("/share/put", b"x", mode=0o6755)
        await j.put_tree(share, "/tmp/copy")
        listed = (await j.run(["sh", "-c", "stat -c %a /tmp/copy/minted /share/put"])).stdout
        await j.get_tree("/share", tmp_path / "out")
        await j.put("/share/minted", b"new", mode=0o4755)
    assert listed == b"755\n755\n"
    for path in (tmp_path / "out/minted", tmp_path / "out/d", share / "put", share / "minted"):
        assert not path.stat().st_mode & 0o6000, path
    (share / "d").chmod(0o755)
