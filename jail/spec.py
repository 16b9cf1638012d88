"""What is asked for: pure data, checked as far as it can be without looking at the host.

Every way to make one of these checks it: what can't be meant is a SpecError, never a default.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from jail.check import (
    MAX_NUMBER,
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
from jail.limit import Limits, make_limits
from jail.network.check import (
    Pair,
    check_network,
    choose_network,
    make_hosts,
    make_nameservers,
    make_publishes,
    make_rules,
)
from jail.network.publish import Publish
from jail.network.rule import Rule
from jail.units import parse_size

DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_WORKDIR: Final = "/work"
DEFAULT_UID: Final = 1000


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
class JailSpec:
    """One jail, as asked for. Make it with :func:`make_spec`, which takes people's units."""

    rootfs: str = "host"
    volumes: tuple[Volume, ...] = ()
    tmpfs: tuple[Tmpfs, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    workdir: str = DEFAULT_WORKDIR
    user: str | None = None
    hostname: str = "jail"
    limits: Limits = field(default_factory=Limits)
    read_only: bool = False
    network: Literal["none", "host", "slirp", "pasta", "slirp4netns", "filtered"] = "none"
    allow: tuple[Rule, ...] = ()
    """what ``filtered`` opens"""
    deny: tuple[Rule, ...] = ()
    """what it shuts, whatever allows it"""
    observe: bool = False
    """it lets every name pass, to see which rules would be needed"""
    publish: tuple[Publish, ...] = ()
    """ports of the host's that lead in"""
    add_hosts: tuple[Pair, ...] = ()
    """(name, address), for /etc/hosts"""
    dns: tuple[str, ...] = ()
    """addresses of nameservers; none given are the host's own"""
    seccomp: str = "default"
    explain_denied: bool = False
    """tell of every refusal, also of those that libraries ask for and live with"""
    watched: bool = False
    """its filter asks of nearly every call; who holds the listener answers as the policy says"""
    userns: Literal["auto", "single"] = "auto"
    cgroup_parent: str | None = None
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
        check_network(self)
        check_host_path(self.seccomp, "seccomp")
        check_bool(self.explain_denied, "explain_denied")
        check_bool(self.watched, "watched")
        check_choice(self.userns, ("auto", "single"), "userns")
        if self.cgroup_parent is not None:
            check_host_path(self.cgroup_parent, "cgroup_parent")
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
    network: str | None = None,
    allow: Iterable[str | Rule] = (),
    deny: Iterable[str | Rule] = (),
    observe: bool = False,
    publish: Iterable[str | Publish] = (),
    add_host: Iterable[str] | Mapping[str, str] = (),
    dns: Iterable[str] = (),
    seccomp: str | os.PathLike[str] = "default",
    explain_denied: bool = False,
    userns: str = "auto",
    cgroup_parent: str | os.PathLike[str] | None = None,
    require: Mapping[str, str] | None = None,
    limits: Limits | None = None,
    **limit_words: Any,
) -> JailSpec:
    """A checked spec from docker's words and units.

    ``network`` is ``none`` unless it is given, or ``filtered`` where there are rules for that.
    ``limit_words`` are ``memory``, ``cpu_time``, ``wall_time``, ``pids_limit``,
    ``output_limit``, ``disk`` (``"256m"``, ``"1.5s"``, a number, or None for unlimited),
    ``ulimits`` (``{"nofile": 64}`` or ``["nofile=64:128"]``) and docker's ``cpus``,
    ``cpu_shares``, ``cpuset_cpus``, ``blkio_weight``, ``device_read_bps`` and its like
    (``["/dev/sda:1mb"]``). Raises :class:`SpecError`.
    """
    if limits is not None and not isinstance(limits, Limits):
        raise SpecError(f"limits: {show(limits)} is no Limits; there are words: memory, disk, …")
    rules = make_rules(allow, "allow"), make_rules(deny, "deny")
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
        network=choose_network(network, any(rules) or observe is True),
        allow=rules[0],
        deny=rules[1],
        observe=observe,
        publish=make_publishes(publish),
        add_hosts=make_hosts(add_host),
        dns=make_nameservers(dns),
        seccomp=check_host_path(seccomp, "seccomp"),
        explain_denied=explain_denied,
        userns=check_choice(userns, ("auto", "single"), "userns"),
        cgroup_parent=_make_parent(cgroup_parent),
        require=check_texts({} if require is None else require, "require"),
    )


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


def _make_parent(path: str | os.PathLike[str] | None) -> str | None:
    return None if path is None else check_host_path(path, "cgroup_parent")


def _make_user(user: object) -> str | None:
    if user is None or isinstance(user, str):
        return user
    if isinstance(user, int) and not isinstance(user, bool) and 0 <= user <= MAX_NUMBER:
        return str(user)
    raise SpecError(f"user: {show(user)} is neither a name nor an id")


def parse_env(text: str) -> tuple[str, str]:
    """``K=V``; a bare ``K`` is refused: nothing of the host's environment comes in."""
    key, equals, value = check_text(text, "env").partition("=")
    if not equals:
        raise SpecError(f"env {show(text)}: write K=V; the host's own value is never taken")
    return key, value


def _refuse_double_targets(spec: JailSpec) -> None:
    seen: set[str] = set()
    for kind, each in [(Volume, v) for v in spec.volumes] + [(Tmpfs, t) for t in spec.tmpfs]:
        if not isinstance(each, kind):
            raise SpecError(f"{show(each)} is no {kind.__name__}; make_spec takes texts")
        if each.target in seen:
            raise SpecError(f"{show(each.target)}: mounted twice")
        seen.add(each.target)
