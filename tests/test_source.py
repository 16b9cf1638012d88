"""Host paths on their way in: looked at once, and never by a link's leave."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from jail import SpecError
from jail.source import (
    ETC_NAMES,
    MAX_PASSWD_BYTES,
    MERGED_USR,
    read_devices,
    read_host_tree,
    read_inside,
    read_rootfs,
    read_source,
    read_top_dirs,
)

pytestmark = pytest.mark.beside


def assert_refused(path: Path | str, *words: str) -> None:
    with pytest.raises(SpecError) as caught:
        read_source(os.fspath(path), "volume")
    text = str(caught.value)
    assert text.startswith("volume: ")
    assert text.isprintable()
    for word in words:
        assert word in text


def test_a_source_is_held_to_what_was_seen(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path, is_dir in ((tmp_path, True), (tmp_path / "file", False)):
        seen, found = read_source(os.fspath(path), "volume"), path.stat()
        assert (seen.source.device, seen.source.inode) == (found.st_dev, found.st_ino)
        assert (seen.is_dir, seen.uid, seen.gid) == (is_dir, os.getuid(), os.getgid())


def test_links_are_followed_once_when_it_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "chain").symlink_to(tmp_path / "link")
    seen = read_source(os.fspath(tmp_path / "chain"), "volume")
    assert seen.source.path == os.path.realpath(tmp_path / "real")


def test_a_relative_source_starts_where_we_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    assert read_source("here", "volume") == read_source(os.fspath(tmp_path / "here"), "volume")


def test_a_source_that_isn_t_there_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_text("x")
    assert_refused(tmp_path / "gone", "gone", "No such file")
    assert_refused(tmp_path / "dangling", "No such file")
    assert_refused(tmp_path / "loop", "Too many levels")
    assert_refused(tmp_path / "file/below", "Not a directory")
    assert_refused("/" + "x" * 300, "too long")
    assert_refused(tmp_path / "new\nline\x1b[2J", "No such file")


def test_a_source_that_can_t_be_reached_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "shut").mkdir()
    (tmp_path / "shut/in").mkdir()
    (tmp_path / "shut").chmod(0)
    assert_refused(tmp_path / "shut/in", "Permission denied")
    (tmp_path / "shut").chmod(0o700)


def test_only_directories_and_regular_files_are_sources(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(tmp_path / "socket"))
        for path in (tmp_path / "fifo", tmp_path / "socket", Path("/dev/null")):
            assert_refused(path, "neither a directory nor a regular file")


def test_a_root_is_a_directory_that_we_may_enter(tmp_path: Path) -> None:
    assert read_rootfs(os.fspath(tmp_path)).is_dir
    (tmp_path / "image.tar").write_text("x")
    with pytest.raises(SpecError, match="is a file; unpack it"):
        read_rootfs(os.fspath(tmp_path / "image.tar"))
    for mode in (0o000, 0o400, 0o100):
        (tmp_path / "shut").mkdir(exist_ok=True)
        (tmp_path / "shut").chmod(mode)
        with pytest.raises(SpecError, match="can't be read by you"):
            read_rootfs(os.fspath(tmp_path / "shut"))
    (tmp_path / "shut").chmod(0o700)


def test_the_top_of_a_root_is_its_real_directories(tmp_path: Path) -> None:
    (tmp_path / "usr").mkdir()
    (tmp_path / "bin").symlink_to("usr")
    (tmp_path / "proc").write_text("x")
    os.mkfifo(tmp_path / "dev")
    assert read_top_dirs(os.fspath(tmp_path)) == {"usr"}


def test_the_host_shows_usr_and_little_of_etc() -> None:
    tree = read_host_tree()
    shown = {path for path, _ in tree.binds} | {path for path, _ in tree.links}
    assert "usr" in shown
    top = {path for path in shown if "/" not in path}
    assert top <= {"usr", *MERGED_USR}
    in_etc = {path.removeprefix("etc/") for path in shown - top}
    extra = {name for name in in_etc if name not in ETC_NAMES}
    assert all(name == "perl" or name.startswith("java-") for name in extra)
    assert not in_etc & {"passwd", "shadow", "group", "ssh", "sudoers", "machine-id", "hosts"}
    for path, target in tree.links:
        assert os.readlink(f"/{path}") == target


def test_only_devices_are_devices() -> None:
    assert read_devices(("null", "zero", "shm", "no-such-device", "fd")) == ("null", "zero")


# -- a root's own passwd, read from outside -------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root filesystem of a stranger's, beside a secret."""
    (tmp_path / "secret").write_text("canary")
    (tmp_path / "root/etc").mkdir(parents=True)
    return tmp_path / "root"


def test_a_root_s_own_file_is_read(root: Path) -> None:
    (root / "etc/passwd").write_bytes(b"a:x:1:1::\xff\n")
    assert read_inside(os.fspath(root), "etc/passwd") == "a:x:1:1::\ufffd\n"


def test_a_link_is_followed_inside_the_root(root: Path) -> None:
    (root / "lib").mkdir()
    (root / "lib/passwd").write_text("inside")
    (root / "etc/passwd").symlink_to("/lib/passwd")
    assert read_inside(os.fspath(root), "etc/passwd") == "inside"


@pytest.mark.parametrize(
    "target",
    ["/secret", "../../secret", "{secret}", "/etc/../../secret", "/proc/self/cwd", "/etc/shadow"],
)
def test_a_link_out_of_the_root_shows_nothing(root: Path, target: str) -> None:
    """The class of CVE-2024-9676 and its like: a file of the host's, read for the guest."""
    secret = os.fspath(root.parent / "secret")
    (root / "etc/passwd").symlink_to(target.format(secret=secret))
    assert read_inside(os.fspath(root), "etc/passwd") == ""
    (root / "etc/passwd").unlink()
    (root / "etc").rmdir()
    (root / "etc").symlink_to(target.format(secret=os.path.dirname(secret)))
    assert read_inside(os.fspath(root), "etc/secret") == ""


def test_a_magic_link_is_none_at_all(root: Path) -> None:
    fd = os.open(root.parent / "secret", os.O_RDONLY)
    try:
        (root / "etc/passwd").symlink_to(f"/proc/{os.getpid()}/fd/{fd}")
        assert (root / "etc/passwd").read_text() == "canary", "it is a way out by itself"
        assert read_inside(os.fspath(root), "etc/passwd") == ""
        assert read_inside("/", f"proc/self/fd/{fd}") == ""
    finally:
        os.close(fd)


def test_what_is_no_file_keeps_nobody_waiting(root: Path) -> None:
    os.mkfifo(root / "etc/passwd")
    (root / "etc/group").mkdir()
    (root / "etc/zero").symlink_to("/dev/zero")
    for name in ("passwd", "group", "zero", "gone"):
        assert read_inside(os.fspath(root), f"etc/{name}") == ""
    assert read_inside("/", "dev/zero") == ""


def test_a_giant_is_read_no_further_than_a_passwd_goes(root: Path) -> None:
    with open(root / "etc/passwd", "wb") as file:
        file.truncate(2**40)
    assert len(read_inside(os.fspath(root), "etc/passwd")) == MAX_PASSWD_BYTES
