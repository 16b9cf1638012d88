"""A delegated subtree for a zygote's jails: given, our own, or asked of systemd."""

from __future__ import annotations

import errno
import itertools
import os
from pathlib import Path
from typing import Final

from jail.cgroup import file
from jail.cgroup.arrange import Arrangement, arrange
from jail.cgroup.find import find_given, find_own
from jail.cgroup.grant import WANTED, WEIGHTS, Grant, PassedOver, Room
from jail.cgroup.name import make_prefix
from jail.cgroup.owner import read_owner
from jail.cgroup.room import may_swap_unseen, read_room
from jail.cgroup.scope import find_buses, move_to_scope
from jail.errors import HostError
from jail.host import CgroupFacts, HostFacts

__all__ = ["Grant", "Room", "Subtree", "open_subtree", "predict_grant"]

STEP: Final = "cgroup"
NO_TREE: Final = "no cgroup v2 tree is mounted where we are"
TOO_FAR: Final = (
    "A process can be moved, or born, only below a cgroup that you may write and that both places "
    "are in (cgroups(7)). Start jail itself below the same one, such as by:\n"
    "    systemd-run --user --scope -p Delegate=yes COMMAND"
)
_serials = itertools.count()


class Subtree:
    """The parent of one zygote's jails; made by :func:`open_subtree`, closed by its owner.

    ``fd`` is the parent's directory. A jail's cgroup is ``prefix`` and a number.
    """

    def __init__(self, grant: Grant, fd: int, arrangement: Arrangement) -> None:
        self.grant = grant
        self.fd = fd
        self.prefix = arrangement.prefix
        self._arrangement = arrangement

    def close(self) -> None:
        """When the zygote has ended. What was moved and enabled for it is put back as it was.

        Where others use the same parent the last of them does that; a unit of systemd's goes
        when it is empty.
        """
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            self._arrangement.undo()

    async def end_jails(self) -> None:
        """Those that a zygote which was killed has left: they are dying, and who is last in the
        parent gives it back only when their cgroups are gone.
        """
        await self._arrangement.end_jails()


async def open_subtree(
    facts: HostFacts, parent: str | None, zygote_pid: int
) -> tuple[Subtree | None, tuple[str, ...]]:
    """The first that can be had, and a sentence for each candidate that was passed over.

    For a zygote that has no children yet. A ``parent`` that was named is taken, or SpecError or
    HostError says why it can't be: nothing else is tried.
    """
    if facts.cgroup is None:
        if parent is not None:
            raise HostError(f"cgroup parent: {NO_TREE}", step=STEP)
        return None, (NO_TREE,)
    if parent is not None:
        return await _open_given(facts, parent, zygote_pid), ()
    passed: list[str] = []
    for open_one in (_open_own, _open_scope):
        try:
            return await open_one(facts, zygote_pid), tuple(passed)
        except PassedOver as reason:
            passed.append(str(reason))
    return None, tuple(passed)


def predict_grant(facts: HostFacts, parent: str | None) -> tuple[Grant | None, tuple[str, ...]]:
    """What :func:`open_subtree` would give, by a look that changes nothing."""
    if facts.cgroup is None:
        return None, (NO_TREE,)
    family = {os.getpid()}
    if parent is not None:
        found = find_given(facts, parent, family)
        return _make_grant(facts, "given", found.path, found.controllers), ()
    own = find_own(facts, family)
    if not isinstance(own, str):
        return _make_grant(facts, "own", own.path, own.controllers), ()
    try:
        return _predict_scope(facts, facts.cgroup), (own,)
    except PassedOver as reason:
        return None, (own, str(reason))


def _predict_scope(facts: HostFacts, cgroup: CgroupFacts) -> Grant:
    find_buses(facts)
    service, controllers = find_manager(facts, cgroup)
    if not controllers:
        raise PassedOver("scope: no service manager of yours runs, or none with controllers")
    return _make_grant(facts, "scope", service, controllers)


def find_manager(facts: HostFacts, cgroup: CgroupFacts) -> tuple[Path, frozenset[str]]:
    """Where the systemd that we'd ask for a scope would put it, and what it has to hand on."""
    if facts.uid == 0:
        return cgroup.mount, WANTED & file.read_words(cgroup.mount, "cgroup.controllers")
    return cgroup.user_service or cgroup.mount, WANTED & set(cgroup.user_controllers)


async def _open_given(facts: HostFacts, parent: str, zygote_pid: int) -> Subtree:
    found = find_given(facts, parent, {os.getpid(), zygote_pid})
    try:
        return await _open_at(facts, "given", found.path, zygote_pid)
    except OSError as error:
        said = error.strerror or str(error)
        raise HostError(
            f"cgroup parent {found.path}: {said}",
            step="cgroup parent",
            errno=error.errno,
            remedy=TOO_FAR if error.errno in (errno.EACCES, errno.EPERM, errno.ENOENT) else None,
        ) from error


async def _open_own(facts: HostFacts, zygote_pid: int) -> Subtree:
    found = find_own(facts, {os.getpid(), zygote_pid})
    if isinstance(found, str):
        raise PassedOver(found)
    try:
        return await _open_at(facts, "own", found.path, zygote_pid)
    except OSError as error:
        raise PassedOver(f"own: {found.path}: {error.strerror or error}") from error


async def _open_scope(facts: HostFacts, zygote_pid: int) -> Subtree:
    path = await move_to_scope(find_buses(facts), zygote_pid)
    try:
        return await _open_at(facts, "scope", path, zygote_pid)
    except OSError as error:
        raise PassedOver(f"scope: {path}: {error.strerror or error}") from error


async def _open_at(facts: HostFacts, origin: str, path: Path, zygote_pid: int) -> Subtree:
    owner = read_owner()
    prefix = make_prefix(owner, next(_serials))
    arrangement = await arrange(path, owner, prefix, zygote_pid)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except BaseException:
        arrangement.undo()
        raise
    grant = _make_grant(facts, origin, path, arrangement.controllers)
    return Subtree(grant, fd, arrangement)


def _make_grant(facts: HostFacts, origin: str, path: Path, controllers: frozenset[str]) -> Grant:
    mount = facts.cgroup.mount if facts.cgroup else path
    files = frozenset(name for name in WEIGHTS if (path / name).exists())
    if may_swap_unseen(path):
        controllers = frozenset(controllers) - {"memory"}
    return Grant(origin, str(path), frozenset(controllers), read_room(mount, path), files)
