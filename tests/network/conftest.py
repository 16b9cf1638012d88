"""One world for all tests of this folder; what it remembers is of one test only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.network.world import World, open_world
from tests.part import PARTS, require

PARTS_OF_A_WORLD = ("openssl", "ip", "unshare", "nsenter")


@pytest.fixture(scope="session")
def the_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    require(*PARTS_OF_A_WORLD)
    kind = "subuid" if PARTS["subuid"]() else "single"
    with open_world(kind, tmp_path_factory.mktemp("world")) as world:
        yield world


@pytest.fixture(autouse=True)
def _leak_oracle(the_world: World, _leak_oracle: None) -> None:
    """The oracle of all tests, but the world is there before its first look."""


@pytest.fixture
def world(the_world: World, _leak_oracle: None) -> World:
    the_world.forget()
    return the_world


@pytest.fixture(scope="session")
def clients() -> list[str]:
    """Options with which httpx can be imported inside."""
    packages = Path(httpx.__file__).parents[1]
    return ["-v", f"{packages}:/packages:ro", "-e", "PYTHONPATH=/packages"]
