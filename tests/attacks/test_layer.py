"""Roots, layers and mounts: no way out, nothing that stays, no path that is an option."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from jail import Volume
from tests.conftest import OpenJail
from tests.part import not_exercised
from tests.probe import Probe, make_call
from tests.tree import attempt, hash_tree, run_python

MiB = 1024 * 1024


# -- FS-01: out through the root -------------------------------------------------------------------
async def test_fs_01_no_call_leads_out_of_the_root(
    open_jail: OpenJail, probe: Probe, tmp_path: Path
) -> None:
    calls = [
        make_call("chroot", "bad"),
        make_call("pivot_root", "bad", "bad"),
        make_call("open_by_handle_at", -1, "bad", 0),
        make_call("setns", -1, 0),
        make_call("mount", "bad", "bad", "bad", 0, 0),
        make_call("umount2", "bad", 2),
    ]
    exercised = probe.find_exercised(tmp_path, calls)
    if not exercised:
        not_exercised("none of these calls is open to anybody on this kernel")
    async with open_jail() as j:
        answers = await probe.try_calls(j, calls)
    assert {answers[label] for label in exercised} <= {"EPERM", "ENOSYS"}, answers


CLIMB = """
import os
top = os.stat("/")
fd = os.open("/", os.O_RDONLY)
os.makedirs("/tmp/a/b", exist_ok=True)
os.chdir("/tmp/a/b")
for _ in range(50): os.chdir("..")
seen = [os.stat("."), os.stat("/.."), os.stat("..", dir_fd=fd), os.stat("/proc/self/root/..")]
seen += [os.stat("/proc/self/cwd/../.."), os.stat("/proc/self/root/proc/self/root")]
os.fchdir(fd); os.chdir("../../..")
seen.append(os.stat("."))
print({(each.st_dev, each.st_ino) for each in seen} == {(top.st_dev, top.st_ino)})
print(top.st_dev, top.st_ino)
"""


async def test_fs_01_dots_end_at_the_jail_s_root(open_jail: OpenJail) -> None:
    async with open_jail() as j:
        same, place = (await run_python(j, CLIMB)).splitlines()
    found = os.stat("/")
    assert same == "True"
    assert place != f"{found.st_dev} {found.st_ino}"


# -- FS-11: mounts ---------------------------------------------------------------------------------
def read_mounts() -> str:
    return Path("/proc/self/mountinfo").read_text()


async def test_fs_11_no_mount_passes_in_either_direction(
    open_jail: OpenJail, share: Path, own_rootfs: Path
) -> None:
    before = read_mounts()
    for options in ({}, {"rootfs": own_rootfs}):
        async with open_jail(volumes=[f"{share}:/v"], tmpfs=["/t"], **options) as j:
            assert read_mounts() == before
            inside = (await j.run(["cat", "/proc/self/mountinfo"])).stdout.decode()
        for line in inside.splitlines():
            optional = line.split()[6 : line.split().index("-")]
            assert optional == [], "a peer elsewhere would hear of mounts here"
    assert read_mounts() == before


# -- FS-13: the tree below the overlay -------------------------------------------------------------
SPOIL = """
import ctypes, mmap, os
def attempt(work):
    try: work()
    except OSError as error: return error.errno
    return 0
def write(path, flags=0):
    fd = os.open(path, os.O_RDWR | flags)
    os.write(fd, b"spoilt")
    os.fsync(fd)
def by_mmap(path):
    fd = os.open(path, os.O_RDWR)
    with mmap.mmap(fd, 6, mmap.MAP_SHARED) as view:
        view[:6] = b"spoilt"; view.flush()
def by_old_fd(path):
    old = os.open(path, os.O_RDONLY)
    write(path)
    write(f"/proc/self/fd/{old}")
    os.fchmod(old, 0o777)
def by_tmpfile(folder):
    fd = os.open(folder, os.O_TMPFILE | os.O_RDWR)
    os.write(fd, b"spoilt")
    os.link(f"/proc/self/fd/{fd}", folder + "/linked", follow_symlinks=True)
def by_private_mmap_of_a_program():
    with open("/tree/1", "rb") as file, mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE) as view:
        view[:3] = b"xxx"
done = [
    attempt(lambda: write("/tree/1")), attempt(lambda: write("/tree/2", os.O_TRUNC)),
    attempt(lambda: by_mmap("/tree/3")), attempt(lambda: by_old_fd("/tree/4")),
    attempt(lambda: by_tmpfile("/tree")), attempt(lambda: os.unlink("/tree/5")),
    attempt(lambda: os.rename("/tree/6", "/tree/7")),
    attempt(lambda: os.link("/tree/8", "/tree/l")),
    attempt(lambda: write("/tree/l")), attempt(lambda: os.chmod("/tree/9", 0o777)),
    attempt(lambda: os.utime("/tree/1", (0, 0))), attempt(lambda: os.rename("/tree/d", "/tree/e")),
    attempt(lambda: os.setxattr("/tree/1", "user.x", b"x")),
    attempt(lambda: os.rmdir("/tree/empty")),
    attempt(by_private_mmap_of_a_program), attempt(lambda: os.truncate("/tree/8", 0)),
    attempt(lambda: os.symlink("/tree/1", "/tree/s")), attempt(lambda: write("/tree/s")),
]
for path in ("/overlay-upper", "/overlay-work", "/work/work", "/proc/self/fd/5", "/tree/.wh.1"):
    attempt(lambda: write(path))
