"""What tests share: the leak oracle around each of them, a supervisor, a root filesystem."""

from __future__ import annotations

import gc
import os
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import jail
from jail import Jail, Supervisor
from jail.host import read_facts
from tests import oracle
from tests.part import find_reason, is_allowed_in_ci, require
from tests.probe import Probe, build_probe
from tests.rootfs import make_rootfs
from tests.sight import DEADLINE_S, find_marked
from tests.tree import CANARY, hash_tree

OpenJail = Callable[..., AbstractAsyncContextManager[Jail]]

IN_CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")


def pytest_addoption(parser: pytest.Parser) -> None:
    """``ci/test`` runs the two kinds one after the other; without an option both are run."""
    group = parser.getgroup("jail")
    for kind, what in {"beside": "those marked as beside", "alone": "all others"}.items():
        group.addoption(
            f"--{kind}", dest="company", action="store_const", const=kind, help=f"run only {what}"
        )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "beside: keeps no time, so a busy machine is fine")
    oracle.adopt_orphans()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Whoever says nothing keeps time, and runs alone."""
    company = config.getoption("company")
    if company is None:
        return
    kinds: dict[str, list[pytest.Item]] = {"beside": [], "alone": []}
    for item in items:
        kinds["beside" if item.get_closest_marker("beside") else "alone"].append(item)
    items[:] = kinds.pop(company)
    (others,) = kinds.values()
    config.hook.pytest_deselected(items=others)


def pytest_collection_finish() -> None:
    """What was read until now stays to the end: the oracle's collections need not go through it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _leak_oracle(request: pytest.FixtureRequest) -> Iterator[None]:
    """Nothing outlives a test: see :mod:`tests.oracle`."""
    folder = request.getfixturevalue("tmp_path") if "tmp_path" in request.fixturenames else None
    before = oracle.take_snapshot()
    yield
    leaks = oracle.wait_until_clean(before)
    if folder is not None:
        leaks += oracle.find_strays(folder)
    if leaks:
        oracle.kill_family()
        pytest.fail("left behind:\n  " + "\n  ".join(leaks), pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        fail_in_ci(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if report.skipped:
        fail_in_ci(report)
    return report


def fail_in_ci(report: pytest.TestReport | pytest.CollectReport) -> None:
    """There everything is installed: a skip means that something went unseen."""
    where = report.longrepr
    reason = find_reason(where[2] if isinstance(where, tuple) else str(where))
    if isinstance(where, tuple):
        report.longrepr = (where[0], where[1], f"Skipped: {reason}")
    if IN_CI and not is_allowed_in_ci(reason):
        report.outcome = "failed"
        report.longrepr = f"skipped, which is a failure in CI: {reason}"


@pytest.fixture
async def supervisor() -> AsyncGenerator[Supervisor, None]:
    """For tests that open jails; its zygotes start when the first jail wants them."""
    async with jail.open_supervisor() as supervisor:
        yield supervisor


@pytest.fixture(params=["auto", "single"])
def userns(request: pytest.FixtureRequest) -> str:
    """Both ways to map ids."""
    if request.param == "auto":
        require("subuid")
    return str(request.param)


@pytest.fixture
def open_jail(supervisor: Supervisor, userns: str) -> OpenJail:
    """``supervisor.open_jail`` under either way to map ids."""

    def open_(**options: Any) -> AbstractAsyncContextManager[Jail]:
        return supervisor.open_jail(userns=userns, **options)

    return open_


@pytest.fixture
async def open_bare_jail(userns: str) -> AsyncGenerator[OpenJail, None]:
    """As ``open_jail``, on a host without Landlock: what holds there, and the control of what
    Landlock adds.
    """
    facts = replace(read_facts(), landlock_abi=0)
    async with jail.open_supervisor(facts) as supervisor:

        def open_(**options: Any) -> AbstractAsyncContextManager[Jail]:
            return supervisor.open_jail(userns=userns, **options)

        yield open_


@pytest.fixture(scope="session")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Probe:
    """The program that tries one thing at a time, static: it runs in any root filesystem."""
    require("gcc")
    return build_probe(tmp_path_factory.mktemp("probe"))


@pytest.fixture(scope="session")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root filesystem of busybox alone. For reading: a hostile one makes its own."""
    require("busybox")
    folder = tmp_path_factory.mktemp("rootfs")
    make_rootfs(folder)
    return folder


@pytest.fixture
def own_rootfs(tmp_path: Path) -> Path:
    """As ``rootfs``, for one test to spoil."""
    require("busybox")
    folder = tmp_path / "rootfs"
    make_rootfs(folder)
    return folder


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory of the host's with a secret in it, which must stay there and as it is."""
    folder = tmp_path / "outside"
    (folder / "sub").mkdir(parents=True)
    for name in ("file", "sub/file"):
        (folder / name).write_bytes(CANARY)
        (folder / name).chmod(0o644)
    monkeypatch.setenv("CANARY", CANARY.decode())
    before = hash_tree(folder)
    yield folder
    assert hash_tree(folder) == before, "something outside has been changed"


@pytest.fixture
def share(tmp_path: Path) -> Path:
    """A volume for a program to write: its names are real on the host."""
    folder = tmp_path / "share"
    folder.mkdir()
    return folder


@pytest.fixture
def marker() -> Iterator[str]:
    """A word that only this test's programs have on their command line."""
    word = f"marker-{uuid.uuid4().hex}"
    yield word
    deadline = time.monotonic() + DEADLINE_S
    while find_marked(word):
        assert time.monotonic() < deadline, "a program outlived its jail"
        time.sleep(0.01)
