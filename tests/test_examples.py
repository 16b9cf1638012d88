"""The examples do what they say, with good input and with bad."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from examples import grade, live, plugin
from examples.demo import trace
from examples.demo.case import open_bait
from jail import Verdict
from tests.part import require

ECHO = "print(input())\n"
THIEF = "import sys; print(open(sys.argv[0].replace('submission.py', '1.out')).read())\n"
LOOP = "while True: pass\n"


@pytest.fixture
def tests_folder(tmp_path: Path) -> Path:
    """Two tests of a program that repeats a line."""
    folder = tmp_path / "tests"
    folder.mkdir()
    for name, text in (("1", "one"), ("2", "two")):
        (folder / f"{name}.in").write_text(f"{text}\n")
        (folder / f"{name}.out").write_text(f"{text}  \n\n")
    return folder


def write_submission(folder: Path, text: str) -> Path:
    path = folder / "theirs.py"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "word", "test"),
    [
        pytest.param(ECHO, "AC", "2", id="right"),
        pytest.param("print('one')\n", "WA", "2", id="wrong"),
        pytest.param(LOOP, "TLE", "1", id="endless"),
        pytest.param("x = 1 / 0\n", "RE", "1", id="fails"),
        pytest.param(THIEF, "RE", "1", id="looks for the answers"),
    ],
)
async def test_a_submission_gets_the_grade_it_deserves(
    tests_folder: Path, text: str, word: str, test: str
) -> None:
    done = await grade.grade(text.encode(), grade.read_tests(tests_folder))
    assert (done.word, done.test) == (word, test), done.result


def test_a_grader_sees_what_a_submission_was_refused(
    tests_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = write_submission(tests_folder, "import os\nos.fork() or os._exit(0)\n")
    assert grade.main([str(theirs), str(tests_folder)]) == 1
    said = capsys.readouterr()
    assert said.out.startswith("RE test 1 ")
    assert re.fullmatch(r"refused: clone\(.*\): .*threads here\n", said.err)


def test_no_submission_is_graded_without_tests(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no NAME\.in"):
        grade.main([str(write_submission(tmp_path, ECHO)), str(tmp_path)])


def test_the_grader_says_in_one_line_how_it_went(
    tmp_path: Path, tests_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert grade.main([str(write_submission(tmp_path, ECHO)), str(tests_folder)]) == 0
    assert re.fullmatch(r"AC test 2 \d+\.\d\d s\n", capsys.readouterr().out)


async def test_a_plugin_answers_call_after_call() -> None:
    async with plugin.open_plugin(b"def transform(value): return value[::-1]\n") as loaded:
        assert await loaded.call([1, 2, 3]) == [3, 2, 1]
        assert await loaded.call("héllo\n") == "\nolléh"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        pytest.param("while True: pass", "no answer within", id="hangs"),
        pytest.param("raise SystemExit", "has ended", id="ends"),
        pytest.param("print('{')", "no answer", id="babbles"),
        pytest.param("return 'x' * 10**6", "too long", id="floods"),
    ],
)
async def test_a_bad_plugin_is_an_error_of_its_own(body: str, says: str) -> None:
    source = f"def transform(value):\n    {body}\n"
    async with plugin.open_plugin(source.encode()) as loaded:
        with pytest.raises(plugin.PluginError, match=says):
            await loaded.call(1, timeout_s=0.5 if says.endswith("within") else 10.0)


def test_a_plugin_s_answer_is_printed_as_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_submission(tmp_path, "def transform(value): return {'got': value}\n")
    assert plugin.main([str(path), "[1]"]) == 0
    assert capsys.readouterr().out == '{"got": [1]}\n'


async def test_a_conversation_with_a_shell_is_on_a_terminal() -> None:
    shown, result = await live.talk(("tty", "echo 4$((1 + 1))", "exit 3"))
    assert "/dev/pts/0" in shown
    assert "42" in shown
    assert (result.verdict, result.exit_code) == (Verdict.RE, 3)


def test_what_a_stranger_prints_can_t_move_our_cursor() -> None:
    shown = live.make_plain(b"a\x1b[2J\x9b\x07\r\nb\xff")
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", shown)
    assert shown.startswith("a\ufffd[2J")
    assert shown.endswith("\nb\ufffd")


def test_the_demo_ends_as_it_must() -> None:
    """It checks its own rows; here that they are all there, and that it says so."""
    require("gcc")
    done = run_demo()
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {line.split("  ")[0]: line for line in done.stdout.split("\n\n")[0].splitlines()[1:]}
    assert len(rows) == 14
    for name, verdict in (("fork bomb", "PLE"), ("memory bomb", "MLE"), ("daemon", "OK")):
        assert re.search(rf" {verdict} ", rows[name]), rows[name]
    assert done.stdout.count("checked: ") == 6


def test_the_demo_fails_where_a_program_ends_otherwise() -> None:
    """A sleeper that doesn't sleep is no success of ours."""
    spoilt = (
        "import dataclasses, sys, trio, jail; from examples.demo import __main__ as demo, case;"
        "sleeper = [c for c in case.make_greedy() if c.name == 'endless sleep'];"
        "sleeper = [dataclasses.replace(c, argv=('true',)) for c in sleeper];"
        "demo.make_honest = demo.make_compiled = list; demo.make_hostile = lambda _: sleeper;"
        "sys.exit(demo.main())"
    )
    done = run_demo("-c", spoilt)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAILED: endless sleep: OK, by itself; not TLE" in done.stderr


def test_the_demo_s_bait_is_worth_taking() -> None:
    """The thief finds the secret where nothing keeps him from it, and only there."""
    with open_bait() as bait:
        assert bait.secret in trace.run_outside("thief.py", str(bait.canary))
        assert bait.secret not in trace.run_outside("thief.py", str(bait.canary) + "x")
        trace.run_outside("caller.py", str(bait.port))
        assert trace.count_callers(bait.listener) == 1
        assert trace.count_callers(bait.listener) == 0
    assert not bait.canary.exists()


def run_demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, *(arguments or ("-m", "examples.demo"))]
    folder = Path(__file__).resolve().parents[1]
    return subprocess.run(
        argv, cwd=folder, env=dict(os.environ), capture_output=True, text=True, timeout=50
    )
