"""Files across the boundary, and the only module that does it.

The inside end is opened by the agent, inside, as the program's user, so a link leads nowhere
else; what comes out is a descriptor, and only a regular file's is read or written. The outside
end is walked by directory descriptors, never by a path with a stranger's name in it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import trio

from jail.agent import wire
from jail.check import check_path_length, check_text, show
from jail.errors import SpecError, TransferError
from jail.session import Session

SMALL_BYTES = 256 * 1024
CHUNK_BYTES = 1024 * 1024
MAX_DEPTH = 64
MAX_FILES = 100_000
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def make_inside_path(workdir: str, path: str) -> str:
    """Absolute, inside; SpecError for NUL, nothing, or a ``..``."""
    if not check_text(path, "path"):
        raise SpecError("path: give a name")
    if ".." in path.split("/"):
        raise SpecError(f"path {show(path)}: .. is not taken; name the place itself")
    return check_path_length(os.path.join(workdir, path), "path")


@contextmanager
def telling(path: str) -> Iterator[None]:
    """What the host's kernel refuses is a TransferError that names the place."""
    try:
        yield
    except OSError as error:
        code = error.errno or errno.EIO
        raise TransferError(f"{path}: {os.strerror(code)}", errno=code) from None


async def put(session: Session, path: str, data: bytes, mode: int) -> None:
    """Make or empty the file and write ``data``."""
    fd = await _open(session, path, True, mode)
    try:
        with telling(path):
            if len(data) <= SMALL_BYTES:
                _write_all(fd, data)
            else:
                await trio.to_thread.run_sync(_write_all, fd, data)
    finally:
        os.close(fd)


async def get(session: Session, path: str, max_bytes: int) -> bytes:
    """The content, read up to ``max_bytes``: what a sparse giant claims to be is no matter."""
    fd = await _open(session, path, False, 0)
    try:
        with telling(path):
            # A file of /proc says 0, and so does one that is just being written.
            data = os.read(fd, SMALL_BYTES)
            if len(data) < SMALL_BYTES and not os.read(fd, 1):
                _check_size(len(data), path, max_bytes)
                return data
            os.lseek(fd, 0, os.SEEK_SET)
            return await trio.to_thread.run_sync(_read_all, fd, path, max_bytes)
    finally:
        os.close(fd)


async def _open(session: Session, path: str, write: bool, mode: int) -> int:
    _, fds = await session.ask(wire.OpenFile, path, write, mode & 0o777)
    if not stat.S_ISREG(os.fstat(fds[0]).st_mode):
        os.close(fds[0])
        raise session.accuse(f"{path!r} opened as something else than a file")
    return fds[0]


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view[:CHUNK_BYTES]) :]


def _read_all(fd: int, path: str, max_bytes: int) -> bytes:
    parts, total = [], 0
    while data := os.read(fd, CHUNK_BYTES):
        total += len(data)
        _check_size(total, path, max_bytes)
        parts.append(data)
    return b"".join(parts)


def _check_size(size: int, path: str, max_bytes: int) -> None:
    if size > max_bytes:
        raise TransferError(f"{path}: more than {max_bytes} bytes", errno=errno.EFBIG)


async def put_tree(session: Session, source: str, path: str) -> None:
    """The host's tree is read without following links out of it, or waiting for anybody."""
    with telling(source):
        top = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            await _put_dir(session, top, path, 0)
        finally:
            os.close(top)


