"""Files across the boundary: links, odd things and odd names, met by those who carry them."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import pytest
import trio

from jail import JailError, TransferError
from tests.conftest import OpenJail
from tests.tree import CANARY, assert_works, attempt, read_all, run_python

MiB = 1024 * 1024


# -- FS-02: a result that is a link ----------------------------------------------------------------
LINKS = """
import os, sys
out = sys.argv[1]
os.chdir("/share")
name = os.path.basename(out)
shapes = {
    "absolute": out + "/file", "relative": "../" + name + "/file", "up": "../" * 30 + out + "/file",
    "root": "/proc/self/root" + out + "/file", "root1": "/proc/1/root" + out + "/file",
    "cwd": "/proc/self/cwd/../" + name + "/file", "environ": "/proc/self/environ",
    "shadow": "/etc/shadow", "passwd": "/etc/passwd", "fd": "/proc/self/fd/0",
    "dots": "./../share/x", "mem": "/proc/self/mem", "chain": "absolute",
    "slash": out + "//./file", "tty": "/dev/tty",
}
for shape, target in shapes.items():
    os.symlink(target, shape)
os.symlink(out, "folder")
os.symlink("../" + name, "near")
os.symlink("/proc/self/root" + out, "magic")
os.symlink("folder", "twice")
os.mkdir("real"); os.symlink("../../" + name, "real/way")
print(len(shapes))
"""
ENDS = (
    "absolute", "relative", "up", "root", "root1", "cwd", "environ", "shadow", "passwd", "fd",
    "dots", "mem", "chain", "slash", "tty", "folder",
)  # fmt: skip
WAYS = ("folder/file", "near/file", "magic/file", "twice/file", "real/way/file", "folder/sub/file")


async def test_fs_02_a_result_that_is_a_link_is_never_followed_out(
    open_jail: OpenJail, share: Path, outside: Path
) -> None:
    """go-judge #176 and its class: the judge read ``/etc/shadow`` for the contestant."""
    async with open_jail(volumes=[f"{share}:/share"]) as j:
        await run_python(j, LINKS, str(outside))
        for name in ("absolute", "relative", "up", "folder/file", "near/file", "real/way/file"):
            assert (share / name).read_bytes() == CANARY, "by itself it is a way out"
        for name in ENDS:
            with pytest.raises(TransferError, match="is a symbolic link"):
                await j.get(f"/share/{name}")
        for name in WAYS:
            assert await attempt(j.get, f"/share/{name}") is None, name
            with pytest.raises(TransferError):
                await j.get_tree(f"/share/{os.path.dirname(name)}", share.parent / "tree")
            shutil.rmtree(share.parent / "tree", ignore_errors=True)
        skipped = await j.get_tree("/share", share.parent / "out")
        await assert_works(j)
    assert set(skipped) == {*ENDS, "near", "magic", "twice", "real/way"}
    assert read_all(share.parent / "out") == b""


async def test_fs_02_a_link_in_the_way_of_what_is_put_is_never_followed_out(
    open_jail: OpenJail, share: Path, outside: Path, tmp_path: Path
) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_text("overwritten")
    async with open_jail(volumes=[f"{share}:/share"]) as j:
        await run_python(j, LINKS, str(outside))
        for name in (*ENDS, *WAYS):
            assert await attempt(j.put, f"/share/{name}", b"overwritten") is None
        for name in ("folder", "near", "magic", "twice", "real/way", "folder/new"):
            assert await attempt(j.put_tree, tmp_path / "tree", f"/share/{name}") is None
        await assert_works(j)


# -- FS-03: any tree at all ------------------------------------------------------------------------
ORACLE = """
import json, os, stat, sys
os.chdir("/share")
def look(path):
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    data = os.read(fd, 65536).decode() if stat.S_ISREG(os.fstat(fd).st_mode) else None
    os.close(fd)
    return data
print(json.dumps([look(path) for path in json.loads(sys.stdin.read())]))
"""
NAMES = ("a", "b", "c", "d")


def grow_tree(chance: random.Random, folder: Path, outside: Path) -> None:
    """Directories, files and links of every direction, a few dozen."""
    targets = [
        *NAMES, ".", "..", "../..", "/", "/share", "/share/a", "/share/b/c", str(outside), "/etc",
        f"..{outside}", "/proc/self/cwd", "/proc/self/root", "/proc/self/root/share/a", "a/b",
        "../a",
        f"../../{outside.name}", "b/../c", "./a/./b", "//share//c", "/proc/thread-self/cwd/a",
    ]  # fmt: skip
    places = [folder]
    for _ in range(30):
        place = chance.choice(places) / chance.choice(NAMES)
        if os.path.lexists(place):
            continue
        kind = chance.random()
        if kind < 0.35:
            place.mkdir()
            places.append(place)
        elif kind < 0.6:
            place.write_text(f"inside {place.relative_to(folder)}")
        else:
            target = chance.choice([chance.choice(targets), str(outside)])
            place.symlink_to(target + chance.choice(["", "/a", "/file", "/.."]))