print(done.count(0))
print(open("/tree/1").read(), os.path.exists("/tree/5"))
"""


def add_python(rootfs: Path) -> list[str]:
    """The host's interpreter in a root of busybox; gives the volumes that it takes."""
    shutil.rmtree(rootfs / "usr")
    (rootfs / "usr").mkdir()
    for name in ("lib", "lib64"):
        if os.path.islink(f"/{name}"):
            (rootfs / name).symlink_to(os.readlink(f"/{name}"))
    return ["/usr:/usr:ro"]


@pytest.mark.parametrize("user", [None, "0"])
async def test_fs_13_a_lower_tree_is_never_changed(
    open_jail: OpenJail, own_rootfs: Path, user: str | None
) -> None:
    volumes = add_python(own_rootfs)
    tree = own_rootfs / "tree"
    (tree / "d/inner").mkdir(parents=True)
    (tree / "empty").mkdir()
    for number in range(1, 10):
        (tree / str(number)).write_text("original")
        (tree / str(number)).chmod(0o666)
    tree.chmod(0o777)
    before = hash_tree(own_rootfs)
    for _ in range(2):
        async with open_jail(rootfs=own_rootfs, volumes=volumes, user=user) as j:
            worked, *rest = (await run_python(j, SPOIL)).splitlines()
        assert int(worked) >= 12, "most of it is allowed: in the upper layer"
        assert rest == ["spoiltal False"]
        assert hash_tree(own_rootfs) == before


# -- FS-14: forged metadata ------------------------------------------------------------------------
FORGE = """
import os
os.chdir("/share")
for path, name, value in (
    ("tree/dir", "user.overlay.redirect", b"/etc"), ("tree/dir", "user.overlay.opaque", b"y"),
    ("tree/file", "user.overlay.redirect", b"/etc/passwd"),
    ("meta/file", "user.overlay.metacopy", b""),
    ("meta/file", "user.overlay.redirect", b"/etc/passwd"),
    ("tree/file", "user.overlay.origin", b"\\0" * 29), ("tree/file", "user.overlay.nlink", b"U+1"),
    ("tree/file", "user.containers.override_stat", b"0:0:04755"),
    ("tree", "user.overlay.opaque", b"y"),
    ("tree/file", "user.fuseoverlayfs.override_stat", b"0:0:04755"),
    ("tree/dir", "user.fuseoverlayfs.opaque", b"y"), ("tree/dir", "user.overlay.protattr", b"i"),
):
    os.setxattr(path, name, value)
print("forged")
"""
SHOW = (
    "cd /tree; cat file dir/inner; stat -c '%a %F' file dir dir/inner; ls -A . dir; cat /etc/passwd"
)


async def test_fs_14_forged_overlay_metadata_has_no_effect_when_a_tree_is_reused(
    open_jail: OpenJail, own_rootfs: Path
) -> None:
    """fuse-overlayfs #228, #257: attributes that made a file root's, or another file."""
    (own_rootfs / "tree/dir").mkdir(parents=True)
    (own_rootfs / "meta").mkdir()
    for name in ("tree/file", "meta/file", "tree/dir/inner"):
        (own_rootfs / name).write_text(f"{name}'s own")
    async with open_jail(rootfs=own_rootfs) as j:
        honest = (await j.run(["sh", "-c", SHOW])).stdout
    assert b"tree/dir/inner's own" in honest
    async with open_jail(volumes=[f"{own_rootfs}:/share"]) as j:
        result = await j.run(["/usr/bin/python3", "-c", FORGE])
    if result.stdout != b"forged\n":
        not_exercised(f"no such attributes here: {result.stderr.decode()[-100:]}")
    assert "user.overlay.redirect" in os.listxattr(own_rootfs / "tree/dir")
    for options in ({}, {"user": "0"}, {"read_only": True}):
        async with open_jail(rootfs=own_rootfs, **options) as j:
            assert (await j.run(["sh", "-c", SHOW])).stdout == honest
            # A file without data of its own is not looked up elsewhere: it is refused.
            meta = await j.run(["cat", "/meta/file"])
            assert meta.stdout in (b"", b"meta/file's own")


