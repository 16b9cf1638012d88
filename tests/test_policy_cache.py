"""Compiled policies in the cache: found again by whoever asks for the same, and by nobody else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from jail.policy.action import REPORTS
from jail.policy.cache import read_bpf
from jail.policy.compile import compile_policy
from jail.policy.load import load_policy, make_policy
from jail.policy.rule import Rule, Ruleset

CHECKOUT: Final = Path(__file__).resolve().parents[1]
BASE: Final = """\
default = "kill"
[[rule]]
calls = ["execve", "exit_group", "{}"]
action = "allow"
why = "because"
"""
OWN: Final = """\
extends = "base.toml"
[[rule]]
calls = ["write"]
action = "allow"
why = "because"
"""
START: Final = Rule(("execve", "exit_group"), "allow", ((),), "because")
FIND_AGAIN: Final = """
import sys
from pathlib import Path
for name in ("seccomp", "pyseccomp", "tomllib", "hashlib"):
    sys.modules[name] = None
from jail.policy.cache import read_bpf
from jail.policy.load import load_policy
for report in sys.argv[3:]:
    print(read_bpf(load_policy(sys.argv[1]), Path(sys.argv[2]), report).hex())
"""


def list_cached(cache_dir: Path) -> set[str]:
    return {each.name for each in (cache_dir / "bpf").iterdir()}


def test_what_was_compiled_before_takes_no_parser_and_no_libseccomp(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text(BASE.format("read"))
    own = tmp_path / "own.toml"
    own.write_text(OWN)
    cache_dir = tmp_path / "cache"
    expected = [read_bpf(load_policy(str(own)), cache_dir, each).hex() for each in REPORTS]
    argv = [sys.executable, "-c", FIND_AGAIN, str(own), str(cache_dir), *REPORTS]
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=30, check=True, cwd=CHECKOUT
    )
    assert done.stdout.split() == expected


def test_each_report_is_kept_for_itself(tmp_path: Path) -> None:
    quiet = Rule(("read",), "EPERM", ((),), "because", quiet=True)
    loud = Rule(("write",), "EPERM", ((),), "because")
    policy = make_policy("made", Ruleset("kill", (START, quiet, loud)))
    found = {report: read_bpf(policy, tmp_path, report) for report in REPORTS}
    assert found == {report: compile_policy(policy, report=report) for report in REPORTS}
    assert len(set(found.values())) == len(list_cached(tmp_path)) == len(REPORTS)


def test_a_change_of_the_base_is_a_change(tmp_path: Path) -> None:
    base, own = tmp_path / "base.toml", tmp_path / "own.toml"
    base.write_text(BASE.format("read"))
    own.write_text(OWN)
    before = read_bpf(load_policy(str(own)), tmp_path, "none")
    base.write_text(BASE.format("poll"))
    after = read_bpf(load_policy(str(own)), tmp_path, "none")
    assert before != after == compile_policy(load_policy(str(own)))
    assert len(list_cached(tmp_path)) == 2


def test_policies_made_in_code_are_cached_by_their_rules(tmp_path: Path) -> None:
    made = [
        make_policy("made", Ruleset("kill", (START, Rule(("read",), action, ((),), "because"))))
        for action in ("allow", "trace")
    ]
    found = [read_bpf(each, tmp_path, "none") for each in made]
    assert found == [compile_policy(each) for each in made]
    assert len(list_cached(tmp_path)) == 2


@pytest.mark.parametrize("spoil", ["short", "another", "empty", "folder"])
def test_a_spoilt_file_is_made_anew(spoil: str, tmp_path: Path) -> None:
    rule = Rule(("read",), spoil_action(spoil), ((),), "because")
    policy = make_policy("made", Ruleset("kill", (START, rule)))
    expected = compile_policy(policy)
    assert read_bpf(policy, tmp_path / "one", "none") == expected
    (name,) = list_cached(tmp_path / "one")
    folder = tmp_path / "two" / "bpf"
    folder.mkdir(mode=0o700, parents=True)
    whole = (tmp_path / "one" / "bpf" / name).read_bytes()
    if spoil == "folder":
        (folder / name).mkdir()
    else:
        spoilt = {"short": whole[:-8], "another": whole[:-8] + b"\0" * 8, "empty": b""}[spoil]
        (folder / name).write_bytes(spoilt)
    assert read_bpf(policy, tmp_path / "two", "none") == expected


def spoil_action(spoil: str) -> str:
    """Another policy each time."""
    return {"short": "allow", "another": "log", "empty": "trap", "folder": "notify"}[spoil]
