"""Host paths that come into a jail: looked at once, then held to what was seen."""

from __future__ import annotations

import errno
import functools
import glob
import os
import stat
from dataclasses import dataclass
from typing import Final

from jail.cgroup.setting import DeviceThrottle
from jail.errors import HostError, JailError, SpecError
from jail.kernel.file import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, openat2
from jail.launchplan import Source
from jail.limit import Throttle

MERGED_USR = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
ETC_NAMES = (
    "alternatives",
    "ld.so.cache",
    "ssl",
    "pki/tls",
    "pki/ca-trust",
    "pki/java",
    "crypto-policies",
    "protocols",
    "services",
    "mime.types",
    "localtime",
    "fonts",
)
ETC_PATTERNS = ("java-*", "perl")
MAX_PASSWD_BYTES = 1024 * 1024
MAX_RESOLV_CONF_BYTES = 64 * 1024
VANISHED: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE)
"""what becomes of a volume or a root filesystem while a jail is being opened"""


@dataclass(frozen=True)
class SourceFacts:
    """A checked host path: what it resolved to, and who owns it."""

    source: Source
    is_dir: bool
    uid: int
    gid: int


@dataclass(frozen=True)
class HostTree:
    """The parts of this host that ``--rootfs host`` shows: names in ``/`` and in ``/etc``."""

    links: tuple[tuple[str, str], ...]
    """symbolic links to copy: (path inside, target)"""
    binds: tuple[tuple[str, SourceFacts], ...]
    """read-only binds: (path inside, source)"""


def read_source(path: str, what: str) -> SourceFacts:
    """Resolve and stat ``path``; SpecError says why it can't be used."""
    try:
        real = os.path.realpath(path, strict=True)
        found = os.stat(real, follow_symlinks=False)
    except OSError as error:
        raise SpecError(f"{what}: {path!r}: {os.strerror(error.errno or errno.EIO)}") from None
    if not stat.S_ISDIR(found.st_mode) and not stat.S_ISREG(found.st_mode):
        raise SpecError(f"{what}: {path!r} is neither a directory nor a regular file")
    return SourceFacts(
        source=Source(real, found.st_dev, found.st_ino),
        is_dir=stat.S_ISDIR(found.st_mode),
        uid=found.st_uid,
        gid=found.st_gid,
    )


def blame_vanished(error: HostError) -> JailError:
    """A volume or a root filesystem that went away meanwhile was the caller's to keep."""
    return SpecError(str(error)) if error.errno in VANISHED else error


def read_throttle(asked: Throttle) -> DeviceThrottle:
    """The numbers of a block device; SpecError where it is none, or a part of one."""
    try:
        found = os.stat(asked.device)
    except OSError as error:
        raise SpecError(f"device {asked.device!r}: {error.strerror}") from None
    if not stat.S_ISBLK(found.st_mode):
        raise SpecError(f"device {asked.device!r} is no block device")
    major, minor = os.major(found.st_rdev), os.minor(found.st_rdev)
    if os.path.exists(f"/sys/dev/block/{major}:{minor}/partition"):
        raise SpecError(f"device {asked.device!r} is a partition; limits are for whole disks")
    return DeviceThrottle(major, minor, asked.key, asked.rate)


def read_rootfs(path: str) -> SourceFacts:
    """A directory to be the lower layer; SpecError where it is none, or can't be entered."""
    facts = read_source(path, "rootfs")
    if not facts.is_dir:
        raise SpecError(f"rootfs: {path!r} is a file; unpack it and give the directory")
    if not os.access(facts.source.path, os.R_OK | os.X_OK):
        raise SpecError(f"rootfs: {path!r} can't be read by you (mode and owner of the directory)")
    return facts


def read_top_dirs(path: str) -> frozenset[str]:
    """Names of the real directories (no links) at the top of a root filesystem."""
    with os.scandir(path) as entries:
        return frozenset(e.name for e in entries if e.is_dir(follow_symlinks=False))


@functools.cache
def read_devices(names: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the ``names`` that are character devices in the host's /dev."""
    return tuple(name for name in names if _is_device(f"/dev/{name}"))


def _is_device(path: str) -> bool:
    try:
        return stat.S_ISCHR(os.stat(path, follow_symlinks=False).st_mode)
    except OSError:
        return False


@functools.cache
def read_host_tree() -> HostTree:
    """Look once per process: a host's ``/usr`` layout doesn't change under a running program."""
    links: list[tuple[str, str]] = []
    binds = [("usr", read_source("/usr", "host"))]
    for name in MERGED_USR:
        _add_entry(f"/{name}", name, links, binds)
    names = list(ETC_NAMES)
    for pattern in ETC_PATTERNS:
        names += sorted(os.path.relpath(p, "/etc") for p in glob.glob(f"/etc/{pattern}"))
    for name in names:
        _add_entry(f"/etc/{name}", f"etc/{name}", links, binds)
    return HostTree(tuple(links), tuple(binds))


def _add_entry(
    path: str,
    inside: str,
    links: list[tuple[str, str]],
    binds: list[tuple[str, SourceFacts]],
) -> None:
    if os.path.islink(path):
        links.append((inside, os.readlink(path)))
    elif os.path.exists(path) and os.access(path, os.R_OK):
        binds.append((inside, read_source(path, "host")))


def read_resolv_conf() -> str:
    """The host's own; "" where it has none, or none for us. It changes with every other wire."""
    try:
        with open("/etc/resolv.conf", "rb") as file:
            return file.read(MAX_RESOLV_CONF_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""


def read_inside(root: str, path: str) -> str:
    """A small text file below a root that may be hostile; "" where it is missing or odd."""
    root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # O_NONBLOCK: a FIFO put there must not hold us.
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
        fd = openat2(root_fd, path, flags, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
    except OSError:
        return ""
    finally:
        os.close(root_fd)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return ""
        return os.read(fd, MAX_PASSWD_BYTES).decode("utf-8", "replace")
    finally:
        os.close(fd)
