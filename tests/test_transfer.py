"""put, get, put_tree, get_tree: what arrives, with which mode and owner, and where it ends."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from jail import Jail, SpecError, Supervisor, TransferError
from jail.transfer import MAX_DEPTH, SMALL_BYTES, is_name, make_inside_path
from tests.conftest import OpenJail

pytestmark = pytest.mark.beside

MiB = 1024 * 1024


async def refuse(
    work: Callable[..., Awaitable[Any]], *args: Any, code: int | None = None, say: str = ""
) -> str:
    """The TransferError's one line."""
    with pytest.raises(TransferError) as caught, trio.fail_after(10):
        await work(*args)
    text = str(caught.value)
    assert say in text, text
    assert "\n" not in text
    if code is not None:
        assert caught.value.errno == code, text
    return text


async def ask(j: Jail, script: str) -> str:
    result = await j.run(["sh", "-c", script], timeout=10)
    assert result.ok, (result.verdict, result.message, result.stderr)
    return result.stdout.decode().strip()


# -- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size", [0, 1, SMALL_BYTES - 1, SMALL_BYTES, SMALL_BYTES + 1, 2 * MiB + 3], ids=str
)
async def test_what_is_put_is_what_comes_out(supervisor: Supervisor, size: int) -> None:
    data = (b"0123456789\0\xff\n" * (size // 13 + 1))[:size]
    async with supervisor.open_jail() as j:
        await j.put("file", data)
        assert await ask(j, "stat -c %s file") == str(size)
        assert await j.get("file") == data


async def test_a_file_belongs_to_the_program_with_the_mode_asked_for(open_jail: OpenJail) -> None:
    async with open_jail() as j:
        await j.put("a", b"#!/bin/sh\necho ran\n", mode=0o750)
        await j.put("b", "text: ä")
        await j.put("c", memoryview(b"view"), mode=0o7777)
        await j.put("d", b"", mode=0)
        listed = await ask(j, "umask 022; stat -c '%n %a %u %g' a b c d; ./a; cat b")
    assert listed.splitlines() == [
        "a 750 1000 1000", "b 644 1000 1000", "c 777 1000 1000", "d 0 1000 1000", "ran", "text: ä",
    ]  # fmt: skip


async def test_a_file_put_again_is_emptied_first_and_gets_its_new_mode(
    supervisor: Supervisor,
) -> None:
    async with supervisor.open_jail() as j:
        await j.put("a", b"long content", mode=0o600)
        await j.put("a", b"short", mode=0o755)
        assert await ask(j, "cat a; stat -c ' %a' a") == "short 755"


async def test_relative_paths_start_at_the_working_directory(supervisor: Supervisor) -> None:
    async with supervisor.open_jail(workdir="/srv/w") as j:
        await j.put("a", b"1")
        await j.put("./b", b"2")
        await j.put("/tmp//c", b"3")
        assert await ask(j, "cat /srv/w/a /srv/w/b /tmp/c") == "123"
        assert await j.get("/srv/w/a") == b"1"


async def test_a_link_on_the_way_leads_inside_and_at_the_end_is_refused(
    supervisor: Supervisor,
) -> None:
    async with supervisor.open_jail() as j:
        await ask(
            j, "mkdir /tmp/real; ln -s /tmp/real way; echo x >/tmp/real/f; ln -s f /tmp/real/l"
        )
        assert await j.get("way/f") == b"x\n"
        await j.put("way/g", b"y")
        assert await ask(j, "cat /tmp/real/g") == "y"
        await refuse(j.get, "way/l", say="is a symbolic link")
        await refuse(j.put, "way/l", b"", say="is a symbolic link")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("nowhere", "/work/nowhere: No such file"),
        ("/no/where", "No such file"),
        ("/etc", "/etc: is a directory, not a regular file"),
        ("/dev/null", "is a device"),
        ("/etc/passwd/x", "Not a directory"),
        ("x" * 300, "too long"),
    ],
)
async def test_what_can_t_be_got_is_one_clear_line(
    supervisor: Supervisor, path: str, words: str
) -> None:
    async with supervisor.open_jail() as j:
        await refuse(j.get, path, say=words)
        assert await ask(j, "echo alive") == "alive"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("no/where", "No such file"),
        ("/work", "is a directory"),
        ("/usr/bin/x", "Read-only file system"),
        ("/x", "Read-only file system"),
        ("/dev/null", "is a device"),
        ("/proc/sys/kernel/hostname", "/proc/sys"),
        ("/proc/self/comm", "/proc/self/comm"),
    ],
)
async def test_where_nothing_can_be_put_is_one_clear_line(
    open_jail: OpenJail, path: str, words: str
) -> None:
    async with open_jail() as j:
        await refuse(j.put, path, b"data", say=words)
        assert await ask(j, "echo alive") == "alive"


