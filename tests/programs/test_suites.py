"""Regression tests that others wrote, of CPython and of numpy, under the policies."""

from __future__ import annotations

import subprocess
from typing import Any, Final

import pytest

from jail import Supervisor
from tests.part import require
from tests.programs.program import PYTHON3
from tests.programs.test_programs import fine

pytestmark = pytest.mark.beside

ROOM: Final[dict[str, Any]] = {
    "memory": "2g",
    "disk": "1g",
    "pids_limit": 500,
    "wall_time": "170s",
    "cpu_time": "170s",
    "ulimits": {"fsize": "unlimited"},
}
# What starts no process and has no socket of its own; files, memory, time, threads.
ALONE: Final = (
    "test_mmap test_fileio test_file test_glob test_math test_zlib test_hashlib test_array"
    " test_filecmp test_threading_local test_threadedtempfile test_largefile test_dbm_dumb"
    " test_fileinput test_contextlib test_resource test_sched"
)
# Listeners of multiprocessing would be on lo, which is not there.
TOGETHER: Final = "test_multiprocessing_fork test_selectors"
ONLY: Final = ("*Lock*", "*SharedMemory*", "*WithProcessesTestPool*", "*Selector*")
WHOLE: Final = (
    "test_os test_posix test_subprocess test_threading test_select test_poll test_epoll test_fcntl"
    " test_pty test_shutil test_thread test_fork1 test_wait4 test_threadsignals test_tempfile"
)
SERVERS: Final = "test_socket test_httpservers test_selectors"


@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    ("policy", "tests"),
    [("strict", ALONE), ("compute", TOGETHER), ("default", WHOLE), ("network", SERVERS)],
    ids=["strict", "compute", "default", "network"],
)
async def test_cpython_passes_its_own_tests(
    supervisor: Supervisor, policy: str, tests: str
) -> None:
    if not _has_module("test.test_os"):
        require("the tests of its Python")
    options = ["-u", "none", "--timeout", "60", "-w"]  # on a busy machine some deserve a second try
    if policy != "strict":
        options.append("-j4")  # most of them sleep
    if policy == "compute":
        options += [word for each in ONLY for word in ("-m", each)]
    async with supervisor.open_jail(seccomp=policy, **ROOM) as j:
        said = fine(await j.run([PYTHON3, "-m", "test", *options, *tests.split()]))
    assert said.rstrip().endswith(b"SUCCESS")
    assert b"skipped" not in said


NUMPY: Final = (
    "core/tests/test_memmap.py",
    "core/tests/test_nditer.py",
    "core/tests/test_umath.py",
    "fft/tests/test_pocketfft.py",
    "random/tests/test_random.py",
)
ALGEBRA: Final = ("linalg/tests/test_linalg.py",)
MOST: Final = "not unraisable"  # starts a process
SOME: Final = "TestSVD or TestSolve or TestQR or TestCholesky or TestInv or TestNorm"


@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    ("policy", "tests", "chosen"),
    [("strict", NUMPY, MOST), ("compute", ALGEBRA, SOME)],
    ids=["strict", "compute"],
)
async def test_numpy_passes_its_own_tests(
    supervisor: Supervisor, policy: str, tests: tuple[str, ...], chosen: str
) -> None:
    if not _has_module("numpy.core.tests.test_umath"):
        require("python3-numpy")
    if not _has_module("pytest") or not _has_module("hypothesis"):
        require("python3-pytest and python3-hypothesis")
    script = "import os, sys, numpy, pytest; os.chdir(numpy.__path__[0]); sys.exit(pytest.main())"
    options = ["-q", "-p", "no:cacheprovider", "-k", chosen]
    async with supervisor.open_jail(seccomp=policy, env={"HOME": "/tmp"}, **ROOM) as j:
        said = fine(await j.run([PYTHON3, "-c", script, *options, *tests]))
    assert b" passed" in said


def _has_module(name: str) -> bool:
    """Whether the system's own Python has it, which is the one inside."""
    command = [PYTHON3, "-c", f"import {name}"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
