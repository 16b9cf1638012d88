"""Tests that need a delegated cgroup v2: ``ci/test`` runs them in the virtual machine of ``ci/vm``.

There every part is installed and the kernel is known, so whatever is skipped went unseen.
"""

from __future__ import annotations

from collections.abc import Generator

import pytest

from tests.conftest import IN_CI
from tests.part import require


@pytest.fixture(autouse=True)
def _delegated() -> None:
    require("cgroup")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which is a failure here: {report.longrepr}"
    return report