async def test_what_was_refused_costs_the_agent_nothing(supervisor: Supervisor) -> None:
    """A file that it may write, but not change the mode of: its descriptor isn't kept."""
    async with supervisor.open_jail() as j, j.start(["sh", "-c", "echo $$; cat"]) as process:
        assert process.stdout is not None
        pid = int(await process.stdout.receive_some())
        before = read_fd_size(f"/proc/{j.init_pid}/status")
        for _ in range(300):
            await refuse(j.put, f"/proc/{pid}/comm", b"x", code=errno.EPERM, say="/comm: ")
            await refuse(j.get, "/dev/null")
        assert read_fd_size(f"/proc/{j.init_pid}/status") == before


async def test_a_file_that_can_t_be_read_is_an_error_of_the_transfer(
    supervisor: Supervisor,
) -> None:
    async with supervisor.open_jail() as j, j.start(["sh", "-c", "echo $$; cat"]) as process:
        assert process.stdout is not None
        pid = int(await process.stdout.receive_some())
        await refuse(j.get, f"/proc/{pid}/mem", say="/mem: ")
        assert (await j.get(f"/proc/{pid}/comm")).strip() == b"sh"


def read_fd_size(path: str) -> int:
    """The agent's table of descriptors: it grows with them, and isn't hidden from us."""
    lines = Path(path).read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("FDSize:"))


async def test_no_more_than_asked_for_is_read(supervisor: Supervisor) -> None:
    async with supervisor.open_jail() as j:
        await j.put("a", b"x" * 1000)
        assert len(await j.get("a", max_bytes=1000)) == 1000
        await refuse(j.get, "a", 999, code=errno.EFBIG, say="more than 999 bytes")
        await ask(j, "head -c 3000000 /dev/zero >b")
        assert len(await j.get("b", "3m")) == 3_000_000
        await refuse(j.get, "b", "2m", code=errno.EFBIG)
        for wrong in (0, "12q", -1):
            with pytest.raises(SpecError):
                await j.get("a", wrong)


async def test_a_file_larger_than_the_disk_is_refused(supervisor: Supervisor) -> None:
    async with supervisor.open_jail(disk="1m") as j:
        await refuse(j.put, "a", b"x" * 2 * MiB, code=errno.ENOSPC, say="No space left")
        assert await ask(j, "rm a; echo room >a; cat a") == "room"


@pytest.mark.parametrize(
    "path",
    ["", "..", "../x", "a/../b", "/..", "a/..", "a\0b", "\ud800", "/" + "a/" * 3000, None, 5],
)
async def test_a_path_that_can_t_be_meant_never_reaches_the_jail(
    supervisor: Supervisor, tmp_path: Path, path: Any
) -> None:
    async with supervisor.open_jail() as j:
        for work in (
            lambda: j.put(path, b""),
            lambda: j.get(path),
            lambda: j.put_tree(tmp_path, path),
            lambda: j.get_tree(path, tmp_path / "out"),
        ):
            with pytest.raises(SpecError) as caught:
                await work()
            assert str(caught.value).isprintable()
        assert await ask(j, "echo alive") == "alive"
    assert not (tmp_path / "out").exists()


def test_names_with_dots_are_names() -> None:
    for path in ("...", "a..b", "..a", "a..", ".a"):
        assert make_inside_path("/work", path) == f"/work/{path}"


