"""Arranging a parent cgroup for jails and giving it back, on a tree that answers like one."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from jail.cgroup import arrange
from jail.cgroup.file import read_pids
from jail.cgroup.grant import WANTED
from jail.cgroup.name import make_host_name, parse_name
from jail.cgroup.owner import read_owner
from jail.cgroup.subtree import Subtree, open_subtree, predict_grant
from jail.errors import HostError, SpecError
from jail.host import HostFacts, make_facts
from tests.cgroup_tree import CgroupTree, cgroups

__all__ = ["cgroups"]

ZYGOTE, OTHER_ZYGOTE, STRANGER = 4_194_305, 4_194_306, 4_194_307
"""above PID_MAX_LIMIT: no process has them"""


async def open_one(facts: HostFacts, parent: str | None = None, zygote: int = ZYGOTE) -> Subtree:
    subtree, reasons = await open_subtree(facts, parent, zygote)
    assert subtree is not None, reasons
    return subtree


@contextmanager
def locked(folder: Path, how: int) -> Iterator[None]:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
        yield
    finally:
        os.close(fd)


async def test_our_own_cgroup_is_arranged_and_given_back(cgroups: CgroupTree) -> None:
    own = cgroups.add("app.scope", procs=(ZYGOTE,), memory__max="4096")
    facts = cgroups.facts(own)
    subtree = await open_one(facts)
    assert (subtree.grant.origin, subtree.grant.path) == ("own", str(own))
    assert subtree.grant.controllers == WANTED == cgroups.enabled(own)
    assert subtree.grant.room.memory_bytes == 4096
    assert os.fstat(subtree.fd).st_ino == own.stat().st_ino
    host = own / make_host_name(read_owner())
    assert set(read_pids(host)) == {os.getpid(), ZYGOTE}
    assert read_pids(own) == ()
    name = parse_name(f"{subtree.prefix}0")
    assert name is not None and name.owner == read_owner()
    cgroups.put(host, "cgroup.procs", str(os.getpid()))  # the zygote has ended
    subtree.close()
    assert read_pids(own) == (os.getpid(),)
    assert cgroups.names(own) == set() == cgroups.enabled(own)
    subtree.close()


async def test_whom_we_have_started_meanwhile_comes_back_with_us(cgroups: CgroupTree) -> None:
    own = cgroups.add("app.scope")
    subtree = await open_one(cgroups.facts(own))
    host = own / make_host_name(read_owner())
    cgroups.put(host, "cgroup.procs", f"{os.getpid()}\n{STRANGER}")
    subtree.close()
    assert set(read_pids(own)) == {os.getpid(), STRANGER}
    assert cgroups.names(own) == set()


async def test_a_given_parent_gets_the_zygote_and_the_supervisor_stays(cgroups: CgroupTree) -> None:
    here, parent = cgroups.add("a", procs=(ZYGOTE,)), cgroups.add("given")
    subtree = await open_one(cgroups.facts(here), "/given")
    assert (subtree.grant.origin, subtree.grant.path) == ("given", str(parent))
    assert read_pids(here) == (os.getpid(),)
    host = parent / make_host_name(read_owner())
    assert read_pids(host) == (ZYGOTE,)
    cgroups.put(host, "cgroup.procs", "")
    subtree.close()
    assert cgroups.names(parent) == set() == cgroups.enabled(parent)


async def test_what_was_enabled_before_us_stays(cgroups: CgroupTree) -> None:
    here, parent = cgroups.add("a"), cgroups.add("given", cgroup__subtree_control="memory hugetlb")
    subtree = await open_one(cgroups.facts(here), "given")
    assert subtree.grant.controllers == WANTED
    cgroups.put(parent / make_host_name(read_owner()), "cgroup.procs", "")
    subtree.close()
    assert cgroups.enabled(parent) == {"memory", "hugetlb"}


async def test_a_given_parent_may_be_where_we_sit(cgroups: CgroupTree) -> None:
    here = cgroups.add("a", procs=(ZYGOTE,))
    subtree = await open_one(cgroups.facts(here), "/a")
    assert subtree.grant.origin == "given" and read_pids(here) == ()
    cgroups.put(here / make_host_name(read_owner()), "cgroup.procs", str(os.getpid()))
    subtree.close()
    assert read_pids(here) == (os.getpid(),) and cgroups.names(here) == set()


async def test_a_refused_controller_does_not_cost_the_others(cgroups: CgroupTree) -> None:
    own = cgroups.add("app.scope")
    cgroups.refusals["cgroup.subtree_control", "+cpu"] = errno.EINVAL
    subtree = await open_one(cgroups.facts(own))
    assert subtree.grant.controllers == WANTED - {"cpu"} == cgroups.enabled(own)
    cgroups.put(own / make_host_name(read_owner()), "cgroup.procs", str(os.getpid()))
    subtree.close()


async def test_what_another_supervisor_enabled_does_not_keep_us_below(cgroups: CgroupTree) -> None:
    """Where we sat nothing was enabled before the first of us came."""
    own = cgroups.add("app.scope")
    cgroups.refusals["cgroup.subtree_control", "+io"] = errno.EBUSY
    subtree = await open_one(cgroups.facts(own))
    cgroups.put(own, "cgroup.subtree_control", " ".join(sorted(WANTED)))
    cgroups.put(own / make_host_name(read_owner()), "cgroup.procs", str(os.getpid()))
    subtree.close()
    assert read_pids(own) == (os.getpid(),) and cgroups.enabled(own) == set()


@pytest.mark.parametrize("last", ["the first", "the second"])
@pytest.mark.parametrize("parent", [None, "/app.scope", "/given"])
async def test_the_last_zygote_of_a_supervisor_gives_all_back(
    cgroups: CgroupTree, last: str, parent: str | None
) -> None:
    own, given = cgroups.add("app.scope"), cgroups.add("given")
    facts = cgroups.facts(own)
    first = await open_one(facts, parent)
    second = await open_one(facts, parent, OTHER_ZYGOTE)
    place = given if parent == "/given" else own
    host = place / make_host_name(read_owner())
    assert first.prefix != second.prefix
    assert {ZYGOTE, OTHER_ZYGOTE} <= set(read_pids(host))
    for zygote in (ZYGOTE, OTHER_ZYGOTE):
        (host / "cgroup.procs").write_text(
            "".join(f"{pid}\n" for pid in read_pids(host) if pid != zygote)
        )
    early, late = (second, first) if last == "the first" else (first, second)
    early.close()
    assert late.grant.controllers == cgroups.enabled(place), "the other one still lives"
    late.close()
    assert read_pids(own) == (os.getpid(),)
    assert cgroups.names(place) == set() == cgroups.enabled(place)


async def test_another_user_of_the_parent_keeps_its_controllers(cgroups: CgroupTree) -> None:
    here, parent = cgroups.add("a"), cgroups.add("given")
    subtree = await open_one(cgroups.facts(here), "/given")
    cgroups.put(parent / make_host_name(read_owner()), "cgroup.procs", "")
    with locked(parent, fcntl.LOCK_SH):
        subtree.close()
    assert cgroups.enabled(parent) == WANTED and cgroups.names(parent) == set()


async def test_a_strangers_cgroup_beside_ours_keeps_its_controllers(cgroups: CgroupTree) -> None:
    own = cgroups.add("app.scope")
    subtree = await open_one(cgroups.facts(own))
    cgroups.make_directory(own / "theirs")
    subtree.close()
    assert cgroups.enabled(own) == WANTED
    assert cgroups.names(own) == {"theirs", make_host_name(read_owner())}
    shutil.rmtree(own / "theirs")


async def test_jails_that_are_left_end_with_their_subtree(cgroups: CgroupTree) -> None:
    own = cgroups.add("app.scope")
    subtree = await open_one(cgroups.facts(own))
    cgroups.make_directory(own / f"{subtree.prefix}3")
    cgroups.make_directory(own / f"{subtree.prefix}3" / "below")
    cgroups.put(own / make_host_name(read_owner()), "cgroup.procs", str(os.getpid()))
    subtree.close()
    assert cgroups.names(own) == set()


async def test_a_jail_that_is_dying_is_waited_for(cgroups: CgroupTree) -> None:
    own = cgroups.add("app.scope")
    subtree = await open_one(cgroups.facts(own))
    cgroups.make_directory(own / f"{subtree.prefix}3")
    cgroups.hold(own / f"{subtree.prefix}3", kills=3)
    cgroups.put(own / make_host_name(read_owner()), "cgroup.procs", str(os.getpid()))
    await subtree.end_jails()
    subtree.close()
    assert cgroups.names(own) == set() == cgroups.enabled(own)


async def test_a_parent_that_vanished_is_no_error(cgroups: CgroupTree) -> None:
    here, parent = cgroups.add("a"), cgroups.add("given")
    subtree = await open_one(cgroups.facts(here), "/given")
    shutil.rmtree(parent)
    subtree.close()


@pytest.mark.parametrize(
    ("what", "code"),
    [
        (("cgroup.procs", str(ZYGOTE)), errno.EACCES),
        (("cgroup.procs", str(ZYGOTE)), errno.ESRCH),
        (("cgroup.procs", str(os.getpid())), errno.EACCES),
    ],
)
async def test_nothing_is_left_where_the_kernel_refuses(
    cgroups: CgroupTree, what: tuple[str, str], code: int
) -> None:
    own = cgroups.add("app.scope")
    facts = cgroups.facts(own)
    cgroups.refusals[what] = code
    subtree, (said, *_) = await open_subtree(facts, None, ZYGOTE)
    assert subtree is None and said == f"own: {own}: {os.strerror(code)}"
    for each in own.iterdir():
        if each.is_dir():
            cgroups.put(each, "cgroup.procs", "")
            cgroups.remove_directory(each)
    with pytest.raises(HostError, match="cgroup parent") as caught:
        await open_one(facts, "/app.scope")
    assert (caught.value.step, caught.value.errno) == ("cgroup parent", code)
    assert ("systemd-run" in (caught.value.remedy or "")) == (code == errno.EACCES)
    assert cgroups.enabled(own) == set()


async def test_a_parent_without_any_controller_that_can_be_enabled_is_passed_over(
    cgroups: CgroupTree,
) -> None:
    own = cgroups.add("app.scope")
    facts = cgroups.facts(own)
    for name in WANTED:
        cgroups.refusals["cgroup.subtree_control", f"+{name}"] = errno.EBUSY
    subtree, (said, *_) = await open_subtree(facts, None, ZYGOTE)
    assert subtree is None and said == f"own: {own}: {os.strerror(errno.EBUSY)}"
    assert os.getpid() in read_pids(own), "moved back"


async def test_a_parent_that_a_stranger_keeps_locked_is_not_waited_for_long(
    cgroups: CgroupTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrange, "LOCK_TIMEOUT_S", 0.05)
    own = cgroups.add("app.scope")
    facts = cgroups.facts(own)
    with locked(own, fcntl.LOCK_EX):
        subtree, (said, *_) = await open_subtree(facts, None, ZYGOTE)
    assert subtree is None and "is locked by another process" in said
    assert cgroups.names(own) == set()


async def test_a_lock_that_is_given_up_is_taken(cgroups: CgroupTree) -> None:
    own = cgroups.add("app.scope")
    fd = os.open(own, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _() -> None:
            await trio.testing.wait_all_tasks_blocked()
            os.close(fd)

        subtree = await open_one(cgroups.facts(own))
    cgroups.put(own / make_host_name(read_owner()), "cgroup.procs", str(os.getpid()))
    subtree.close()


async def test_a_cancelled_opening_leaves_nothing(cgroups: CgroupTree) -> None:
    own = cgroups.add("app.scope")
    facts = cgroups.facts(own)
    with locked(own, fcntl.LOCK_EX), trio.move_on_after(0.05) as scope:
        await open_one(facts)
    assert scope.cancelled_caught
    assert cgroups.names(own) == set() and read_pids(own) == (os.getpid(),)


async def test_without_a_v2_tree_there_is_one_reason() -> None:
    subtree, reasons = await open_subtree(make_facts(), None, ZYGOTE)
    assert subtree is None
    assert reasons == ("no cgroup v2 tree is mounted where we are",)
    with pytest.raises(HostError, match="no cgroup v2 tree"):
        await open_subtree(make_facts(), "/a", ZYGOTE)
    assert predict_grant(make_facts(), None) == (None, reasons)


async def test_a_given_parent_has_no_fallback(cgroups: CgroupTree) -> None:
    facts = cgroups.facts(cgroups.add("a"))
    cgroups.add("busy", procs=(STRANGER,))
    with pytest.raises(SpecError, match="holds other processes"):
        await open_subtree(facts, "/busy", ZYGOTE)
    assert cgroups.names(cgroups.mount / "busy") == set()


async def test_what_is_predicted_is_what_is_given(cgroups: CgroupTree) -> None:
    own = cgroups.add("app.scope", pids__max="100")
    facts = cgroups.facts(own)
    for parent in (None, "/app.scope"):
        predicted, _ = predict_grant(facts, parent)
        subtree = await open_one(facts, parent)
        assert subtree.grant == predicted
        cgroups.put(own / make_host_name(read_owner()), "cgroup.procs", str(os.getpid()))
        subtree.close()
