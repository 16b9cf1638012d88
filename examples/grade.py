"""Grade one submission: run it on each test, compare, stop at the first that fails.

    python -m examples.grade SUBMISSION.py TESTS

``TESTS`` holds pairs of files, ``NAME.in`` and ``NAME.out``. The submission gets the input on
stdin and nothing else: the expected output stays outside, where the comparison is made. It may
compute, on as many threads as it likes, and work on files; what else it tried is told on stderr.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

import jail
from jail import Result, Supervisor, Verdict

LIMITS: dict[str, Any] = {
    "memory": "256m",
    "cpu_time": "2s",
    "wall_time": "5s",
    "pids_limit": 8,
    "output_limit": "1m",
    "disk": "16m",
}


@dataclass(frozen=True)
class Test:
    """What goes in and what must come out."""

    name: str
    given: bytes
    expected: bytes


@dataclass(frozen=True)
class Grade:
    """``word`` is AC, WA or the verdict of the run that ended it; ``test`` the last one run."""

    word: str
    test: str
    result: Result


def read_tests(folder: Path) -> list[Test]:
    """In the order of their names; ValueError if there are none."""
    inputs = sorted(folder.glob("*.in"))
    if not inputs:
        raise ValueError(f"{folder}: no NAME.in there")
    return [
        Test(each.stem, each.read_bytes(), each.with_suffix(".out").read_bytes()) for each in inputs
    ]


async def grade(submission: bytes, tests: Sequence[Test]) -> Grade:
    """AC when every test passes. IE says nothing of the submission: grade it again."""
    async with jail.open_supervisor() as supervisor:
        for test in tests:
            done = await run_test(supervisor, submission, test)
            if done.word != "AC":
                break
    return done


async def run_test(supervisor: Supervisor, submission: bytes, test: Test) -> Grade:
    """In a jail of its own: what one run leaves, the next one must not find."""
    async with supervisor.open_jail(seccomp="strict", **LIMITS) as living:
        await living.put("submission.py", submission)
        result = await living.run(["python3", "submission.py"], input=test.given)
    return Grade(compare(result, test.expected), test.name, result)


def compare(result: Result, expected: bytes) -> str:
    """Blanks at the ends of lines and of the text don't count."""
    if result.verdict is not Verdict.OK:
        return result.verdict
    return "AC" if split_lines(result.stdout) == split_lines(expected) else "WA"


def split_lines(text: bytes) -> list[bytes]:
    """The lines, each without the blanks at its end."""
    return [line.rstrip() for line in text.rstrip().splitlines()]


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the grade; 0 for AC."""
    parser = argparse.ArgumentParser(description="Grade one submission.")
    parser.add_argument("submission", type=Path)
    parser.add_argument("tests", type=Path)
    args = parser.parse_args(argv)
    done = trio.run(grade, args.submission.read_bytes(), read_tests(args.tests))
    seconds = f"{done.result.cpu_time_s:.2f} s"
    print(" ".join([done.word, f"test {done.test}", seconds, done.result.message]).rstrip())
    for each in done.result.denied:
        print(f"refused: {', '.join(each.examples)}: {each.why}", file=sys.stderr)
    return 0 if done.word == "AC" else 1


if __name__ == "__main__":
    sys.exit(main())
