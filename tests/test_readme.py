"""What the pages say is true: their programs run, their commands are taken, their links lead on.

A ``python`` block is a whole program; a ``text`` block right behind it is what it prints. A
``console`` block is a conversation with a shell: commands behind ``$``, and all that they print
to stdout. The commands of an ``sh`` block must be understood; the one that begins with
``jail run`` is asked to explain itself rather than to run.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests.part import require

CHECKOUT: Final = Path(__file__).resolve().parents[1]
PAGES: Final = (*sorted(CHECKOUT.glob("*.md")), *sorted(CHECKOUT.glob("docs/**/*.md")))
README: Final = CHECKOUT / "README.md"
REFERENCE: Final = CHECKOUT / "docs" / "reference.md"
BLOCK: Final = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK: Final = re.compile(r"\]\(([^)#\s]+)(#[^)\s]*)?\)")
OPTION: Final = re.compile(r"(?<![\w-])--[a-z][a-z-]*|(?<![\w-])-[a-zA-Z]\b")
CATALOGUE_ID: Final = re.compile(r"\b(?:NS|PF|FS|FD|TY|SC|RS|NW|AG|UM|SV)-\d\d\b")
CONFLICT: Final = re.compile(r"^(?:<{7}|={7}|>{7})(?: |$)", re.MULTILINE)
LIMIT_S: Final = 50


class Block(NamedTuple):
    """A fenced block of a page. ``output`` is the ``text`` block right behind it."""

    page: Path
    line: int
    kind: str
    text: str
    output: str | None

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


@functools.cache
def read_blocks() -> tuple[Block, ...]:
    blocks = []
    for page in PAGES:
        text = page.read_text()
        for match in BLOCK.finditer(text):
            follower = BLOCK.match(text[match.end() :].lstrip("\n"))
            output = follower[2] if follower and follower[1] == "text" else None
            line = text.count("\n", 0, match.start()) + 1
            blocks.append(Block(page, line, match[1], match[2], output))
    return tuple(blocks)


def blocks_of(kind: str) -> list[Block]:
    return [block for block in read_blocks() if block.kind == kind]


def strip_lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


def run_shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """As a reader would who has it installed: ``jail`` is on the PATH."""
    scripts = str(Path(sys.executable).parent)
    env = {**os.environ, "PATH": f"{scripts}:{os.environ['PATH']}"}
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )


def assert_there_is_a_command() -> None:
    assert importlib.util.find_spec("jail.cli"), "there is no command to ask"


@functools.cache
def read_help() -> frozenset[str]:
    """Every option that ``jail run --help`` tells of."""
    argv = [sys.executable, "-m", "jail", "run", "--help"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT_S, check=True)
    return frozenset(OPTION.findall(done.stdout))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the commands of the README find around them."""
    for name in ("data", "out", "debian"):
        (tmp_path / name).mkdir()
    shutil.copy(CHECKOUT / "policies" / "strict.toml", tmp_path / "policy.toml")
    (tmp_path / "profile.json").write_text('{"defaultAction": "SCMP_ACT_ALLOW"}')
    return tmp_path


def test_the_pages_are_there() -> None:
    names = {str(page.relative_to(CHECKOUT)) for page in PAGES}
    for name in ("README", "SECURITY", "CONTRIBUTING", "CHANGELOG"):
        assert f"{name}.md" in names
    for name in ("architecture", "reference", "protocol"):
        assert f"docs/{name}.md" in names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_no_page_holds_two_versions_of_itself(page: Path) -> None:
    assert CONFLICT.search(page.read_text()) is None


def test_the_readme_shows_programs_and_commands() -> None:
    kinds = [block.kind for block in read_blocks() if block.page == README]
    assert kinds.count("python") >= 3
    assert kinds.count("console") >= 1
    assert kinds.count("sh") >= 2


@pytest.mark.parametrize("block", blocks_of("python"), ids=str)
def test_a_program_of_the_pages_runs_and_prints_what_they_say(block: Block, folder: Path) -> None:
    if "gcc" in block.text:
        require("gcc")
    argv = [sys.executable, "-c", block.text]
    # Away from the checkout: the package is what was installed.
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr
    assert strip_lines(done.stdout) == strip_lines(block.output or "")


