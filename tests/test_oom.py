"""Whom the kernel may kill for want of memory: every jail, whatever its supervisor was promised."""

from __future__ import annotations

from pathlib import Path

import pytest

from jail import Supervisor
from jail.cgroup.room import may_swap_unseen
from jail.kernel.process import lift_oom_protection

pytestmark = pytest.mark.beside


@pytest.mark.parametrize(
    ("promised", "left"), [("-1000", "0"), ("-17", "0"), ("0", "0"), ("300", "300")]
)
def test_a_promise_not_to_be_killed_is_not_handed_on(
    tmp_path: Path, promised: str, left: str
) -> None:
    """The kernel's file takes a write as a whole; what an ordinary one keeps is at its front."""
    path = tmp_path / "oom_score_adj"
    path.write_text(promised)
    lift_oom_protection(str(path))
    assert path.read_text().removeprefix(promised) in (left, "")
    assert (path.read_text() == promised) == (promised == left)


async def test_no_jail_is_protected(supervisor: Supervisor) -> None:
    async with supervisor.open_jail() as j:
        assert int(Path(f"/proc/{j.init_pid}/oom_score_adj").read_text()) >= 0


@pytest.mark.parametrize(
    ("swaps", "files", "unseen"),
    [
        ("Filename Type Size\n/swap file 1\n", {"cgroup.type"}, True),
        ("Filename Type Size\n/swap file 1\n", {"cgroup.type", "memory.swap.max"}, False),
        ("Filename Type Size\n", {"cgroup.type"}, False),
        ("Filename Type Size\n/swap file 1\n", set[str](), False),
    ],
)
def test_a_memory_limit_that_swap_gets_around_is_no_limit(
    tmp_path: Path, swaps: str, files: set[str], unseen: bool
) -> None:
    for name in files:
        (tmp_path / name).touch()
    (tmp_path / "swaps").write_text(swaps)
    assert may_swap_unseen(tmp_path, str(tmp_path / "swaps")) is unseen