@pytest.mark.parametrize("seed", range(3))
async def test_fs_03_whatever_the_tree_get_sees_what_the_program_sees(
    open_jail: OpenJail, share: Path, outside: Path, seed: int
) -> None:
    chance = random.Random(seed)
    parts = (*NAMES, *NAMES, "file", ".", "sub")
    seen_links = 0
    async with open_jail(volumes=[f"{share}:/share"]) as j:
        for number in range(8):
            shutil.rmtree(share / "t", ignore_errors=True)
            (share / "t").mkdir()
            grow_tree(chance, share / "t", outside)
            paths = [
                "/share/t/" + "/".join(chance.choices(parts, k=chance.randint(1, 4)))
                for _ in range(40)
            ]
            argv = ["/usr/bin/python3", "-c", ORACLE]
            result = await j.run(argv, input=json.dumps(paths), timeout=20)
            for path, expected in zip(paths, json.loads(result.stdout), strict=True):
                got = await attempt(j.get, path)
                text = None if got is None else got.decode()
                assert text == expected, (seed, number, path)
                assert text is None or text.startswith("inside")
                on_host = share.parent / path.lstrip("/")
                seen_links += read_if_there(on_host) == CANARY
            await attempt(j.get_tree, "/share/t", share.parent / f"out{number}")
    assert CANARY not in read_all(share.parent / "out0")
    assert seen_links, "no path of all these led out by itself: nothing was tried"


def read_if_there(path: str | bytes | Path) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return None


# -- FS-07: results that are no files --------------------------------------------------------------
ODD = """
import os, socket
os.chdir("/work")
os.mkdir("odd")
os.chdir("odd")
os.mkfifo("fifo")
socket.socket(socket.AF_UNIX).bind("socket")
os.mkdir("folder")
os.symlink("/dev/zero", "zero")
os.symlink("loop", "loop")
open("shut", "w").close(); os.chmod("shut", 0)
with open("giant", "wb") as file: file.truncate(7 << 60)
with open("plain", "w") as file: file.write("plain")
"""


async def test_fs_07_nothing_odd_holds_or_floods_the_supervisor(
    open_jail: OpenJail, tmp_path: Path
) -> None:
    async with open_jail(disk=None) as j:
        await run_python(j, ODD)
        for name, words in {
            "fifo": "is a FIFO", "socket": "is a socket", "folder": "is a directory",
            "zero": "is a symbolic link", "loop": "is a symbolic link", "shut": "Permission denied",
            "giant": "more than 1048576 bytes",
        }.items():  # fmt: skip
            began = trio.current_time()
            with trio.fail_after(5), pytest.raises(TransferError, match=words):
                await j.get(f"odd/{name}", max_bytes="1m")
            assert trio.current_time() - began < 3
        for name in ("fifo", "socket", "folder", "zero", "loop", "shut"):
            assert await attempt(j.put, f"odd/{name}", b"x") is None
        assert await attempt(j.get_tree, "odd", tmp_path / "a", "1m") is None
        await j.run(["rm", "-f", "odd/giant", "odd/shut"])
        assert sorted(await j.get_tree("odd", tmp_path / "b", "1m")) == [
            "fifo", "loop", "socket", "zero",
        ]  # fmt: skip
        assert (tmp_path / "b/plain").read_text() == "plain"
        await assert_works(j)


@pytest.mark.parametrize(
    "path", ["/dev/zero", "/dev/tty", "/dev/random", "/dev/pts/ptmx", "/dev/stdin", "/proc"]
)
async def test_fs_07_devices_are_never_read(open_jail: OpenJail, path: str) -> None:
    async with open_jail() as j:
        assert await attempt(j.get, path) is None
        assert await attempt(j.put, path, b"x") is None
        await assert_works(j)


