"""A host, or a process, that has run out of something: an error that says so, and no hang.

A cache that can't be written is done without; a directory that can't be had is the host's fault;
a program that can't be watched any more does not go on unwatched.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Final

import pytest
import trio

import jail
from jail import Supervisor, Verdict
from jail.doctor import find_cause
from jail.host import HostFacts, read_facts
from jail.policy.cache import read_bpf
from jail.policy.load import load_policy
from tests.part import require

ROOT: Final = Path(__file__).resolve().parents[2]


@pytest.fixture
def facts(tmp_path: Path) -> HostFacts:
    """This host's, with directories of our own."""
    return replace(read_facts(), runtime_dir=tmp_path / "run", cache_dir=tmp_path / "cache")


async def works(facts: HostFacts, userns: str) -> bool:
    async with jail.open_supervisor(facts) as own, own.open_jail(userns=userns) as j:
        return (await j.run(["echo", "alive"], timeout=10)).stdout == b"alive\n"


# -- directories ----------------------------------------------------------------------------------


def make_missing(path: Path) -> None:
    path.parent.chmod(0o500)


def make_read_only(path: Path) -> None:
    path.mkdir(mode=0o500)


def make_a_file(path: Path) -> None:
    path.write_text("not a directory")


def make_a_dangling_link(path: Path) -> None:
    path.symlink_to("nowhere")


def make_open_to_all(path: Path) -> None:
    path.mkdir()
    path.chmod(0o777)


SPOIL: Final[dict[str, Callable[[Path], None]]] = {
    "missing": make_missing,
    "read-only": make_read_only,
    "a file": make_a_file,
    "a dangling link": make_a_dangling_link,
    "open to all": make_open_to_all,
}


@contextmanager
def spoilt(kind: str, path: Path) -> Iterator[None]:
    SPOIL[kind](path)
    try:
        yield
    finally:
        path.parent.chmod(0o700)


@pytest.mark.parametrize("kind", SPOIL)
async def test_a_cache_that_cannot_be_written_is_done_without(kind: str, facts: HostFacts) -> None:
    bpf = read_bpf(load_policy("default"), None, "none")
    with spoilt(kind, facts.cache_dir):
        assert read_bpf(load_policy("default"), facts.cache_dir, "none") == bpf
        assert await works(facts, "single")


@pytest.mark.parametrize("kind", SPOIL)
async def test_a_runtime_directory_that_cannot_be_had_is_the_host_s_failure(
    kind: str, facts: HostFacts
) -> None:
    """It is for subordinate ids alone; the jails that need none go on."""
    require("subuid")
    with spoilt(kind, facts.runtime_dir):
        async with jail.open_supervisor(facts) as supervisor:
            with pytest.raises(jail.HostError, match=r"run\b") as caught:
                async with supervisor.open_jail(userns="auto"):
                    pass
            assert caught.value.step == "runtime dir"
            async with supervisor.open_jail(userns="single") as j:
                assert (await j.run(["echo", "alive"], timeout=10)).stdout == b"alive\n"


FULL: Final = """
mount -t tmpfs -o size=1m,nr_inodes=$2 none $1
mkdir -m 700 $1/run
dd if=/dev/zero of=$1/full bs=64k 2>/dev/null || :
export XDG_RUNTIME_DIR=$1/run XDG_CACHE_HOME=$1
exec "$3" -c 'import jail; print(jail.run(["echo", "alive"], userns="single").stdout)'
"""


@pytest.mark.parametrize("inodes", [3, 100])
def test_a_jail_on_a_host_whose_file_system_is_full_works(tmp_path: Path, inodes: int) -> None:
    """Or has not an inode left."""
    done = run_in_own_namespace(FULL, str(tmp_path), str(inodes), sys.executable)
    assert (done.returncode, done.stdout) == (0, b"b'alive\\n'\n"), done.stderr.decode()


def run_in_own_namespace(script: str, *words: str) -> subprocess.CompletedProcess[bytes]:
    """A shell as root of a user namespace with mounts of its own."""
    require("unshare")
    return subprocess.run(
        ["unshare", "-Urm", "sh", "-ec", script, "sh", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=60,
        check=False,
    )


# -- descriptors ----------------------------------------------------------------------------------


@contextmanager
def no_more_files() -> Iterator[None]:
    """What is open stays open; not one more can be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_program_that_cannot_be_watched_any_more_is_ended(supervisor: Supervisor) -> None:
    """Nobody would hold its limits. (It went on, and whoever waited for it waited for ever.)"""
    async with supervisor.open_jail(userns="single") as j, j.start(["sleep", "60"]) as process:
        with no_more_files(), trio.fail_after(10):
            result = await process.wait()
    assert result.verdict is Verdict.IE
    assert "watch" in result.message


@contextmanager
def few_more_files(count: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    is_open = {int(name) for name in os.listdir("/proc/self/fd")}
    free = (number for number in range(hard) if number not in is_open)
    resource.setrlimit(resource.RLIMIT_NOFILE, (next(islice(free, count, None)), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("count", range(9))
async def test_a_jail_for_which_some_descriptors_are_too_few_is_an_error_of_the_host(
    supervisor: Supervisor, count: int
) -> None:
    """Those that find no room on their way to us are dropped: unix(7), MSG_CTRUNC."""
    async with supervisor.open_jail(userns="single") as j:
        await j.run(["true"])  # its listener is here: it comes behind what says that it is built
        with trio.fail_after(10), few_more_files(count), pytest.raises(jail.JailError):
            async with supervisor.open_jail(userns="single") as other:
                await other.run(["true"])
        assert (await j.run(["echo", "alive"], timeout=10)).stdout == b"alive\n"


async def test_a_descriptor_from_inside_that_finds_no_room_is_an_error_of_the_host(
    supervisor: Supervisor,
) -> None:
    """It was the jail that was accused: of more of them than any message brings."""
    async with supervisor.open_jail(userns="single") as j:
        await j.run(["true"])
        with no_more_files(), trio.fail_after(10), pytest.raises(jail.HostError) as caught:
            await j.get("/etc/hostname")
    assert caught.value.step == "descriptors"


async def test_a_run_that_finds_no_pipe_leaves_the_jail_alive(supervisor: Supervisor) -> None:
    async with supervisor.open_jail(userns="single") as j, j.start(["sleep", "60"]) as process:
        with no_more_files(), pytest.raises(jail.HostError, match="open files") as caught:
            await j.run(["true"])
        cause = find_cause(caught.value.step, caught.value.errno, supervisor.facts)
        assert cause is not None
        assert cause.lines == ("ulimit -n 65536",)
        assert (await j.run(["echo", "alive"], timeout=10)).stdout == b"alive\n"
        assert process.returncode is None


async def test_a_jail_that_finds_no_descriptor_leaves_its_siblings_alone(
    supervisor: Supervisor,
) -> None:
    async with supervisor.open_jail(userns="single") as sibling:
        with no_more_files(), pytest.raises(jail.HostError, match="open files"):
            async with supervisor.open_jail(userns="single"):
                pass
        assert (await sibling.run(["echo", "alive"], timeout=10)).stdout == b"alive\n"
        assert await works(supervisor.facts, "single")
