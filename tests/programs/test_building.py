"""Compilers, package managers, debuggers: what ``build`` is for, most of it ``default`` as well."""

from __future__ import annotations

import sysconfig
from collections.abc import AsyncGenerator
from typing import Final

import pytest

from jail import Jail, Supervisor
from tests.part import require
from tests.programs.program import PYTHON3
from tests.programs.test_programs import fine, names_of_denied

pytestmark = pytest.mark.beside

SITE: Final = sysconfig.get_path("purelib")
ENV: Final = {"HOME": "/tmp", "PYTHONPATH": "/site"}
WHEEL: Final = r"""
import zipfile
with zipfile.ZipFile("thing-1.0-py3-none-any.whl", "w") as wheel:
    wheel.writestr("thing.py", "print('from a wheel')\n")
    for name, text in {
        "METADATA": "Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: me\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": "thing.py,,\n",
    }.items():
        wheel.writestr(f"thing-1.0.dist-info/{name}", text)
"""
FIB: Final = """
def fib(n: int) -> int:
    return n if n < 2 else fib(n - 1) + fib(n - 2)
"""
CONTROL: Final = """
Package: p
Version: 1
Architecture: all
Maintainer: me <me@here>
Description: a package
""".lstrip()
LIBRARY: Final = r"""
CFLAGS := -O1 -fPIC -I. $(shell python3-config --includes)
LEFT_OUT := static_data.c %writer_extra_ops.c vecs%
libmypyc.a: $(patsubst %.c,%.o,$(filter-out $(LEFT_OUT),$(wildcard *.c)))
	ar rcs $@ $^
"""


@pytest.fixture(params=["default", "build"])
def policy(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def workshop(supervisor: Supervisor, policy: str) -> AsyncGenerator[Jail, None]:
    """A jail with room, and with our own Python packages to work on."""
    async with supervisor.open_jail(
        seccomp=policy, volumes=[f"{SITE}:/site:ro"], env=ENV, memory="2g", disk="1g"
    ) as j:
        yield j


async def say(j: Jail, script: str) -> bytes:
    """What a shell's script prints; nothing that it asks for is refused."""
    result = await j.run(["sh", "-euc", script])
    output = fine(result)
    assert not names_of_denied(result)
    return output


async def test_make_and_gcc_build_a_library_in_c(workshop: Jail) -> None:
    """The run-time library of mypyc: twenty files in C that mypy brings with it."""
    require("make")
    await workshop.put("Makefile", LIBRARY)
    script = "cp /site/mypyc/lib-rt/*.[ch] .; make -j2 >log 2>&1 || { tail log; exit 1; }"
    assert int(await say(workshop, f"{script}; nm libmypyc.a | grep -c ' T CPy'")) > 100


async def test_setuptools_and_gcc_build_an_extension(workshop: Jail) -> None:
    await workshop.put("fib.py", FIB)
    build = "python3 -c 'from mypyc.__main__ import main; main()' fib.py >log 2>&1; rm fib.py"
    use = "python3 -c 'import fib; print(fib.fib(20), fib.__file__[-3:])'"
    assert await say(workshop, f"{build}; {use}") == b"6765 .so\n"


async def test_pip_installs_a_wheel(workshop: Jail) -> None:
    await workshop.put("wheel.py", WHEEL)
    script = (
        f"{PYTHON3} wheel.py; {PYTHON3} -m pip install -q --no-index --target there *.whl;"
        f"PYTHONPATH=there {PYTHON3} -m thing"
    )
    assert await say(workshop, script) == b"from a wheel\n"


async def test_npm_packs_and_installs(workshop: Jail) -> None:
    require("npm")
    await say(workshop, "mkdir thing")
    await workshop.put("thing/package.json", '{"name": "thing", "version": "1.0.0"}')
    await workshop.put("thing/index.js", "console.log('from a package')")
    script = (
        "export npm_config_update_notifier=false npm_config_audit=false npm_config_fund=false;"
        "(cd thing; npm pack --silent >/dev/null); npm install --offline --silent ./thing/*.tgz;"
        "node -e 'require(\"thing\")'"
    )
    assert await say(workshop, script) == b"from a package\n"


async def test_dpkg_and_tar_pack_and_unpack_but_leave_no_set_id_bit(workshop: Jail) -> None:
    require("dpkg-deb")
    await say(workshop, "mkdir -m 755 -p p/DEBIAN p/opt")
    await workshop.put("p/DEBIAN/control", CONTROL)
    await workshop.put("p/opt/file", "packed")
    script = (
        "dpkg-deb --root-owner-group -b p p.deb >log; dpkg-deb -x p.deb q;"
        "tar czf q.tgz q; rm -r q; tar xpf q.tgz; cat q/opt/file"
    )
    assert await say(workshop, script) == b"packed"
    refused = await workshop.run(["chmod", "4755", "q/opt/file"])
    assert refused.exit_code == 1
    assert names_of_denied(refused) == {"fchmodat"}


LEAK: Final = (
    "int main(void) { volatile char *lost = __builtin_malloc(7); lost = 0; return !!lost; }"
)


@pytest.mark.parametrize("policy", ["build"])
async def test_debuggers_and_leak_checkers_trace(workshop: Jail) -> None:
    await workshop.put("leak.c", LEAK)
    script = (
        "gcc -g -fsanitize=leak -o leak leak.c;"
        "./leak 2>said || grep -o 'detected memory leaks' said;"
        "strace -f -e trace=execve -o trace sh -c 'ls >log; true'; grep -cF '[\"ls\"]' trace;"
        "setarch -R true"
    )
    assert await say(workshop, script) == b"detected memory leaks\n1\n"


@pytest.mark.parametrize("policy", ["default"])
async def test_tracing_is_what_build_is_asked_for(workshop: Jail) -> None:
    result = await workshop.run(["strace", "-o", "/dev/null", "true"])
    assert not result.ok
    assert {each.remedy for each in result.denied} == {"--seccomp build"}
