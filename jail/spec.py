"""What is asked for: pure data, checked as far as it can be without looking at the host.

Every way to make one of these checks it: what can't be meant is a SpecError, never a default.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from jail.check import (
    MAX_NUMBER,
    MiB,
    check_bool,
    check_choice,
    check_env,
    check_host_path,
    check_hostname,
    check_inside_path,
    check_list,
    check_mount_point,
    check_number,
    check_text,
    check_texts,
    show,
)
from jail.errors import SpecError
from jail.units import UNLIMITED_WORDS, parse_count, parse_size, parse_time

DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_WORKDIR: Final = "/work"
DEFAULT_UID: Final = 1000

ULIMITS: Final = {
    "as": resource.RLIMIT_AS,
    "core": resource.RLIMIT_CORE,
    "data": resource.RLIMIT_DATA,
    "fsize": resource.RLIMIT_FSIZE,
    "memlock": resource.RLIMIT_MEMLOCK,
    "msgqueue": resource.RLIMIT_MSGQUEUE,
    "nice": resource.RLIMIT_NICE,
    "nofile": resource.RLIMIT_NOFILE,
    "nproc": resource.RLIMIT_NPROC,
    "rss": resource.RLIMIT_RSS,
    "rtprio": resource.RLIMIT_RTPRIO,
    "sigpending": resource.RLIMIT_SIGPENDING,
    "stack": resource.RLIMIT_STACK,
}
"""``--ulimit`` names, docker's; ``cpu`` is ``--cpu-time``."""


@dataclass(frozen=True)
class Volume:
    """A host path shown inside; what isn't ``read_only`` is written as the invoking user."""

    source: str
    target: str
    read_only: bool = False

    def __post_init__(self) -> None:
        check_host_path(self.source, "volume")
        object.__setattr__(self, "target", check_mount_point(self.target, "volume"))
        check_bool(self.read_only, "volume")


@dataclass(frozen=True)
class Tmpfs:
    """An empty in-memory filesystem at ``target``; None takes the jail's disk limit."""

    target: str
    size_bytes: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "target", check_mount_point(self.target, "tmpfs"))
        check_number(self.size_bytes, f"tmpfs {show(self.target)}")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """None is unlimited. Sizes in bytes, times in seconds."""

    memory_bytes: int | None = 512 * MiB
    cpu_time_s: float | None = 60.0
    wall_time_s: float | None = 120.0
    pids: int | None = 256
    output_bytes: int | None = 64 * MiB
    disk_bytes: int | None = 256 * MiB
    ulimits: tuple[tuple[str, int, int], ...] = ()
    """(name, soft, hard); -1 is unlimited"""

    def __post_init__(self) -> None:
        for name in ("memory_bytes", "pids", "output_bytes", "disk_bytes"):
            check_number(getattr(self, name), name)
        for name in ("cpu_time_s", "wall_time_s"):
            check_number(getattr(self, name), name, (int, float))
        for each in self.ulimits:
            _check_ulimit(each)


UNLIMITED: Final = Limits(
    memory_bytes=None,
    cpu_time_s=None,
    wall_time_s=None,
    pids=None,
    output_bytes=None,
    disk_bytes=None,
)