@pytest.mark.parametrize("block", blocks_of("console"), ids=str)
def test_a_conversation_of_the_pages_goes_as_they_say(block: Block, folder: Path) -> None:
    assert_there_is_a_command()
    for command, expected in parse_conversation(block.text):
        done = run_shell(command, folder)
        assert strip_lines(done.stdout) == strip_lines(expected), f"{command}\n{done.stderr}"


def parse_conversation(text: str) -> list[tuple[str, str]]:
    """(command, what it prints)."""
    parts = re.split(r"^\$ (.*)\n", text, flags=re.MULTILINE)
    assert parts[0] == "", "a conversation begins with a command"
    return list(zip(parts[1::2], parts[2::2], strict=True))


def find_commands(name: str) -> list[str]:
    """Lines of ``sh`` blocks that begin with it."""
    lines = [line for block in blocks_of("sh") for line in block.text.splitlines()]
    return [line for line in lines if line.startswith(name)]


@pytest.mark.parametrize("command", find_commands("jail run "))
def test_a_command_of_the_pages_is_understood(command: str, folder: Path) -> None:
    assert_there_is_a_command()
    if "subuid" in command:
        require("subuid")
    explain = command.replace("jail run ", "jail run --explain ", 1)
    done = run_shell(explain, folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout, "a plan that says nothing"


@pytest.mark.parametrize("command", find_commands("jail doctor"))
def test_the_doctor_is_called_as_the_pages_say(command: str, folder: Path) -> None:
    assert_there_is_a_command()
    done = run_shell(command, folder)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("command", sorted(set(find_commands("ci/"))))
def test_the_scripts_that_the_pages_name_are_there(command: str) -> None:
    script = CHECKOUT / command.split()[0]
    assert os.access(script, os.X_OK)
    words = command.split("#")[0].split()
    if "-m" in words:
        module = words[words.index("-m") + 1]
        assert importlib.util.find_spec(module), module
    for word in words:
        if word.startswith(("tests/", "benchmarks/", "examples/")):
            assert (CHECKOUT / word).exists(), word


def test_every_option_that_the_pages_name_exists() -> None:
    assert_there_is_a_command()
    known = read_help()
    assert "--memory" in known
    for where, option in find_options():
        assert option in known, f"{where}: {option}"


def find_options() -> list[tuple[str, str]]:
    """(page, option) of ``jail run``: in its commands, and in code that begins with the option."""
    found = []
    for page in PAGES:
        for line in page.read_text().splitlines():
            command = re.search(r"\bjail run (.*)", line)
            # A reader's eye stops at the lone -- before the program.
            words = re.split(r"(?:^| )-- |`", command[1])[0] if command else ""
            spans = [s for s in re.findall(r"`([^`]+)`", line) if s.startswith("-")]
            texts = [words, *(re.split(r"[ =]", span)[0] for span in spans)]
            found += [(page.name, o) for text in texts for o in OPTION.findall(text)]
    return found


def test_the_pages_name_options_at_all() -> None:
    named = {option for _, option in find_options()}
    assert {"--memory", "--json", "--rootfs", "-v", "--no-limits"} <= named


def test_the_reference_has_every_option() -> None:
    assert_there_is_a_command()
    text = REFERENCE.read_text()
    missing = {option for option in read_help() - {"--help"} if f"`{option}" not in text}
    assert missing == set()


def test_what_the_pages_say_is_tested_has_its_test() -> None:
    """Files by their names; attacks by their catalogue ids, which the tests bear."""
    security = (CHECKOUT / "SECURITY.md").read_text()
    files = set(re.findall(r"`(tests/[\w/.]+)`", security))
    missing = {name for name in files if not (CHECKOUT / name).exists()}
    assert missing == set()
    tests = "".join(path.read_text() for path in (CHECKOUT / "tests").rglob("*.py"))
    promised, borne = (set(CATALOGUE_ID.findall(text)) for text in (security, tests))
    assert len(promised) > 40
    assert promised - borne == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_every_link_leads_to_something(page: Path) -> None:
    for target, _ in LINK.findall(page.read_text()):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), target