# -- trees ----------------------------------------------------------------------------------------

NAMES = (
    b"plain", b"with space", b"new\nline", b"\x1b[31mred", b"-rf", b"caf\xc3\xa9", b"\xff\xfe",
    b"'\"`$;", b"x" * 255, b"...", b"*", b"\x7f", b"a:b,c\\d=e", b"~", b"CON", b" ",
)  # fmt: skip


def make_tree(folder: Path) -> None:
    (folder / "deep/er").mkdir(parents=True)
    (folder / "empty").mkdir()
    (folder / "big").write_bytes(b"0123456789abcdef" * 65536 + b"tail")
    (folder / "deep/er/file").write_bytes(b"deep")
    (folder / "run.sh").write_text("#!/bin/sh\necho ran\n")
    (folder / "run.sh").chmod(0o755)
    (folder / "shut").write_text("")
    (folder / "shut").chmod(0o400)
    (folder / "link").symlink_to("deep/er/file")
    (folder / "dangling").symlink_to("/no/where")
    for name in NAMES:
        with open(os.path.join(os.fsencode(folder / "empty"), name), "wb") as file:
            file.write(name)


def read_tree(folder: Path) -> dict[bytes, tuple[int, bytes]]:
    """path → (mode & 0o111 or 0 for a directory, content)."""
    found = {}
    top = os.fsencode(folder)
    for where, folders, files in os.walk(top):
        for name in folders:
            found[os.path.relpath(os.path.join(where, name), top)] = (0, b"")
        for name in files:
            path = os.path.join(where, name)
            with open(path, "rb") as file:
                mode = os.lstat(path).st_mode & 0o111
                found[os.path.relpath(path, top)] = (mode, file.read())
    return found


async def test_a_tree_goes_in_and_comes_out_the_same(open_jail: OpenJail, tmp_path: Path) -> None:
    source = tmp_path / "source"
    make_tree(source)
    async with open_jail() as j:
        await j.put_tree(source, "tree")
        assert await ask(j, "cd tree; ./run.sh; cat link; readlink dangling; stat -c %a shut") == (
            "ran\ndeep/no/where\n400"
        )
        skipped = await j.get_tree("tree", tmp_path / "out")
    assert sorted(skipped) == ["dangling", "link"]
    for name in skipped:
        (source / name).unlink()
    assert read_tree(tmp_path / "out") == read_tree(source)


async def test_a_tree_comes_out_as_ours_and_nobody_else_writes_it(
    open_jail: OpenJail, tmp_path: Path
) -> None:
    async with open_jail() as j:
        await ask(j, "mkdir -p t/d; echo x >t/d/f; chmod 777 t/d/f t/d t; : >t/r; chmod 0 t/r")
        await refuse(j.get_tree, "t", tmp_path / "no", say="Permission denied")
        await ask(j, "chmod 400 t/r")
        assert await j.get_tree("t", tmp_path / "out") == []
    modes = {name: (tmp_path / "out" / name).stat() for name in ("", "d", "d/f", "r")}
    assert {name: oct(found.st_mode & 0o7777) for name, found in modes.items()} == {
        "": "0o700", "d": "0o700", "d/f": "0o755", "r": "0o600",
    }  # fmt: skip
    assert {found.st_uid for found in modes.values()} == {os.getuid()}


async def test_a_tree_put_onto_another_fills_it_up(supervisor: Supervisor, tmp_path: Path) -> None:
    (tmp_path / "s/sub").mkdir(parents=True)
    (tmp_path / "s/sub/new").write_text("new")
    async with supervisor.open_jail() as j:
        await ask(j, "mkdir -p a/b/sub; echo old >a/b/sub/old; echo old >a/b/sub/new")
        await j.put_tree(tmp_path / "s", "a/b")
        assert await ask(j, "cat a/b/sub/old a/b/sub/new") == "old\nnew"
        await j.put_tree(tmp_path / "s", "made/on/the/way")
        assert await ask(j, "cat made/on/the/way/sub/new") == "new"


