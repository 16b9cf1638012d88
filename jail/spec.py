"""What is asked for: pure data, checked as far as it can be without looking at the host."""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from jail.errors import SpecError
from jail.units import UNLIMITED_WORDS, parse_count, parse_size, parse_time

MiB: Final = 1024 * 1024

DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_WORKDIR: Final = "/work"
DEFAULT_UID: Final = 1000

MAX_ENV_BYTES: Final = 1 * MiB
MAX_ARGV_BYTES: Final = 1 * MiB
MAX_STRING_BYTES: Final = 128 * 1024  # MAX_ARG_STRLEN, include/uapi/linux/binfmts.h

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


@dataclass(frozen=True)
class Tmpfs:
    """An empty in-memory filesystem at ``target``; None takes the jail's disk limit."""

    target: str
    size_bytes: int | None = None


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
    spec = JailSpec(
        rootfs=_check_rootfs(os.fspath(rootfs)),
        volumes=tuple(parse_volume(v) if isinstance(v, str) else v for v in volumes),
        tmpfs=tuple(parse_tmpfs(t) if isinstance(t, str) else t for t in tmpfs),
        env=check_env(env or {}),
        workdir=_check_inside_path(workdir, "workdir"),
        user=None if user is None else str(user),
        hostname=_check_hostname(hostname),
        limits=make_limits(limits or Limits(), **limit_words),
        read_only=read_only,
        network=_check_choice(network, ("none", "host"), "network"),
        seccomp=os.fspath(seccomp),
        userns=_check_choice(userns, ("auto", "single"), "userns"),
        require=dict(require or {}),
    )
    _refuse_double_targets(spec)
    return spec


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
            items = value.items() if isinstance(value, Mapping) else [(v, None) for v in value]
            changes["ulimits"] = tuple(parse_ulimit(k, v) for k, v in items)
            continue
        if word not in parsers:
            raise SpecError(f"{word}: no such option; there are {', '.join(sorted(parsers))}")
        name, parse = parsers[word]
        unlimited = value is None or (isinstance(value, str) and value in UNLIMITED_WORDS)
        changes[name] = None if unlimited else parse(value, word)
    return replace(base, **changes)


def parse_volume(text: str) -> Volume:
    """``SRC:DST[:ro|rw]``, docker's ``-v``; read-write unless it says ro."""
    source, *rest = text.split(":")
    if not source or not 1 <= len(rest) <= 2:
        raise SpecError(f"volume {text!r}: write SRC:DST or SRC:DST:ro (paths can't hold a colon)")
    mode = rest[1] if len(rest) == 2 else "rw"
    if mode not in ("ro", "rw"):
        raise SpecError(f"volume {text!r}: {mode!r} is neither ro nor rw")
    _refuse_nul(source, "volume")
    return Volume(source, _check_inside_path(rest[0], "volume"), mode == "ro")


def parse_tmpfs(text: str) -> Tmpfs:
    """``DST[:size]``; docker's ``DST:size=64m`` is understood too."""
    target, _, size = text.partition(":")
    size = size.removeprefix("size=")
    return Tmpfs(
        _check_inside_path(target, "tmpfs"), parse_size(size, f"tmpfs {target}") if size else None
    )


def parse_ulimit(text: str, value: int | str | None = None) -> tuple[str, int, int]:
    """``nofile=64[:128]`` (soft, hard); -1 or ``unlimited`` lifts it."""
    name, _, bounds = text.partition("=")
    if name not in ULIMITS:
        raise SpecError(f"ulimit {name!r}: there is {', '.join(sorted(ULIMITS))}")
    if value is not None:
        bounds = str(value)
    soft, _, hard = bounds.partition(":")
    low, high = _parse_bound(name, soft), _parse_bound(name, hard or soft)
    if high != -1 and (low == -1 or low > high):
        raise SpecError(f"ulimit {text!r}: the soft limit is above the hard one")
    return name, low, high


def parse_env(text: str) -> tuple[str, str]:
    """``K=V``; a bare ``K`` is refused: nothing of the host's environment comes in."""
    key, equals, value = text.partition("=")
    if not equals:
        raise SpecError(f"env {text!r}: write K=V; the host's own value is never taken")
    return key, value


def check_env(env: Mapping[str, str]) -> dict[str, str]:
    """A plain copy, or SpecError: names without ``=``, no NUL, at most 1 MiB together."""
    total = 0
    for key, value in env.items():
        if not key or "=" in key:
            raise SpecError(f"env: {key!r} can't be a name")
        _refuse_nul(key, "env")
        _refuse_nul(value, f"env {key}")
        total += _check_string(f"{key}={value}", f"env {key}")
    if total > MAX_ENV_BYTES:
        raise SpecError(f"env: {total} bytes are more than the {MAX_ENV_BYTES} a program may get")
    return dict(env)


def check_argv(argv: Iterable[str | os.PathLike[str]]) -> tuple[str, ...]:
    """The arguments as text, or SpecError: at least one, no NUL, at most 1 MiB together."""
    if isinstance(argv, str | bytes):
        raise SpecError('the program is a list of arguments, such as ["echo", "hello"]')
    words = tuple(os.fsdecode(word) for word in argv)
    if not words or not words[0]:
        raise SpecError("no program given")
    for word in words:
        _refuse_nul(word, "argument")
    total = sum(_check_string(word, "argument") for word in words)
    if total > MAX_ARGV_BYTES:
        raise SpecError(f"arguments: {total} bytes are more than the {MAX_ARGV_BYTES} allowed")
    return words


def _parse_bound(name: str, text: str) -> int:
    if text in UNLIMITED_WORDS:
        return -1
    if text == "0":
        return 0
    if name in ("as", "core", "data", "fsize", "memlock", "msgqueue", "rss", "stack"):
        return parse_size(text, f"ulimit {name}")
    return parse_count(text, f"ulimit {name}")


def _check_rootfs(text: str) -> str:
    _refuse_nul(text, "rootfs")
    if not text:
        raise SpecError("rootfs: write host or a directory")
    return text


def _check_inside_path(path: str, what: str) -> str:
    _refuse_nul(path, what)
    if not path.startswith("/"):
        raise SpecError(f"{what}: {path!r} inside the jail must begin with /")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise SpecError(f"{what}: {path!r} must not contain ..")
    if not parts and what != "workdir":
        raise SpecError(f"{what}: / itself can't be covered; use rootfs")
    _check_string(path, what)
    return "/" + "/".join(parts)


def _check_hostname(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,62}[A-Za-z0-9])?", name, re.ASCII):
        raise SpecError(f"hostname: {name!r} must be 1 to 64 letters, digits, dots and hyphens")
    return name


def _check_choice(value: str, choices: tuple[str, ...], what: str) -> Any:
    if value not in choices:
        raise SpecError(f"{what}: {value!r} is none of {', '.join(choices)}")
    return value


def _check_string(text: str, what: str) -> int:
    size = len(os.fsencode(text)) + 1
    if size > MAX_STRING_BYTES:
        raise SpecError(f"{what}: {size} bytes in one string; the kernel takes {MAX_STRING_BYTES}")
    return size


def _refuse_nul(text: str, what: str) -> None:
    if "\0" in text:
        raise SpecError(f"{what}: {text[:40]!r} holds a NUL byte")


def _refuse_double_targets(spec: JailSpec) -> None:
    seen: set[str] = set()
    for target in spec.targets:
        if target in seen:
            raise SpecError(f"{target}: mounted twice")
        seen.add(target)