async def test_fs_07_files_of_proc_end(open_jail: OpenJail) -> None:
    """They say that they are empty, and some never end."""
    async with open_jail() as j, j.start(["sh", "-c", "echo $$; cat"]) as process:
        assert process.stdout is not None
        pid = int(await process.stdout.receive_some())
        for name in ("maps", "pagemap", "mem", "environ", "clear_refs", "syscall", "stack"):
            got = await attempt(j.get, f"/proc/{pid}/{name}", 4 * MiB)
            assert got is None or len(got) <= 4 * MiB
        assert b"jail:agent" not in (await j.get(f"/proc/{pid}/comm"))
        assert await attempt(j.get, "/proc/1/environ") is None
        assert await attempt(j.get, "/proc/1/mem") is None


MANY = """
import os
os.makedirs("/work/t/names"); os.makedirs("/work/t/links")
os.chdir("/work/t/names")
for n in range(10_001): open(str(n), "x").close()
os.chdir("/work/t/links")
for n in range(1500): os.symlink("x" * 4000, str(n))
"""


async def test_fs_07_a_listing_too_long_is_an_error_not_the_end(
    open_jail: OpenJail, tmp_path: Path
) -> None:
    async with open_jail(disk="512m") as j:
        await run_python(j, MANY)
        for name in ("names", "links"):
            with pytest.raises(TransferError, match=f"/work/t/{name}: "):
                await j.get_tree(f"t/{name}", tmp_path / name)
        await assert_works(j)


# -- FS-19: names ----------------------------------------------------------------------------------
NAME_ALL = """
import os
os.makedirs(b"/work/t/deep")
os.chdir(b"/work/t")
names = [bytes([n]) for n in range(1, 256) if n not in b"/."] + [
    b"-rf", b"--", b"...", b"\\xff" * 255, b"a" * 255, b"\\xed\\xa0\\x80", b"\\xf0\\x9f\\x98\\x80",
    b"\\x1b]52;c;eA==\\x07", b"$(id)", b"`id`", b"a\\nb", b"%s%n", b"\\xe2\\x80\\xae", b"~root",
]
for name in names:
    with open(name, "wb") as file: file.write(name)
for name in (b"\\x1b[2J", b"\\xff"):
    os.mkfifo(b"deep/" + name)
print(len(names))
"""


async def test_fs_19_names_are_bytes_on_both_sides(open_jail: OpenJail, tmp_path: Path) -> None:
    async with open_jail() as j:
        count = int(await run_python(j, NAME_ALL))
        skipped = await j.get_tree("t", tmp_path / "out")
        assert sorted(map(os.fsencode, skipped)) == [b"deep/\x1b[2J", b"deep/\xff"]
        out = os.fsencode(tmp_path / "out")
        names = [name for name in os.listdir(out) if name != b"deep"]
        assert len(names) == count
        for name in names:
            assert read_if_there(os.path.join(out, name)) == name
            assert await j.get(os.fsdecode(b"t/" + name)) == name
        await j.put_tree(tmp_path / "out", "again")
        same = await j.run(["diff", "-r", "t", "again"], env={"LC_ALL": "C"})
        assert set(same.stdout.splitlines()) <= {
            b"Only in t/deep: \x1b[2J", b"Only in t/deep: \xff",
        }  # fmt: skip


@pytest.mark.parametrize("name", ["\x1b[2J", "a\nb", "\udcff", "\x07", "\u202e", "x" * 255])
async def test_fs_19_a_name_in_an_error_is_plain_text(
    open_jail: OpenJail, tmp_path: Path, name: str
) -> None:
    (tmp_path / "tree").mkdir()
    os.mkfifo(tmp_path / "tree" / name)
    async with open_jail() as j:
        texts = []
        for work, args in (
            (j.get, (name,)),
            (j.get_tree, (name, tmp_path / "out")),
            (j.get_tree, ("/tmp", tmp_path / name / "out")),
            (j.put_tree, (tmp_path / "tree", "/tmp/t")),
            (j.put_tree, (tmp_path / name, "/tmp/t")),
            (j.put, (f"no/{name}", b"")),
            (j.run, ([f"/{name}"],)),
            (j.run, ([name],)),
        ):
            with pytest.raises(JailError) as caught:
                await work(*args)
            texts.append(str(caught.value))
    assert all(text.isprintable() for text in texts), texts


async def test_fs_19_a_path_longer_than_any_path_ends(open_jail: OpenJail, tmp_path: Path) -> None:
    source = (
        "import os\n"
        "for _ in range(60):\n  os.mkdir('d' * 250); os.chdir('d' * 250)\n"
        "open('bottom', 'w').close()\n"
    )
    async with open_jail() as j:
        await run_python(j, source)
        with pytest.raises(TransferError, match="too long"):
            await j.get_tree(".", tmp_path / "out")
        await assert_works(j)
    shutil.rmtree(tmp_path / "out")