async def test_a_tree_that_can_t_be_put_is_one_clear_line(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "fifo").mkdir()
    os.mkfifo(tmp_path / "fifo/pipe")
    (tmp_path / "shut").mkdir()
    (tmp_path / "shut/secret").write_text("x")
    (tmp_path / "shut/secret").chmod(0)
    (tmp_path / "links").mkdir()
    (tmp_path / "links/a").symlink_to("b")
    async with supervisor.open_jail() as j:
        await refuse(j.put_tree, tmp_path / "gone", "t", say="gone: No such file")
        await refuse(j.put_tree, tmp_path / "file", "t", say="Not a directory")
        await refuse(j.put_tree, tmp_path / "fifo", "t", say="pipe: not a file")
        await refuse(j.put_tree, tmp_path / "shut", "t", say="secret: Permission denied")
        await refuse(j.put_tree, tmp_path / "links", "/usr/x", say="Read-only")
        await j.put_tree(tmp_path / "links", "l")
        await refuse(j.put_tree, tmp_path / "links", "l", say="a: is a symbolic link")
        await j.put("plain", b"")
        await refuse(j.put_tree, tmp_path / "links", "plain", say="is a regular file")
        for wrong in ("a\0b", "", None, 5):
            with pytest.raises(SpecError):
                await j.put_tree(wrong, "t")  # type: ignore[arg-type]
        assert await ask(j, "echo alive") == "alive"


async def test_a_tree_that_can_t_be_got_is_one_clear_line(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    async with supervisor.open_jail() as j:
        await ask(j, "mkdir t; echo x >t/f; ln -s t l; mkdir shut; chmod 0 shut")
        await refuse(j.get_tree, "gone", tmp_path / "a", say="/work/gone: No such file")
        await refuse(j.get_tree, "t/f", tmp_path / "b", say="is a regular file, not a directory")
        await refuse(j.get_tree, "l", tmp_path / "c", say="is a symbolic link, not a directory")
        await refuse(j.get_tree, "shut", tmp_path / "d", say="/work/shut: Permission denied")
        await refuse(j.get_tree, "t", tmp_path, code=errno.EEXIST, say="File exists")
        await refuse(j.get_tree, "t", tmp_path / "no/where", say="No such file")
        for wrong in ("a\0b", "", None):
            with pytest.raises(SpecError):
                await j.get_tree("t", wrong)  # type: ignore[arg-type]


async def test_a_tree_brings_out_no_more_than_asked_for(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    async with supervisor.open_jail() as j:
        await ask(j, "mkdir t; for n in 1 2 3 4; do head -c 1000 /dev/zero >t/$n; done; : >t/5")
        await j.get_tree("t", tmp_path / "a", max_bytes=4000)
        await refuse(j.get_tree, "t", tmp_path / "b", 3999, code=errno.EFBIG)
        got = sum(each.stat().st_size for each in (tmp_path / "b").iterdir())
    assert got == 3000


async def test_a_tree_too_deep_ends_in_both_directions(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    deep = tmp_path / "s" / "/".join("d" * (MAX_DEPTH + 2))
    deep.mkdir(parents=True)
    async with supervisor.open_jail() as j:
        await refuse(j.put_tree, tmp_path / "s", "t", say="directories deep")
        await ask(j, f"mkdir -p u/{'/'.join('d' * (MAX_DEPTH + 2))}")
        await refuse(j.get_tree, "u", tmp_path / "out", say="directories deep")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/", "a\0b"])
def test_a_name_that_leads_elsewhere_is_no_name(name: str) -> None:
    assert not is_name(name)


async def test_a_hole_that_comes_out_takes_no_memory_of_ours(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    """It costs the program nothing; read as a whole, it cost us twice its size."""
    async with supervisor.open_jail() as j:
        await j.run(["sh", "-c", "mkdir t; truncate -s 200M t/hole"])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert await j.get_tree("t", tmp_path / "out") == []
        grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert (tmp_path / "out/hole").stat().st_size == 200 * 1024 * 1024
    assert grown_kib < 64 * 1024
