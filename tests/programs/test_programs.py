"""The table of programs: each under every policy that claims to run it."""

from __future__ import annotations

from pathlib import Path

import pytest

from jail import Jail, Result, Supervisor, Verdict
from tests.part import require
from tests.programs import source
from tests.programs.program import ALL, NETWORKED, PROGRAMS, Program

BUILDS = {
    "c.c": (source.C, "gcc -O2 -Wall -Werror -pthread -o c c.c"),
    "c-static.c": (source.C, "gcc -O2 -static -pthread -o c-static c-static.c"),
    "cpp.cc": (source.CPP, "g++ -std=c++17 -O2 -Wall -Werror -pthread -o cpp cpp.cc"),
    "rust.rs": (source.RUST, "rustc -o rust rust.rs"),
    "go.go": (source.GO, "go build -o go go.go"),
    "Main.java": (source.JAVA, "javac Main.java"),
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where :func:`test_compilers_build` puts what it has built."""
    folder: Path = tmp_path_factory.mktemp("built")
    folder.chmod(0o755)
    for name, (text, _) in BUILDS.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def compiled(built: Path) -> Path:
    """The same, with all that a compiler makes of it."""
    import trio

    import jail

    async def compile_all() -> None:
        async with jail.open_supervisor() as supervisor:
            for name in BUILDS:
                await build(supervisor, built, name)

    trio.run(compile_all)
    return built


async def build(supervisor: Supervisor, folder: Path, name: str) -> None:
    """One source, in a jail under ``build``."""
    argv = BUILDS[name][1].split()
    require(argv[0])
    env = {"HOME": "/tmp", "GOCACHE": "/tmp/go", "GO111MODULE": "off"}
    options = {"memory": "2g", "disk": "1g", "pids_limit": 500}
    async with supervisor.open_jail(
        seccomp="build", volumes=[f"{folder}:/built"], workdir="/built", env=env, **options
    ) as j:
        fine(await j.run(argv))


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
async def test_it_runs(supervisor: Supervisor, compiled: Path, name: str, policy: str) -> None:
    program = PROGRAMS[name]
    require(*program.parts)
    async with supervisor.open_jail(
        seccomp=policy, volumes=[f"{compiled}:/built:ro"], memory="1g", userns="auto"
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