@dataclass(frozen=True, kw_only=True)
class JailSpec:
    """One jail, as asked for. Make it with :func:`make_spec`, which takes people's units."""

    rootfs: str = "host"
    volumes: tuple[Volume, ...] = ()
    tmpfs: tuple[Tmpfs, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    workdir: str = DEFAULT_WORKDIR
    user: str | None = None
    hostname: str = "jail"
    limits: Limits = Limits()
    read_only: bool = False
    network: Literal["none", "host"] = "none"
    seccomp: str = "default"
    userns: Literal["auto", "single"] = "auto"
    require: Mapping[str, str] = field(default_factory=dict)

    @property
    def targets(self) -> tuple[str, ...]:
        """Where volumes and tmpfs go, inside."""
        return (*(each.target for each in self.volumes), *(each.target for each in self.tmpfs))

    def __post_init__(self) -> None:
        check_host_path(self.rootfs, "rootfs")
        _refuse_double_targets(self)
        check_env(self.env)
        object.__setattr__(self, "workdir", check_inside_path(self.workdir, "workdir"))
        if self.user is not None:
            check_text(self.user, "user")
        check_hostname(self.hostname)
        if not isinstance(self.limits, Limits):
            raise SpecError(f"limits: {show(self.limits)} is no Limits")
        check_bool(self.read_only, "read_only")
        check_choice(self.network, ("none", "host"), "network")
        check_host_path(self.seccomp, "seccomp")
        check_choice(self.userns, ("auto", "single"), "userns")
        check_texts(self.require, "require")


@dataclass(frozen=True, kw_only=True)
class ProgramSpec:
    """One program in a living jail. None inherits from the jail."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None
    terminal: bool = False
    wall_time_s: float | None = None
    cpu_time_s: float | None = None
    output_bytes: int | None = None


def make_spec(
    *,
    rootfs: str | os.PathLike[str] = "host",
    volumes: Iterable[str | Volume] = (),
    tmpfs: Iterable[str | Tmpfs] = (),
    env: Mapping[str, str] | None = None,
    workdir: str = DEFAULT_WORKDIR,
    user: str | int | None = None,
    hostname: str = "jail",
    read_only: bool = False,
    network: str = "none",
    seccomp: str | os.PathLike[str] = "default",
    userns: str = "auto",
    require: Mapping[str, str] | None = None,
    limits: Limits | None = None,
    **limit_words: Any,
) -> JailSpec:
    """A checked spec from docker's words and units.

    ``limit_words`` are ``memory``, ``cpu_time``, ``wall_time``, ``pids_limit``,
    ``output_limit``, ``disk`` (``"256m"``, ``"1.5s"``, a number, or None for unlimited) and
    ``ulimits`` (``{"nofile": 64}`` or ``["nofile=64:128"]``). Raises :class:`SpecError`.
    """
    if limits is not None and not isinstance(limits, Limits):
        raise SpecError(f"limits: {show(limits)} is no Limits; there are words: memory, disk, …")
    return JailSpec(
        rootfs=check_host_path(rootfs, "rootfs"),
        volumes=tuple(parse_volume(each) for each in check_list(volumes, "volumes")),
        tmpfs=tuple(parse_tmpfs(each) for each in check_list(tmpfs, "tmpfs")),
        env=check_env({} if env is None else env),
        workdir=workdir,
        user=_make_user(user),
        hostname=hostname,
        limits=make_limits(limits or Limits(), **limit_words),
        read_only=read_only,
        network=check_choice(network, ("none", "host"), "network"),
        seccomp=check_host_path(seccomp, "seccomp"),
        userns=check_choice(userns, ("auto", "single"), "userns"),
        require=check_texts({} if require is None else require, "require"),
    )


def make_limits(base: Limits, **words: Any) -> Limits:
    """``base`` with the limits named in people's words changed."""
    parsers = {
        "memory": ("memory_bytes", parse_size),
        "cpu_time": ("cpu_time_s", parse_time),
        "wall_time": ("wall_time_s", parse_time),
        "pids_limit": ("pids", parse_count),
        "output_limit": ("output_bytes", parse_size),
        "disk": ("disk_bytes", parse_size),
    }
    changes: dict[str, Any] = {}
    for word, value in words.items():
        if word == "ulimits":
            changes["ulimits"] = _parse_ulimits(value)
            continue
        if word not in parsers:
            raise SpecError(f"{word}: no such option; there are {', '.join(sorted(parsers))}")
        name, parse = parsers[word]
        unlimited = value is None or (isinstance(value, str) and value in UNLIMITED_WORDS)
        changes[name] = None if unlimited else parse(value, word)
    return replace(base, **changes)


def parse_volume(text: str | Volume) -> Volume:
    """``SRC:DST[:ro|rw]``, docker's ``-v``; read-write unless it says ro."""
    if isinstance(text, Volume):
        return text
    check_text(text, "volume")
    source, *rest = text.split(":")
    if not source or not 1 <= len(rest) <= 2:
        raise SpecError(
            f"volume {show(text)}: write SRC:DST or SRC:DST:ro (paths can't hold a colon)"
        )
    mode = rest[1] if len(rest) == 2 else "rw"
    if mode not in ("ro", "rw"):
        raise SpecError(f"volume {show(text)}: {show(mode)} is neither ro nor rw")
    return Volume(source, rest[0], mode == "ro")


def parse_tmpfs(text: str | Tmpfs) -> Tmpfs:
    """``DST[:size]``; docker's ``DST:size=64m`` is understood too."""
    if isinstance(text, Tmpfs):
        return text
    target, colon, size = check_text(text, "tmpfs").partition(":")
    if not colon:
        return Tmpfs(target)
    return Tmpfs(target, parse_size(size.removeprefix("size="), f"tmpfs {show(target)}"))


def _make_user(user: object) -> str | None:
    if user is None or isinstance(user, str):
        return user
    if isinstance(user, int) and not isinstance(user, bool) and 0 <= user <= MAX_NUMBER:
        return str(user)
    raise SpecError(f"user: {show(user)} is neither a name nor an id")


def _join_ulimit(name: object, bound: object) -> str:
    if not isinstance(bound, str | int) or (type(bound) is int and abs(bound) > MAX_NUMBER):
        raise SpecError(f"ulimit {show(name)}: {show(bound)} is no limit")
    return f"{check_text(name, 'ulimit')}={bound}"


def _parse_ulimits(value: Any) -> tuple[tuple[str, int, int], ...]:
    if isinstance(value, Mapping):
        return tuple(parse_ulimit(_join_ulimit(*item)) for item in value.items())
    return tuple(parse_ulimit(each) for each in check_list(value, "ulimits"))


def parse_ulimit(text: str) -> tuple[str, int, int]:
    """``nofile=64[:128]`` (soft, hard); -1 or ``unlimited`` lifts it."""
    name, _, bounds = check_text(text, "ulimit").partition("=")
    if name not in ULIMITS:
        raise SpecError(f"ulimit {show(name)}: there is {', '.join(sorted(ULIMITS))}")
    soft, _, hard = bounds.partition(":")
    low, high = _parse_bound(name, soft), _parse_bound(name, hard or soft)
    if high != -1 and (low == -1 or low > high):
        raise SpecError(f"ulimit {show(text)}: the soft limit is above the hard one")
    return name, low, high


def parse_env(text: str) -> tuple[str, str]:
    """``K=V``; a bare ``K`` is refused: nothing of the host's environment comes in."""
    key, equals, value = check_text(text, "env").partition("=")
    if not equals:
        raise SpecError(f"env {show(text)}: write K=V; the host's own value is never taken")
    return key, value


def _parse_bound(name: str, text: str) -> int:
    if text in UNLIMITED_WORDS:
        return -1
    if text == "0":
        return 0
    if name in ("as", "core", "data", "fsize", "memlock", "msgqueue", "rss", "stack"):
        return parse_size(text, f"ulimit {name}")
    return parse_count(text, f"ulimit {name}")


def _check_ulimit(each: Any) -> None:
    name, *bounds = each if isinstance(each, tuple) and len(each) == 3 else (None,)
    if name not in ULIMITS or any(type(b) is not int or not -1 <= b <= MAX_NUMBER for b in bounds):
        raise SpecError(f"ulimit: {show(each)} is no (name, soft, hard)")


def _refuse_double_targets(spec: JailSpec) -> None:
    seen: set[str] = set()
    for kind, each in [(Volume, v) for v in spec.volumes] + [(Tmpfs, t) for t in spec.tmpfs]:
        if not isinstance(each, kind):
            raise SpecError(f"{show(each)} is no {kind.__name__}; make_spec takes texts")
        if each.target in seen:
            raise SpecError(f"{show(each.target)}: mounted twice")
        seen.add(each.target)
