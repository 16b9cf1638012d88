"""What every attack has beside it: an honest neighbour, whom it must not touch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attacks.neighbour import Neighbour


class Street:
    """Where the neighbour lives; a new one moves in when an attack has killed the last."""

    def __init__(self) -> None:
        self._neighbour: Neighbour | None = None

    def get_neighbour(self) -> Neighbour:
        if self._neighbour is not None and not self._neighbour.is_alive:
            self.close()
        if self._neighbour is None:
            self._neighbour = Neighbour()
        return self._neighbour

    def close(self) -> None:
        if self._neighbour is not None:
            self._neighbour.close()
            self._neighbour = None


@pytest.fixture(scope="package")
def street() -> Iterator[Street]:
    street = Street()
    yield street
    street.close()


@pytest.fixture
def neighbour(street: Street) -> Neighbour:
    return street.get_neighbour()


@pytest.fixture(autouse=True)
def _leak_oracle(neighbour: Neighbour, _leak_oracle: None) -> None:
    """The oracle of all tests, but the neighbour is there before its first look."""


@pytest.fixture(autouse=True)
def _neighbourhood_watch(_leak_oracle: None, neighbour: Neighbour) -> Iterator[None]:
    """During every attack an honest jail finishes correctly and in time."""
    neighbour.work()
    yield
    wrong = neighbour.rest()
    if wrong:
        pytest.fail("the neighbour suffered:\n  " + "\n  ".join(wrong), pytrace=False)


@pytest.fixture(params=["host", "busybox"])
def root(request: pytest.FixtureRequest) -> str | Path:
    """Both kinds of root filesystem: parts of the host's, and a tree of one's own."""
    if request.param == "host":
        return "host"
    folder: Path = request.getfixturevalue("rootfs")
    return folder


@pytest.fixture(scope="session")
def probe_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tables of the probe's positive controls are written."""
    return tmp_path_factory.mktemp("control")
