"""A root filesystem is untrusted: what it puts where the jail mounts things leads nowhere else."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from jail import HostError, Jail, SpecError, TransferError
from tests.attacks.sentinel import hash_tree, make_secret
from tests.conftest import OpenJail

MOUNT_POINTS: Final = ("proc", "dev", "tmp", "work")
OTHERS: Final = ("sys", "etc", "root", "home", "mnt")
DEADLINE_S: Final = 10

Trap = Callable[[Path], None]


@pytest.fixture
def outside() -> Iterator[Path]:
    """A directory of the host, as full as a mount point would be.

    Not in /tmp, where a jail is built and all else is hidden meanwhile.
    """
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        for below in ("shm", "pts", "sys", "self"):
            (folder / below).mkdir()
        (folder / "secret").write_text(make_secret())
        yield folder


def make_traps(outside: Path) -> dict[str, Trap]:
    """kind → puts it there."""

    def link_to(target: str) -> Trap:
        return lambda path: path.symlink_to(target)

    return {
        "absolute": link_to(str(outside)),
        "relative": link_to("../" * 40 + str(outside)[1:]),
        "own root": link_to("/proc/self/root"),
        "own directory": link_to("/proc/self/cwd"),
        "descriptor": link_to("/proc/self/fd/3"),
        "parent": link_to(f"/proc/{os.getpid()}/root{outside}"),
        "inside": link_to("/var"),
        "loop": lambda path: path.symlink_to(path.name),
        "dangling": link_to("/nowhere"),
        "file": lambda path: path.write_text("no directory"),
        "fifo": os.mkfifo,
    }


def make_sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**40)


def set_trap(root: Path, name: str, trap: Trap) -> None:
    path = root / name
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    trap(path)


@pytest.mark.parametrize("name", MOUNT_POINTS)
async def test_no_mount_point_may_be_anything_but_a_directory(
    open_jail: OpenJail, own_rootfs: Path, outside: Path, name: str
) -> None:
    """PF-04, CVE-2019-19921, CVE-2026-47766, CVE-2026-41579. The start is refused."""
    before = hash_tree(outside)
    for kind, trap in make_traps(outside).items():
        set_trap(own_rootfs, name, trap)
        for read_only in (False, True):
            with pytest.raises(HostError, match=f"/{name} is no directory"):
                async with open_jail(rootfs=own_rootfs, read_only=read_only):
                    pytest.fail(f"/{name} as {kind} was taken")
    assert hash_tree(outside) == before


async def try_to_use(j: Jail, path: str) -> str:
    """What a program finds there, after it has tried to leave something."""
    script = f"cat {path}/secret 2>&1; echo x 2>&1 > {path}/planted; mkdir {path}/new 2>&1; :"
    return (await j.run(["sh", "-c", script], timeout=DEADLINE_S)).stdout.decode()


@pytest.mark.parametrize("name", OTHERS)
async def test_a_link_that_nothing_is_mounted_on_stays_in_the_root(
    open_jail: OpenJail, own_rootfs: Path, outside: Path, name: str
) -> None:
    """PF-04. Left as it is; what follows it finds the jail's own files, or nothing."""
    before, secret = hash_tree(outside), (outside / "secret").read_text()
    for kind, trap in make_traps(outside).items():
        set_trap(own_rootfs, name, trap)
        if kind == "absolute":
            assert (own_rootfs / name / "secret").read_text() == secret, "the host follows it"
        async with open_jail(rootfs=own_rootfs) as j:
            assert secret not in await try_to_use(j, f"/{name}")
            with pytest.raises(TransferError):
                await j.get(f"/{name}/secret")
    assert hash_tree(outside) == before


@pytest.mark.parametrize("give", ["volume", "tmpfs"])
async def test_what_is_given_is_mounted_inside_or_not_at_all(
    open_jail: OpenJail, own_rootfs: Path, outside: Path, give: str, tmp_path: Path
) -> None:
    """PF-04, CVE-2026-41579. A target that is a link, or lies behind one."""
    before, data = hash_tree(outside), tmp_path / "data"
    data.mkdir()
    started = 0
    for trap in make_traps(outside).values():
        set_trap(own_rootfs, "data", trap)
        for target in ("/data", "/data/shm", "/data/new/deep"):
            given = {"volumes": [f"{data}:{target}"]} if give == "volume" else {"tmpfs": [target]}
            try:
                async with open_jail(rootfs=own_rootfs, **given) as j:
                    await try_to_use(j, target)
                    started += 1
            except HostError:
                continue
    assert hash_tree(outside) == before
    assert started > 0, "a link to the inside leads there"


async def test_links_within_dev_and_proc_are_covered(
    open_jail: OpenJail, own_rootfs: Path, outside: Path
) -> None:
    """PF-04. /dev/shm, /dev/pts and /dev/null of the tree are below what is mounted there."""
    before = hash_tree(outside)
    for name in ("dev/shm", "dev/pts", "dev/null", "proc/sys", "proc/self"):
        (own_rootfs / name).symlink_to(outside)
    async with open_jail(rootfs=own_rootfs) as j:
        listed = await j.run(["stat", "-c", "%F", "/dev/shm", "/dev/pts", "/dev/null", "/proc/sys"])
        await j.run(["sh", "-c", "echo x > /dev/shm/planted"])
    kinds = listed.stdout.decode().splitlines()
    assert kinds == ["directory", "directory", "character special file", "directory"]
    assert hash_tree(outside) == before


async def test_users_are_looked_up_in_the_root_itself(
    open_jail: OpenJail, own_rootfs: Path, outside: Path
) -> None:
    """PF-04, UM-03. An etc/passwd that leads out, that blocks or never ends is an empty one."""
    (outside / "passwd").write_text("stranger:x:7:7::/:/bin/sh\n")
    endless: dict[str, Trap] = {
        "zero": lambda path: path.symlink_to("/dev/zero"),
        "sparse": make_sparse,
        "host": lambda path: path.symlink_to(outside / "passwd"),
    }
    for trap in (*make_traps(outside).values(), *endless.values()):
        set_trap(own_rootfs, "etc/passwd", trap)
        with pytest.raises(SpecError, match="there is no 'stranger'"):
            async with open_jail(rootfs=own_rootfs, user="stranger"):
                pytest.fail("it was found")
    set_trap(own_rootfs, "etc/passwd", lambda path: path.symlink_to("/root/passwd"))
    (own_rootfs / "root/passwd").write_text("stranger:x:7:8::/:/bin/sh\n")
    async with open_jail(rootfs=own_rootfs, user="stranger") as j:
        assert (await j.run(["id", "-u"])).stdout == b"7\n", "a link to the inside leads there"
