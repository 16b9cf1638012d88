"""The table of programs: each under every policy that claims to run it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Final

import pytest
import trio

import jail
from jail import Jail, Result, Supervisor, Verdict
from tests.part import require
from tests.programs.program import ALL, NETWORKED, PROGRAMS, Program

pytestmark = pytest.mark.beside

SOURCES: Final = Path(__file__).parent / "source"
BUILDS: Final = (
    "gcc -O2 -Wall -Werror -pthread -o c c.c",
    "gcc -O2 -static -pthread -o c-static c.c",
    "g++ -std=c++17 -O2 -Wall -Werror -pthread -o cpp cpp.cc",
    "rustc -o rust rust.rs",
    "go build -o go go.go",
    "javac Main.java",
)
ROOM: Final[dict[str, Any]] = {
    "memory": "2g",
    "disk": "1g",
    "pids_limit": 500,
    "env": {"GOCACHE": "/tmp/go", "GO111MODULE": "off"},
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All sources, and what compilers make of them under ``build``."""
    folder = tmp_path_factory.mktemp("built")
    folder.chmod(0o755)
    shutil.copytree(SOURCES, folder, dirs_exist_ok=True)
    trio.run(build_all, folder)
    return folder


async def build_all(folder: Path) -> None:
    volumes = [f"{folder}:/built"]
    async with jail.open_jail(seccomp="build", volumes=volumes, workdir="/built", **ROOM) as j:
        for command in BUILDS:
            argv = command.split()
            require(argv[0])
            result = await j.run(argv)
            fine(result)
            assert not names_of_denied(result)


def fine(result: Result) -> bytes:
    """What it printed, if it ended well."""
    assert result.verdict is Verdict.OK, (
        result.message,
        result.stdout[-2000:],
        result.stderr[-2000:],
    )
    return result.stdout


CASES = [(name, policy) for name, each in PROGRAMS.items() for policy in each.policies]


@pytest.mark.parametrize(("name", "policy"), CASES)
async def test_it_runs(supervisor: Supervisor, built: Path, name: str, policy: str) -> None:
    program = PROGRAMS[name]
    require(*program.parts)
    async with supervisor.open_jail(
        seccomp=policy, volumes=[f"{built}:/built:ro"], memory="1g", env={"HOME": "/tmp"}
    ) as j:
        await put_files(j, program)
        for argv in program.steps:
            result = await j.run(argv)
            output = fine(result)
            assert names_of_denied(result) <= may_be_denied(program, policy)
    assert output == program.output


async def put_files(j: Jail, program: Program) -> None:
    for name, text in program.files.items():
        await j.put(name, text)


def names_of_denied(result: Result) -> set[str]:
    return {each.call for each in result.denied}


def may_be_denied(program: Program, policy: str) -> frozenset[str]:
    return frozenset() if policy in NETWORKED else program.asks


@pytest.mark.parametrize("policy", ALL)
async def test_what_a_policy_does_not_claim_it_refuses_and_says_so(
    supervisor: Supervisor, policy: str
) -> None:
    """The table's other half: what each policy stops, and that the next one up lets it."""
    async with supervisor.open_jail(seccomp=policy) as j:
        fork = await j.run(["python3", "-c", "import os; os.fork()"])
        connect = await j.run(["python3", "-c", "import socket; socket.socket(socket.AF_INET)"])
        trace = await j.run(["strace", "-o", "/dev/null", "true"])
    assert fork.ok == (policy not in ("strict", "plugin"))
    assert connect.ok == (policy in NETWORKED)
    assert trace.ok == (policy == "build")
    for result in (fork, connect):
        assert result.ok or names_of_denied(result)
