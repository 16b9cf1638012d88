"""The lanes that births are looked at in."""

from __future__ import annotations

from pathlib import Path

import pytest

from jail import Supervisor
from tests.faults.birth import Nursery, every_init_is_new, make_kinds
from tests.faults.lane import Lanes
from tests.part import require


@pytest.fixture
def lanes(
    supervisor: Supervisor, tmp_path: Path, rootfs: Path, request: pytest.FixtureRequest
) -> Lanes:
    """Kinds of jails that are born side by side; those of one lane share a zygote.

    The parameter is the place of the fault: see :class:`Nursery`.
    """
    require("strace", "subuid")
    place = getattr(request, "param", "init")
    if place != "spare":
        every_init_is_new(request.getfixturevalue("monkeypatch"))
    kinds = make_kinds(tmp_path, rootfs)
    return [
        (Nursery(supervisor, tmp_path, place), [kind for kind in kinds if kind.ids == ids])
        for ids in ("single", "subuid")
    ]
