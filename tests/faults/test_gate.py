"""A gate that could not be set up means that the program never ran.

As ``test_birth.py``, for the calls that only a filtered network makes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest

from jail import Supervisor
from tests.faults.birth import Kind, Nursery, every_init_is_new, is_honest
from tests.faults.strace import make_faults
from tests.part import require

REFUSED: Final = ("EPERM", "EINVAL", "ENOMEM")
CALLS: Final = {
    "socket": ("EMFILE", "EACCES", "EPROTONOSUPPORT"),
    "bind": ("EADDRINUSE", "EACCES"),
    "listen": ("EADDRINUSE",),
    "setsockopt": REFUSED,
    "sendto": ("ENOBUFS", "EPERM"),
    "recvfrom": ("EAGAIN", "ENOBUFS"),
    "sendmsg": ("ENOBUFS", "ETOOMANYREFS"),
}
STEPS: Final = ("gate routes", "gate rules", "gate sockets", "gate log")
OTHERS: Final = ("socket", "recvfrom", "sendmsg")
"""are made for other things, too"""


@pytest.mark.parametrize("call", CALLS)
async def test_a_failed_call_for_a_gate_means_no_jail(
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    require("strace")
    every_init_is_new(monkeypatch)
    out = tmp_path / "out"
    out.mkdir()
    options: dict[str, Any] = {"userns": "single", "volumes": [f"{out}:/out"]}
    kind = Kind("filtered", "single", {**options, "network": "filtered", "allow": ["a.test"]}, out)
    nursery = Nursery(supervisor, tmp_path, "init")
    await nursery.learn(kind)
    assert kind.calls[call] > 0
    flaws = []
    for fault in make_faults(call, kind.calls[call], CALLS[call]):
        outcome = await nursery.bear(kind, fault)
        step = getattr(outcome.error, "step", "")
        if outcome.report is not None or kind.witness:
            flaws.append(f"{fault}: it was born")
        elif not is_honest(outcome.error):
            flaws.append(f"{fault}: dishonest: {outcome.error!r}")
        elif step not in STEPS and call not in OTHERS:
            flaws.append(f"{fault}: blamed on {step!r}")
    assert not flaws, "\n".join(flaws)
