"""What `pip install` puts on a user's machine: one package, complete, and nothing else."""

import hashlib
import os
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

pytestmark = pytest.mark.beside

CHECKOUT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
DIST_INFO = f"{PROJECT['name'].replace('-', '_')}-{PROJECT['version']}.dist-info"
OFFLINE = {**os.environ, "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def run_python(*arguments: str | Path, python: str | Path = sys.executable) -> str:
    """Run Python away from the checkout, so that only what is installed can be imported."""
    done = subprocess.run(
        [python, *arguments], env=OFFLINE, cwd="/", capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build_wheel(source: Path, folder: Path) -> Path:
    run_python(
        *("-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"),
        *("--wheel-dir", folder, source),
    )
    (wheel,) = folder.glob("*.whl")
    return wheel


def read_wheel(wheel: Path) -> dict[str, str]:
    """Every file's digest, by name."""
    with zipfile.ZipFile(wheel) as archive:
        return {n: hashlib.sha256(archive.read(n)).hexdigest() for n in archive.namelist()}


def sources(folder: Path, pattern: str) -> set[str]:
    """The files of one folder of the checkout (links are not followed), relative to it."""
    return {str(p.relative_to(folder)) for p in folder.rglob(pattern) if p.is_file()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(CHECKOUT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    script = "import os, sys; os.chdir(sys.argv[1]); from hatchling.build import build_sdist as b; "
    run_python("-c", script + "b(sys.argv[2])", CHECKOUT, folder)
    (sdist,) = folder.glob("*.tar.gz")
    return sdist


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel in it, and the dependencies from the one that runs this."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin/python"
    run_python("-m", "pip", "--python", python, "install", "--quiet", "--no-deps", wheel)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    # A folder added by a .pth file has its own .pth files left alone: the editable install of
    # this checkout is not seen.
    dependencies = [p for p in sys.path if p.endswith("-packages")]
    (site_packages / "dependencies.pth").write_text("\n".join(dependencies) + "\n")
    return folder


def test_the_wheel_has_one_package_and_its_metadata(wheel: Path) -> None:
    assert {name.split("/")[0] for name in read_wheel(wheel)} == {"jail", DIST_INFO}


def test_the_wheel_has_every_module(wheel: Path) -> None:
    modules = {f"jail/{name}" for name in sources(CHECKOUT / "jail", "*.py")}
    modules |= {f"jail/agent/{name}" for name in sources(CHECKOUT / "agent", "*.py")}
    assert {name for name in read_wheel(wheel) if name.endswith(".py")} == modules


def test_the_wheel_has_the_policies_and_says_that_it_is_typed(wheel: Path) -> None:
    policies = {f"jail/policies/{name}" for name in sources(CHECKOUT / "policies", "*.toml")}
    assert policies, "there are no policies to ship"
    assert policies | {"jail/py.typed"} <= set(read_wheel(wheel))


def test_the_wheel_holds_plain_files_only(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        kinds = {info.filename: (info.external_attr >> 16) & 0o170000 for info in archive.filelist}
    assert {name: kind for name, kind in kinds.items() if kind not in (0, 0o100000)} == {}


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        metadata: Message = Parser().parsestr(archive.read(f"{DIST_INFO}/METADATA").decode())
    assert metadata["Name"] == PROJECT["name"]
    assert metadata["Version"] == PROJECT["version"]
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    needed = {r for r in metadata.get_all("Requires-Dist", []) if "extra ==" not in r}
    assert needed == set(PROJECT["dependencies"])


def test_the_source_distribution_builds_the_same_wheel(
    wheel: Path, sdist: Path, tmp_path: Path
) -> None:
    assert read_wheel(build_wheel(sdist, tmp_path)) == read_wheel(wheel)


def test_the_source_distribution_needs_no_links(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        assert [member.name for member in archive if not member.isfile()] == []


@pytest.mark.parametrize("command", [["bin/jail"], ["bin/python", "-m", "jail"]])
def test_the_installed_command_runs(installed: Path, command: list[str]) -> None:
    done = subprocess.run(
        [installed / command[0], *command[1:], "--version"],
        cwd="/",
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert PROJECT["version"] in done.stdout


def test_what_is_imported_is_what_was_installed(installed: Path) -> None:
    script = "import jail.agent, jail.supervisor; print(jail.__file__, jail.agent.__file__)"
    files = run_python("-c", script, python=installed / "bin/python").split()
    assert [Path(file).is_relative_to(installed) for file in files] == [True, True]