async def test_fs_14_attributes_of_the_overlay_s_own_can_t_be_set_from_inside(
    open_jail: OpenJail, own_rootfs: Path, tmp_path: Path
) -> None:
    volumes = add_python(own_rootfs)
    source = (
        "import os\nos.mkdir('/made')\n"
        "for name in ('trusted.overlay.opaque', 'trusted.overlay.redirect'):\n"
        "  try: os.setxattr('/made', name, b'y'); print('set', name)\n"
        "  except OSError: pass\n"
    )
    async with open_jail(rootfs=own_rootfs, volumes=volumes, user="0") as j:
        assert await run_python(j, source) == ""


# -- FS-21: names that are options -----------------------------------------------------------------
TRICKS = (
    "a,b", "a:b", "a\\b", "a\nb", "a=b", "a b", "-o", "--help", "a,upperdir=/tmp,x", '":,\\',
    "a:/etc:ro", "\\054", "%s", "$HOME", "a\tb", "\udcff", "ä", "lowerdir=x", "x" * 200, "a'b\"c",
)  # fmt: skip


@pytest.mark.parametrize("name", TRICKS, ids=ascii)
async def test_fs_21_a_path_is_never_an_option(
    open_jail: OpenJail, rootfs: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bubblewrap's "--overlay path escaping": the layer was another one, or several."""
    root = tmp_path / name
    (root / "bin").mkdir(parents=True)
    shutil.copy(rootfs / "bin/busybox", root / "bin/busybox")
    (root / "mark").write_text("the right one")
    volume = tmp_path / f"v{name}"
    volume.mkdir(parents=True)
    (volume / "mark").write_text("the right volume")
    target = f"/t/{name}"
    monkeypatch.chdir(tmp_path)
    for given in (root, name):
        volumes = [Volume(str(volume), target)]
        async with open_jail(rootfs=given, volumes=volumes, tmpfs=[]) as j:
            argv = ["/bin/busybox", "cat", "/mark", f"{target}/mark"]
            assert (await j.run(argv)).stdout == b"the right onethe right volume"
            await j.put(f"{target}/made", b"")
            listed = (await j.run(["/bin/busybox", "ls", "-1", "/"])).stdout.split()
            assert listed == [b"bin", b"dev", b"mark", b"proc", b"t", b"tmp", b"work"]
    assert (volume / "made").exists()
    async with open_jail(workdir=f"/w/{name}") as j:
        assert (await j.run(["pwd"])).stdout == os.fsencode(f"/w/{name}\n")


# -- FS-22: what the holes of overlay and FUSE begin with ------------------------------------------
async def test_fs_22_nobody_inside_mounts_an_overlay_or_fuse(
    open_jail: OpenJail, probe: Probe, tmp_path: Path
) -> None:
    """CVE-2021-3493, CVE-2023-0386, CVE-2023-2640: all of them mount first."""
    calls = [
        make_call("mount", "text:overlay", "bad", "text:overlay", 0, 0, label="overlay"),
        make_call("mount", "text:fuse", "bad", "text:fuse", 0, 0, label="fuse"),
        make_call("fsopen", "text:overlay", 0, label="fsopen-overlay"),
        make_call("fsopen", "text:fuse", 0, label="fsopen-fuse"),
        make_call("fsconfig", -1, 0, 0, 0, 0),
        make_call("fsmount", -1, 0, 0),
        make_call("open_tree", -100, "bad", 1),
        make_call("move_mount", -1, "bad", -1, "bad", 0),
        make_call("mount_setattr", -1, "bad", 0, 0, 0),
    ]
    exercised = probe.find_exercised(tmp_path, calls)
    if not exercised:
        not_exercised("no mount is open to anybody on this kernel")
    for user in (None, "0"):
        async with open_jail(user=user) as j:
            answers = await probe.try_calls(j, calls)
            assert {answers[label] for label in exercised} <= {"EPERM", "ENOSYS"}, answers
            assert await attempt(j.get, "/dev/fuse") is None


async def test_fs_22_a_set_id_file_of_a_lower_layer_gives_nothing(
    open_jail: OpenJail, own_rootfs: Path
) -> None:
    """Copied up or not, run as it is: nosuid and no_new_privs both hold."""
    copies = {own_rootfs / name / "busybox": mode for name, mode in (("4", 0o4755), ("2", 0o2755))}
    for path, mode in copies.items():
        path.parent.mkdir()
        shutil.copy(own_rootfs / "bin/busybox", path)
        path.chmod(mode)
    script = (
        "for d in 4 2; do /$d/busybox id -u; /$d/busybox id -g; done; touch /4/busybox 2>/dev/null;"
        "/4/busybox id -u; /4/busybox grep CapEff /proc/self/status"
    )
    async with open_jail(rootfs=own_rootfs) as j:
        result = await j.run(["sh", "-c", script])
    for path in copies:
        path.chmod(0o755)
    assert result.stdout.split() == [b"1000"] * 5 + [b"CapEff:", b"0000000000000000"]
