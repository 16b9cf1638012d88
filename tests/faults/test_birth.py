"""A layer that could not be set up means that the program never ran.

Every system call that a jail's init makes between its clone and Ready, and every one that the
zygote makes for it, fails once. The calls are counted, not listed: a step that is added is made
to fail as well; one that needs a call nobody thought of fails
``test_every_call_of_an_init_is_one_that_is_made_to_fail``.

Catalogue: SC-13, SV-05.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import pytest

from jail import make_spec
from jail.inputs import plan_jail
from jail.launchplan import STEPS
from tests.faults.birth import (
    WITHOUT_LANDLOCK,
    Kind,
    Nursery,
    Outcome,
    describe_difference,
    is_honest,
    read_report,
)
from tests.faults.lane import Lanes, at, for_each
from tests.faults.strace import Fault, make_faults
from tests.part import require

REFUSED: Final = ("EPERM", "EINVAL", "ENOMEM", "EINTR")
FULL: Final = ("ENOSPC", "EPERM", "ENOMEM", "EINTR")
BUSY: Final = ("EAGAIN", "EPERM", "EINTR")
OPEN: Final = ("EMFILE", "EACCES", "ENOENT", "EINTR")

INIT: Final[dict[str, tuple[str, ...]]] = {
    "capset": REFUSED,
    "chdir": OPEN,
    "close_range": REFUSED,
    "dup2": ("EBUSY", "EMFILE", "EINTR"),
    "dup3": ("EBUSY", "EMFILE", "EINTR"),
    "fchdir": OPEN,
    "fchmod": REFUSED,
    "fchmodat": REFUSED,
    "fchown": REFUSED,
    "fcntl": ("EMFILE", "EPERM"),
    "fsconfig": (*REFUSED, "EBUSY"),
    "fsmount": REFUSED,
    "fsopen": ("ENODEV", *REFUSED),
    "ioctl": REFUSED,
    "keyctl": ("EDQUOT", "ENOSYS", *REFUSED),
    "landlock_add_rule": (*REFUSED, "EBADFD"),
    "landlock_create_ruleset": (*REFUSED, "EOPNOTSUPP", "EMFILE"),
    "landlock_restrict_self": (*REFUSED, "E2BIG"),
    "mkdirat": FULL,
    "mknodat": FULL,
    "mount": REFUSED,
    "mount_setattr": (*REFUSED, "ENOSYS"),
    "move_mount": ("ENOSPC", *REFUSED),
    "newfstatat": ("ENOMEM", "EACCES"),
    "open_tree": ("ENOSPC", "EMFILE", *REFUSED),
    "openat": OPEN,
    "openat2": ("EMFILE", "EACCES", "EINTR", "EAGAIN", "ENOSYS"),
    "pivot_root": REFUSED,
    "prctl": REFUSED,
    "prlimit64": ("EPERM", "EINVAL"),
    "recvfrom": ("ENOMEM", "ECONNRESET", "EINTR"),
    "recvmsg": ("ENOMEM", "EMFILE", "EINTR"),
    "seccomp": (*REFUSED, "EACCES", "ENOSYS"),
    "sendmsg": ("ENOBUFS", "EPIPE", "ETOOMANYREFS", "EINTR"),
    "setgroups": REFUSED,
    "sethostname": REFUSED,
    "setresgid": BUSY,
    "setresuid": BUSY,
    "socket": ("EMFILE", "EACCES", "EAFNOSUPPORT"),
    "symlinkat": FULL,
    "umount2": ("EBUSY", *REFUSED),
    "write": FULL,
}

HARMLESS: Final[dict[str, str]] = {
    "close": "the descriptor is gone, whatever the kernel answers: close(2)",
    "getsockname": "looks",
    "getsockopt": "looks",
    "gettid": "looks, and can't fail",
    "umask": "can't fail: umask(2)",
    "rt_sigprocmask": "can't fail with a mask that is one",
    "restart_syscall": "a poll that went on after the tracer came",
    **dict.fromkeys(("brk", "mmap", "mprotect", "munmap", "madvise", "futex"), "Python's memory"),
}

SHARED: Final = ("openat", "write", "sendmsg")

ZYGOTE: Final[dict[str, tuple[str, ...]]] = {
    "clone3": ("EPERM", "ENOSPC", "EUSERS", "EAGAIN", "ENOMEM", "EINVAL"),
    "openat": ("EACCES", "ENOENT", "EMFILE"),
    "poll": ("ENOMEM", "EINTR"),
    "read": ("EAGAIN", "EINTR"),
    "recvmsg": ("ENOMEM", "EMFILE", "EINTR"),
    "sendmsg": ("ENOBUFS", "EPIPE", "ETOOMANYREFS", "EINTR"),
    "socketpair": ("EMFILE", "ENOMEM"),
    "wait4": ("EINTR",),
    "write": ("EPERM", "EINVAL", "EINTR"),
}

STEP: Final[dict[str, str]] = {
    "capset": "capset",
    "close_range": "close_range",
    "fchdir": "pivot_root",
    "ioctl": "lo up",
    "keyctl": "keyring",
    "landlock_add_rule": "landlock",
    "landlock_create_ruleset": "landlock",
    "landlock_restrict_self": "landlock",
    "mount": "mounts private",
    "pivot_root": "pivot_root",
    "prlimit64": "rlimit",
    "seccomp": "seccomp",
    "setgroups": "setgroups",
    "sethostname": "sethostname",
    "socket": "lo up",
    "umount2": "pivot_root",
}
"""the step that the error of a failed call names, by which the doctor finds the cause"""

SURVIVED: Final[dict[tuple[str, str], str]] = {
    **dict.fromkeys(
        (("openat", errno) for errno in OPEN),
        "another directory of the host's does as well to build under",
    ),
    ("seccomp", "EINVAL"): "an older kernel's: the listener is asked for without its newest flag",
    ("openat2", "EACCES"): "what can't be seen of a lower tree is made in the upper one",
}
"""(call, errno) of an init that a birth may get over; the report says that nothing is missing"""

IN_FORCE: Final = (
    *(f"Cap{name}: 0000000000000000" for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")),
    "NoNewPrivs: 1",
    "Seccomp: 2",
    "Seccomp_filters: 1",
)

NEVER_PLANNED: Final = {"MakeDir"}


def find_flaw(kind: Kind, fault: Fault, outcome: Outcome, survived: bool) -> str:
    """What is wrong with how a jail took a fault, "" for nothing.

    ``survived``: it may have been born, as long as nothing is missing.
    """
    if outcome.trace is None or not outcome.trace.count_injected():
        return "the call was not made any more"
    if outcome.report is None:
        if kind.witness:
            return "refused, but a program ran"
        if not is_honest(outcome.error):
            return f"dishonest: {outcome.error!r}"
        step = getattr(outcome.error, "step", "")
        return f"blamed on {step!r}" if STEP.get(fault.call, step) != step else ""
    if outcome.report != kind.report:
        return f"a weaker jail: {describe_difference(kind.report, outcome.report)}"
    # Python itself makes an interrupted call again.
    return "" if survived or fault.action == "error=EINTR" else "nobody noticed"


async def fail_each(lanes: Lanes, faults: Mapping[str, tuple[str, ...]]) -> None:
    """Every call of ``faults`` as often as it is made; all flaws in one assertion."""
    flaws: list[str] = []

    async def work(nursery: Nursery, kind: Kind) -> None:
        for call, errnos in faults.items():
            for fault in make_faults(call, kind.calls[call], errnos):
                outcome = await nursery.bear(kind, fault)
                errno = fault.action.removeprefix("error=")
                survived = nursery.place == "zygote" or (call, errno) in SURVIVED
                if flaw := find_flaw(kind, fault, outcome, survived):
                    flaws.append(f"{kind.name}: {fault}: {flaw}")

    await for_each(lanes, work)
    assert not flaws, "\n".join(flaws)


async def list_calls(lanes: Lanes) -> set[str]:
    seen: set[str] = set()

    async def look(_: Nursery, kind: Kind) -> None:
        seen.update(kind.calls)

    await for_each(lanes, look)
    return seen


async def test_every_call_of_an_init_is_one_that_is_made_to_fail(lanes: Lanes) -> None:
    require("landlock")
    seen = await list_calls(lanes)
    assert seen - INIT.keys() - HARMLESS.keys() == set()
    assert INIT.keys() - seen == set(), "no birth makes these calls any more"


@at("zygote")
async def test_every_call_of_a_zygote_is_one_that_is_made_to_fail(lanes: Lanes) -> None:
    seen = await list_calls(lanes)
    assert seen - ZYGOTE.keys() - HARMLESS.keys() == set()


async def test_every_kind_of_step_is_in_a_birth_that_fails(lanes: Lanes) -> None:
    """A step that no jail here has would be one whose calls nobody made fail."""
    kinds: set[str] = set()
    for nursery, lane in lanes:
        for kind in lane:
            plan = plan_jail(make_spec(**kind.options), nursery.supervisor.facts)
            kinds |= {type(step).__name__ for step in plan.launch.steps}
    assert STEPS.keys() - kinds == NEVER_PLANNED


async def test_a_birth_without_a_fault_has_every_layer(lanes: Lanes) -> None:
    """It is what the others are measured by."""
    require("landlock")

    async def work(_: Nursery, kind: Kind) -> None:
        for said in kind.report["program"], kind.report["agent"]:
            assert set(IN_FORCE) <= {line.replace("\t", " ") for line in said}
        assert kind.report["shared namespaces"] == []
        assert kind.report["agent is dumpable"] is False
        assert "jail" in kind.report["program"]  # the host's name is another
        assert f"{WITHOUT_LANDLOCK} 1" in kind.report["program"]
        points = [mount[1] for mount in kind.report["mounts"]]
        assert len(points) == len(set(points)) > 10
        assert not {"/home", "/root", "/var", "/run", "/sys"} & set(points)

    await for_each(lanes, work)


@pytest.mark.parametrize("call", INIT)
async def test_a_failed_call_of_an_init_means_no_jail(lanes: Lanes, call: str) -> None:
    require(*{call.partition("_")[0]} & {"landlock"})
    await fail_each(lanes, {call: INIT[call]})


@at("spare")
@pytest.mark.parametrize("call", SHARED)
async def test_a_failed_call_of_a_waiting_init_means_no_jail(lanes: Lanes, call: str) -> None:
    """Calls that the zygote makes, too: it takes no fault here, so the first is init's own."""
    await fail_each(lanes, {call: INIT[call]})


@at("zygote")
@pytest.mark.parametrize("call", ZYGOTE)
async def test_a_failed_call_of_the_zygote_means_no_weaker_jail(lanes: Lanes, call: str) -> None:
    await fail_each(lanes, {call: ZYGOTE[call]})
    for nursery, kinds in lanes:
        async with nursery.supervisor.open_jail(**kinds[0].options) as j:
            assert await read_report(j) == kinds[0].report
