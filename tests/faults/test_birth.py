"""A layer that could not be set up means that the program never ran.

Every system call that a jail's init makes between its clone and Ready, and every one that the
zygote makes for it, fails once. The calls are counted, not listed: a step that is added is made
to fail as well; one that needs a call nobody thought of fails
``test_every_call_of_a_birth_is_one_that_we_make_fail``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
import trio

from jail import Supervisor
from tests.faults.birth import Kind, Nursery, Outcome, every_init_is_new, is_honest, make_kinds
from tests.faults.strace import Fault
from tests.part import require

REFUSED: Final = ("EPERM", "EINVAL", "ENOMEM", "EINTR")
FULL: Final = ("ENOSPC", "EPERM", "ENOMEM", "EINTR")
BUSY: Final = ("EAGAIN", "EPERM", "EINTR")
OPEN: Final = ("EMFILE", "EACCES", "ENOENT", "EINTR")

FAULTS: Final[dict[str, tuple[str, ...]]] = {
    "capset": REFUSED,
    "chdir": OPEN,
    "close_range": REFUSED,
    "dup2": ("EBUSY", "EMFILE", "EINTR"),
    "dup3": ("EBUSY", "EMFILE", "EINTR"),
    "fchdir": OPEN,
    "fchmod": REFUSED,
    "fchown": REFUSED,
    "fcntl": ("EMFILE", "EPERM"),
    "fsconfig": (*REFUSED, "EBUSY"),
    "fsmount": REFUSED,
    "fsopen": ("ENODEV", *REFUSED),
    "ioctl": REFUSED,
    "keyctl": ("EDQUOT", "ENOSYS", *REFUSED),
    "mkdirat": FULL,
    "mknodat": FULL,
    "mount": REFUSED,
    "mount_setattr": (*REFUSED, "ENOSYS"),
    "move_mount": ("ENOSPC", *REFUSED),
    "newfstatat": ("ENOMEM", "EACCES"),
    "open_tree": ("ENOSPC", "EMFILE", *REFUSED),
    "openat": OPEN,
    "openat2": (*OPEN, "EAGAIN", "ENOSYS"),
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
    "rt_sigprocmask": "can't fail with a mask that is one",
    **dict.fromkeys(("brk", "mmap", "mprotect", "munmap", "madvise", "futex"), "Python's memory"),
}

SURVIVED: Final[dict[tuple[str, str], str]] = {}
"""(call, errno) that a birth gets over with nothing missing; the report must say so"""


@pytest.fixture
def lanes(
    supervisor: Supervisor, tmp_path: Path, rootfs: Path, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[Nursery, list[Kind]]]:
    """Kinds of jails that are born side by side; those of one lane share a zygote."""
    require("strace", "subuid")
    every_init_is_new(monkeypatch)
    kinds = make_kinds(tmp_path, rootfs)
    return [
        (Nursery(supervisor, tmp_path), [kind for kind in kinds if kind.ids == ids])
        for ids in ("single", "subuid")
    ]


Lanes = list[tuple[Nursery, list[Kind]]]


async def for_each(lanes: Lanes, work: Callable[[Nursery, Kind], Awaitable[None]]) -> None:
    async def walk(nursery: Nursery, kinds: list[Kind]) -> None:
        for kind in kinds:
            await nursery.learn(kind)
            await work(nursery, kind)

    async with trio.open_nursery() as tasks:
        for lane in lanes:
            tasks.start_soon(walk, *lane)


def make_faults(call: str, count: int) -> Iterator[Fault]:
    """Each of the ``count`` calls once, and each errno once."""
    errnos = FAULTS[call]
    for i in range(max(count, len(errnos)) if count else 0):
        yield Fault(call, 1 + i % count, f"error={errnos[i % len(errnos)]}")


def find_flaw(kind: Kind, fault: Fault, outcome: Outcome) -> str:
    """What is wrong with how a jail took a fault, "" for nothing."""
    if not outcome.injected:
        return "the call was not made any more"
    if outcome.report is None:
        if kind.witness:
            return "refused, but a program ran"
        return "" if is_honest(outcome.error) else f"dishonest: {outcome.error!r}"
    if outcome.report != kind.report:
        return f"a weaker jail: {outcome.report}"
    errno = fault.action.removeprefix("error=")
    if errno == "EINTR" or (fault.call, errno) in SURVIVED:
        return ""
    return "nobody noticed"


async def test_every_call_of_a_birth_is_one_that_we_make_fail(lanes: Lanes) -> None:
    seen: set[str] = set()

    async def look(_: Nursery, kind: Kind) -> None:
        seen.update(kind.calls)

    await for_each(lanes, look)
    assert seen - FAULTS.keys() - HARMLESS.keys() == set()
    assert FAULTS.keys() - seen == set(), "no birth makes these calls any more"


@pytest.mark.parametrize("call", FAULTS)
async def test_a_failed_call_of_init_means_no_jail(lanes: Lanes, call: str) -> None:
    flaws: list[str] = []

    async def fail_each(nursery: Nursery, kind: Kind) -> None:
        for fault in make_faults(call, kind.calls[call]):
            flaw = find_flaw(kind, fault, await nursery.bear(kind, fault))
            if flaw:
                flaws.append(f"{kind.name}: {fault}: {flaw}")

    await for_each(lanes, fail_each)
    assert not flaws, "\n".join(flaws)
