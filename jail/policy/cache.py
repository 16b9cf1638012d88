"""Compiled policies, remembered and on disk.

What was compiled before takes neither a TOML parser nor libseccomp: the BPF lies in the cache,
under a name made of the text and of everything else that goes into it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import stat
import struct
import threading
from typing import TYPE_CHECKING, Final

from jail.policy.compile import MAX_BPF_BYTES, parse_release
from jail.policy.filters import Filters, make_filters

try:  # hashlib's own, without the OpenSSL that it loads: several times all the rest of this
    from _blake2 import blake2b
except ImportError:
    from hashlib import blake2b

if TYPE_CHECKING:
    from pathlib import Path

    from jail.policy.action import Report
    from jail.policy.load import Policy

DIGEST_BYTES: Final = 32
HEAD: Final = struct.Struct(">I???")
"""length of the agent's filter, which stands before the program's own; three facts of Filters"""
LIBRARY_FOLDERS: Final = ("/usr/lib64", "/lib64", "/usr/lib", "/lib", "/usr/local/lib")
CODE: Final = (
    "action",
    "agent",
    "compile",
    "condition",
    "document",
    "filters",
    "learn/ceiling",
    "learn/table",
    "libseccomp",
    "load",
    "number",
    "oci",
    "profile",
    "rule",
    "shadow",
)
"""the modules that make it what it is"""


def read_filters(policy: Policy, cache_dir: Path | None, report: Report = "denied") -> Filters:
    """Those of a jail under this policy: remembered, else from the cache, else made now."""
    return _read_filters(policy, None if cache_dir is None else os.fspath(cache_dir), report)


def read_bpf(policy: Policy, cache_dir: Path | None, report: Report = "denied") -> bytes:
    """The policy compiled for this machine, as a program is under it."""
    filters = read_filters(policy, cache_dir, report)
    return filters.program or filters.agent


@functools.lru_cache(maxsize=64)
def _read_filters(policy: Policy, cache_dir: str | None, report: Report) -> Filters:
    if cache_dir is None:
        return make_filters(policy, report)
    name = _cache_name(policy, report)
    folder_fd = _open_folder(cache_dir)
    if folder_fd is None:
        return make_filters(policy, report)
    try:
        filters = _read_cached(folder_fd, name)
        if filters is None:
            filters = make_filters(policy, report)
            _write_cached(folder_fd, name, filters)
        return filters
    finally:
        os.close(folder_fd)


def _cache_name(policy: Policy, report: Report) -> str:
    """Of all text, the machine, its kernel, libseccomp's file and the code that compiles."""
    facts = os.uname()
    context = (
        facts.machine,
        parse_release(facts.release),
        _library_identity(),
        _code_identity(),
        report,
        policy.name.endswith(".json"),
        [len(each.text) for each in policy.bases],
    )
    texts = b"".join(each.text for each in policy.bases)
    return _digest(repr(context).encode() + b"\0" + policy.text + texts).hex()


@functools.cache
def _code_identity() -> list[str]:
    folder = os.path.dirname(__file__)
    return [_identity(f"{folder}/{name}.py") for name in CODE]


@functools.cache
def _library_identity() -> str:
    """Which libseccomp is installed, without loading it; "" if it lies where we don't look."""
    machine = os.uname().machine
    for folder in (f"/usr/lib/{machine}-linux-gnu", *LIBRARY_FOLDERS):
        found = _identity(os.path.join(folder, "libseccomp.so.2"))
        if found:
            return found
    return ""


def _identity(path: str) -> str:
    try:
        facts = os.stat(path)
    except OSError:
        return ""
    return f"{path}:{facts.st_ino}:{facts.st_mtime_ns}:{facts.st_size}"


def _digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=DIGEST_BYTES).digest()


def _open_folder(cache_dir: str) -> int | None:
    """The fd of a folder that nobody else can write to; None: do without a cache."""
    path = os.path.join(cache_dir, "bpf")
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        try:
            folder_fd = os.open(path, flags)
        except FileNotFoundError:
            _make_folder(cache_dir, path)
            folder_fd = os.open(path, flags)
    except (OSError, ValueError):
        return None
    if _is_ours(os.fstat(folder_fd)):
        return folder_fd
    os.close(folder_fd)
    return None


def _make_folder(cache_dir: str, path: str) -> None:
    os.makedirs(cache_dir, mode=0o700, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)


def _is_ours(facts: os.stat_result) -> bool:
    return facts.st_uid == os.geteuid() and not facts.st_mode & 0o022


def _read_cached(folder_fd: int, name: str) -> Filters | None:
    """Whole, unspoilt programs, or None."""
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(name, flags, dir_fd=folder_fd)
    except OSError:
        return None
    try:
        facts = os.fstat(fd)
        if not stat.S_ISREG(facts.st_mode) or not _is_ours(facts):
            return None
        data = os.read(fd, DIGEST_BYTES + HEAD.size + 2 * MAX_BPF_BYTES + 1)
    except OSError:
        return None
    finally:
        os.close(fd)
    digest, body = data[:DIGEST_BYTES], data[DIGEST_BYTES:]
    if digest != _digest(name.encode() + body) or len(body) < HEAD.size:
        return None
    size, listens, traces, refuses_tcp = HEAD.unpack_from(body)
    agent, program = body[HEAD.size : HEAD.size + size], body[HEAD.size + size :]
    return Filters(agent, program, listens, traces, refuses_tcp)


def _write_cached(folder_fd: int, name: str, filters: Filters) -> None:
    """Aside, then renamed; a cache that can't be written is only a cache that isn't there."""
    agent, program, *facts = filters
    body = HEAD.pack(len(agent), *facts) + agent + program
    aside = f".{name}.{os.getpid()}.{threading.get_ident()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(aside, flags, 0o600, dir_fd=folder_fd)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(_digest(name.encode() + body) + body)
            os.rename(aside, name, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
        except OSError:
            os.unlink(aside, dir_fd=folder_fd)
    except OSError:
        return