async def _put_dir(session: Session, dir_fd: int, path: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise TransferError(f"{path}: more than {MAX_DEPTH} directories deep", errno=errno.ELOOP)
    await session.ask(wire.MakeDir, path, 0o755)
    for name in sorted(os.listdir(dir_fd)):
        inside = f"{path}/{name}"
        with telling(inside):
            kind = os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode
            if stat.S_ISLNK(kind):
                await session.ask(wire.MakeLink, inside, os.readlink(name, dir_fd=dir_fd))
            elif stat.S_ISDIR(kind):
                with _open_below(dir_fd, name, os.O_DIRECTORY) as child:
                    await _put_dir(session, child.fd, inside, depth + 1)
            else:
                # Whatever it was, it may be a FIFO by now: nobody waits for its other end.
                with _open_below(dir_fd, name, os.O_NONBLOCK | os.O_NOCTTY) as child:
                    await _put_file(session, child.fd, inside)


async def _put_file(session: Session, source_fd: int, path: str) -> None:
    """Piece by piece: how large it is, is a matter of the jail's disk."""
    kind = os.fstat(source_fd).st_mode
    if not stat.S_ISREG(kind):
        raise TransferError(f"{path}: not a file, a directory or a link", errno=errno.EINVAL)
    fd = await _open(session, path, True, kind & 0o777)
    try:
        data = os.read(source_fd, SMALL_BYTES)
        _write_all(fd, data)
        if len(data) == SMALL_BYTES:
            await trio.to_thread.run_sync(_copy_rest, source_fd, fd)
    finally:
        os.close(fd)


def _copy_rest(source_fd: int, fd: int) -> None:
    while data := os.read(source_fd, CHUNK_BYTES):
        _write_all(fd, data)


@dataclass
class _Budget:
    """What a tree may still bring out."""

    left_bytes: int
    left_files: int = MAX_FILES
    skipped: list[str] = field(default_factory=list)


async def get_tree(session: Session, path: str, target: str, max_bytes: int) -> list[str]:
    """Into a directory made here and now; what was skipped is returned, relative to ``path``."""
    budget = _Budget(max_bytes)
    with telling(target):
        os.mkdir(target, 0o700)
        top = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            await _get_dir(session, path, top, "", budget, 0)
        finally:
            os.close(top)
    return budget.skipped


async def _get_dir(
    session: Session, path: str, dir_fd: int, below: str, budget: _Budget, depth: int
) -> None:
    if depth > MAX_DEPTH:
        raise TransferError(f"{path}: more than {MAX_DEPTH} directories deep", errno=errno.ELOOP)
    listed, _ = await session.ask(wire.ListDir, path)
    for name, mode, _target in listed.entries:
        if not is_name(name):
            raise session.accuse(f"{name[:80]!r} as a file's name")
        budget.left_files -= 1
        if budget.left_files < 0:
            raise TransferError(f"{path}: more than {MAX_FILES} files", errno=errno.EFBIG)
        if stat.S_ISDIR(mode):
            os.mkdir(name, 0o700, dir_fd=dir_fd)
            with _open_below(dir_fd, name, os.O_DIRECTORY) as child:
                inner = f"{below}{name}/"
                await _get_dir(session, f"{path}/{name}", child.fd, inner, budget, depth + 1)
        elif stat.S_ISREG(mode):
            await _get_file(session, f"{path}/{name}", dir_fd, name, mode, budget)
        else:
            budget.skipped.append(below + name)


def is_name(name: str) -> bool:
    """One component, and none that leads elsewhere: the listing is a stranger's."""
    return name not in ("", ".", "..") and "/" not in name and "\0" not in name


async def _get_file(
    session: Session, path: str, dir_fd: int, name: str, mode: int, budget: _Budget
) -> None:
    """Piece by piece: a hole as large as the budget costs the program nothing, and us no memory."""
    source_fd = await _open(session, path, False, 0)
    try:
        fd = os.open(name, NEW_FILE, 0o600 | (mode & 0o155), dir_fd=dir_fd)
        try:
            data = os.read(source_fd, SMALL_BYTES)
            _take(budget, path, len(data))
            _write_all(fd, data)
            if len(data) == SMALL_BYTES:
                await trio.to_thread.run_sync(_copy_budgeted, source_fd, fd, path, budget)
        finally:
            os.close(fd)
    finally:
        os.close(source_fd)


def _copy_budgeted(source_fd: int, fd: int, path: str, budget: _Budget) -> None:
    while data := os.read(source_fd, CHUNK_BYTES):
        _take(budget, path, len(data))
        _write_all(fd, data)


def _take(budget: _Budget, path: str, size: int) -> None:
    _check_size(size, path, budget.left_bytes)
    budget.left_bytes -= size


class _open_below:  # noqa: N801 - reads as the verb it is
    """The fd of one name in a directory for the length of a block, no link followed."""

    def __init__(self, dir_fd: int, name: str, flags: int) -> None:
        flags |= os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        self.fd = os.open(name, flags, dir_fd=dir_fd)

    def __enter__(self) -> _open_below:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)
