"""``jail policy``: what it takes, what it prints, and its exit status."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest

from jail.policy.compile import compile_policy
from jail.policy.disassemble import format_program, name_return
from jail.policy.load import list_policies, load_policy
from jail.policy.phrase import phrase_conditions
from jail.policy.rule import Condition, Ruleset, Target
from jail.policy.show import find_purpose
from jail.policy.telling import list_arguments, narrow
from tests.command import JAIL, PATIENCE_S, Done, run_jail

pytestmark = pytest.mark.beside

CHECKOUT: Final = Path(__file__).resolve().parents[1]
BASE: Final = """\
# All that a program lives on. Much of
# it is not here.
#
# This is not shown.
extends = "default"
[[rule]]
calls = ["unshare"]
action = { errno = "EPERM" }
any = [
    [{ arg = 0, op = "masked_eq", mask = 0x10000000, value = 0x10000000 }],
    [{ arg = 0, op = "masked_eq", mask = 0x40000000, value = 0x40000000 }],
]
why = "namespaces"
[[rule]]
calls = ["unshare"]
action = { errno = "EACCES" }
why = "nothing"
[[rule]]
calls = ["socket", "socketpair"]
action = "allow"
when = [{ arg = 0, op = "masked_eq", mask = 0xffffffff, value = 1 }]
why = "talk"
[[rule]]
calls = ["socket", "socketpair"]
action = { errno = "EAFNOSUPPORT" }
why = "no talk"
[[rule]]
calls = ["mount"]
action = { errno = "EPERM" }
quiet = true
why = "the tree stays"
"""
OWN: Final = """\
# Nobody talks.
extends = "./base.toml"
default = "kill"
[groups]
conversation = ["socket", "socketpair"]
[[rule]]
calls = ["@conversation"]
action = { errno = "EACCES" }
quiet = true
why = "nobody talks"
[[rule]]
calls = ["mount"]
action = "allow"
why = "they look at \\u001b[31m other trees"
machines = ["aarch64", "x86_64"]
min_kernel = "4.0"
[[rule]]
calls = ["unshare"]
action = "log"
when = [{ arg = 0, op = "eq", value = 0 }]
why = "nothing is asked for"
"""


def policy(*words: str) -> Done:
    return run_jail(*words, command="policy")


@pytest.fixture
def own(tmp_path: Path) -> str:
    (tmp_path / "base.toml").write_text(BASE)
    path = tmp_path / "own.toml"
    path.write_text(OWN)
    return str(path)


def lines_of(done: Done) -> list[str]:
    assert done.stderr == ""
    return done.stdout.decode().splitlines()


# -- words ----------------------------------------------------------------------------------------

WRONG: Final[dict[str, tuple[list[str], str]]] = {
    "an unknown command": (["alter"], "invalid choice"),
    "show of nothing": (["show"], "the following arguments are required: NAME|FILE ("),
    "show of none": (["show", "unconfined"], "unconfined is the word for no policy at all"),
    "a word too many": (["list", "strict"], "strict (see jail policy list --help)"),
    "show of nobody": (["show", "nobody"], "no seccomp policy 'nobody': there are "),
    "a call that is none": (["show", "default", "frobnicate"], "no system call 'frobnicate'"),
    "check of nothing": (["check"], "the following arguments are required"),
    "diff with itself": (["diff", "default"], "the following arguments are required"),
    "diff with nobody": (["diff", "default", "nobody"], "no seccomp policy 'nobody'"),
    "another machine": (["compile", "--arch", "vax", "default"], "invalid choice: 'vax'"),
    "another format": (["compile", "--format", "elf", "default"], "invalid choice: 'elf'"),
    "a file that can't be": (["compile", "-o", "/no/such/file", "default"], "-o /no/such/file: No"),
    "an abbreviation": (["show", "--js", "default"], "unrecognized arguments: --js"),
    "a program": (["list", "--", "true"], "policy list takes no program: true"),
}


@pytest.mark.parametrize("case", WRONG)
def test_words_that_make_no_sense_are_one_line_and_status_125(case: str) -> None:
    words, expected = WRONG[case]
    done = policy(*words)
    assert (done.status, done.stdout) == (125, b"")
    assert done.stderr.startswith("jail: ")
    assert done.stderr.count("\n") == 1
    assert expected in done.stderr


def test_without_a_command_there_is_help() -> None:
    done = policy()
    assert (done.status, done.stdout) == (125, b"")
    for word in COMMANDS:
        assert re.search(rf"^ +{word} ", done.stderr, re.MULTILINE), word


COMMANDS: Final = ("list", "show", "check", "diff", "compile", "test", "learn", "export")


def read_help(*words: str) -> str:
    done = policy(*words, "--help")
    assert (done.status, done.stderr) == (0, "")
    return done.stdout.decode()


def test_these_are_the_commands() -> None:
    assert tuple(re.findall(r"^    ([a-z]+) ", read_help(), re.MULTILINE)) == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_in_the_reference(command: str) -> None:
    reference = (CHECKOUT / "docs" / "reference.md").read_text()
    heads = re.findall(rf"^### `jail policy {command}\b.*`$", reference, re.MULTILINE)
    assert len(heads) == 1
    section = reference.partition(heads[0])[2].partition("\n##")[0]
    options = find_options(read_help(command)) - {"-h", "--help"}
    options -= find_options(run_jail("--help").stdout.decode()) if command == "learn" else set()
    assert {each for each in options if each not in heads[0] + section} == set()


def find_options(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", text))


# -- list and show --------------------------------------------------------------------------------


def test_the_list_has_every_policy_and_what_it_is_for() -> None:
    done = policy("list")
    assert done.status == 0
    text = "\n".join(lines_of(done))
    told = dict(re.findall(r"^(\S+) +(\S.*(?:\n +.*)*)$", text, re.MULTILINE))
    assert list(told) == list_policies()
    for name, purpose in told.items():
        head = load_policy(name).text.decode().partition("\n#\n")[0]
        sentence = " ".join(purpose.split())
        assert " ".join(head.replace("\n# ", " ").split()).startswith(f"# {sentence}")
        assert sentence.endswith(".")


def test_the_purpose_is_the_first_sentence() -> None:
    assert find_purpose(BASE.encode()) == "All that a program lives on."
    assert find_purpose(b"# 3.5 of\n# it: yes\n#\n# no") == "3.5 of it: yes"
    assert find_purpose(b'default = "kill" # no\n') == ""
    assert find_purpose(b"#\n# no\n") == ""
    assert find_purpose(b"{}") == ""


@pytest.mark.parametrize("name", list_policies())
def test_each_call_of_a_policy_is_shown_with_its_reason(name: str) -> None:
    done = policy("show", name)
    assert done.status == 0
    shown = " ".join(done.stdout.decode().split())
    for number, rule in enumerate(load_policy(name).rules, 1):
        head = f"{number}. {rule.action}: {' '.join(rule.why.split())}"
        assert head in shown
        after = shown.partition(head)[2]
        assert " ".join(rule.calls) in after
    assert shown.endswith(f"every other call: {load_policy(name).default}")
    assert max(map(len, lines_of(done))) <= 100


def test_what_is_allowed_comes_before_what_is_refused(own: str) -> None:
    lines = lines_of(policy("show", own))
    assert " ".join(lines[:2]).startswith(f"{own}: Nobody talks.")
    assert f"extends {os.path.dirname(own)}/./base.toml, default" in " ".join(lines)
    assert lines.index("allowed") < lines.index("refused")
    allowed = lines[lines.index("allowed") : lines.index("refused")]
    heads = [line for line in allowed if re.match(r" *\d+\. ", line)]
    assert all(re.match(r" *\d+\. (allow|log|notify): ", line) for line in heads)


def test_a_call_is_shown_with_what_decides_it_and_nothing_else(own: str) -> None:
    base = f"(of {os.path.dirname(own)}/./base.toml)"
    text = policy("show", own, "unshare").stdout.decode()
    text = re.sub(r"\(of\s+", "(of ", text[text.index("\nallowed\n") :])
    lines = text.replace(f"\n      {base}", f" {base}").splitlines()
    assert lines == [
        "",
        "allowed",
        "   3. log: nothing is asked for",
        "        unshare",
        "          if arg0 == 0",
        "",
        "refused",
        f"   4. EPERM: namespaces {base}",
        "        unshare",
        "          if arg0 has CLONE_NEWUSER",
        "          or arg0 has CLONE_NEWNET",
        f"   5. EACCES: nothing {base}",
        "        unshare",
        "",
        "else: kill",
    ]


def test_a_call_that_no_rule_names_has_the_default(own: str) -> None:
    assert lines_of(policy("show", own, "riscv_flush_icache"))[-1] == (
        "riscv_flush_icache, which no rule names: kill"
    )


def test_groups_guards_and_silence_are_shown(own: str) -> None:
    text = policy("show", own, "socket", "mount").stdout.decode()
    assert "1. EACCES: nobody talks (@conversation, quiet)\n        socket socketpair\n" in text
    assert "(on aarch64 and x86_64, from Linux 4.0 on)" in text
    assert "not here" not in text


def test_a_stranger_s_reason_writes_nothing_else_to_the_terminal(own: str) -> None:
    shown = policy("show", own, "mount").stdout
    assert b"they look at ?[31m other trees" in shown
    assert b"\x1b" not in shown


def test_the_json_has_every_number(own: str) -> None:
    done = policy("show", "--json", own)
    told: dict[str, Any] = json.loads(done.stdout)
    rules = load_policy(own).rules
    assert (told["name"], told["purpose"]) == (own, "Nobody talks.")
    assert told["extends"] == [each.name for each in load_policy(own).bases]
    assert told["default"] == "kill"
    assert [each["number"] for each in told["rules"]] == list(range(1, len(rules) + 1))
    for each, rule in zip(told["rules"], rules, strict=True):
        assert (each["calls"], each["action"], each["why"]) == (
            list(rule.calls),
            rule.action,
            rule.why,
        )
        conditions = tuple(
            tuple(
                Condition(one["arg"], one["op"], tuple(one["values"]), one.get("mask", 0))
                for one in alternative
            )
            for alternative in each["any"]
        )
        assert (conditions or ((),)) == rule.alternatives
    assert told["rules"][1]["min_kernel"] == "4.0"
    assert told["rules"][0]["groups"] == ["conversation"]


PHRASES: Final = [
    ("clone", [Condition(0, "masked_eq", (0x10000000,), 0x10000000)], "arg0 has CLONE_NEWUSER"),
    ("socket", [Condition(0, "masked_eq", (2, 10), 0xFFFFFFFF)], "arg0 in (AF_INET, AF_INET6)"),
    ("socket", [Condition(1, "masked_eq", (1,), 0xF)], "arg1 & 0xf == SOCK_STREAM"),
    (
        "socket",
        [Condition(0, "eq", (16,)), Condition(2, "masked_eq", (9,), 0xFFFFFFFF)],
        "arg0 == AF_NETLINK and arg2 == NETLINK_AUDIT",
    ),
    (
        "clone",
        [Condition(0, "masked_eq", (0,), 0x30000000)],
        "arg0 & (CLONE_NEWUSER | CLONE_NEWPID) == 0",
    ),
    (
        "unshare",
        [Condition(0, "masked_eq", (0,), 0xFFFFFFFFFFFFF9FF)],
        "arg0 & ~(CLONE_FS | CLONE_FILES) == 0",
    ),
    ("chmod", [Condition(1, "masked_eq", (0o6000,), 0o6000)], "arg1 & 06000 == 06000"),
    ("frobnicate", [Condition(0, "ge", (255,))], "arg0 >= 0xff"),
    ("frobnicate", [Condition(5, "ne", (0,))], "arg5 != 0"),
]


@pytest.mark.parametrize(("call", "conditions", "expected"), PHRASES)
def test_a_condition_is_a_phrase(call: str, conditions: list[Condition], expected: str) -> None:
    assert phrase_conditions(call, conditions) == expected


# -- check ----------------------------------------------------------------------------------------


def test_the_shipped_policies_are_in_order() -> None:
    done = policy("check", *list_policies())
    assert done.status == 0
    sizes = [line for line in lines_of(done) if re.search(r": \d+ rules, \d+ instructions$", line)]
    assert len(sizes) == len(list_policies())
    assert "does not say already" not in done.stdout.decode()


def test_each_policy_that_is_wrong_is_a_line_and_the_others_are_checked(
    own: str, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text('default = "kill"\n[[rule]]\ncalls = ["read"]\naction = "allow"\n')
    unknown = tmp_path / "unknown.toml"
    unknown.write_text(OWN.replace('"mount"', '"frobnicate"'))
    narrow_one = tmp_path / "narrow.toml"
    narrow_one.write_text('default = "kill"\n')
    done = policy(
        "check", str(wrong), str(unknown), str(narrow_one), str(tmp_path / "none.toml"), own
    )
    assert done.status == 1
    assert [line.rpartition("/")[2] for line in done.stderr.splitlines()] == [
        "wrong.toml: rule 1 (read): no why: each rule gives its reason",
        "unknown.toml: rule 2 (frobnicate): libseccomp knows no call frobnicate (optional = true"
        " passes over those that are newer than the library)",
        "narrow.toml: no program can run without execve, exit_group: allow it",
        "none.toml: No such file or directory",
    ]
    assert re.fullmatch(rf"{re.escape(own)}: \d+ rules, \d+ instructions\n", done.stdout.decode())


@pytest.mark.parametrize("words", [["show"], ["diff", "strict"], ["export"]])
def test_no_command_passes_over_a_call_that_nobody_knows(words: list[str], tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(OWN.replace('"./base.toml"', '"strict"').replace('"mount"', '"frobnicate"'))
    done = policy(*words, str(wrong))
    assert (done.status, done.stdout) == (125, b"")
    assert "wrong.toml: rule 2 (frobnicate): libseccomp knows no call" in done.stderr


def test_what_is_odd_is_said(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text(BASE)
    path = tmp_path / "odd.toml"
    path.write_text(
        'extends = "base.toml"\n'
        "[[rule]]\n"
        'calls = ["socket", "socketpair", "unshare"]\n'
        'action = { errno = "EAFNOSUPPORT" }\n'
        'when = [{ arg = 0, op = "eq", value = 2 }]\n'
        'why = "no talk"\n'
        "[[rule]]\n"
        'calls = ["mount"]\n'
        'action = { errno = "EPERM" }\n'
        "quiet = true\n"
        'when = [{ arg = 0, op = "eq", value = 2 }]\n'
        'why = "another reason"\n'
        "[[rule]]\n"
        'calls = ["frobnicate"]\n'
        "optional = true\n"
        'action = "allow"\n'
        'why = "it will come"\n'
        "[[rule]]\n"
        'calls = ["waitid"]\n'
        'action = "kill"\n'
        'why = "our agent waits by it, programs do not"\n'
    )
    done = policy("check", str(path))
    assert done.status == 0
    assert [line.removeprefix(f"{path}: note: ") for line in lines_of(done)[1:]] == [
        f"rule 1: socket, socketpair: nothing that {tmp_path}/base.toml does not say already",
        "passes over what this libseccomp does not know: frobnicate",
        "it leaves out what our agent needs: each program gets it before it runs, the agent a"
        " wider one",
    ]


def test_a_rule_that_changes_something_is_not_odd(own: str) -> None:
    assert len(lines_of(policy("check", own))) == 1


# -- diff -----------------------------------------------------------------------------------------


def test_a_policy_differs_from_itself_in_nothing(tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text('extends = "default"\n')
    for words in (["default", "default"], ["default", str(other)]):
        done = policy("diff", *words)
        assert (done.status, done.stdout, done.stderr) == (0, b"", "")


def test_what_one_allows_and_the_other_refuses_comes_first(own: str) -> None:
    base = f"{os.path.dirname(own)}/base.toml"
    done = policy("diff", own, base)
    assert done.status == 1
    assert lines_of(done) == [
        f"allowed by {own}, refused by {base}",
        "  allow / EPERM: mount",
        "  log / EACCES: unshare, as in unshare(0)",
        f"refused by {own}, allowed by {base}",
        "  EACCES / allow: socket, as in socket(AF_UNIX, 0, 0)",
        "  EACCES / allow: socketpair, as in socketpair(AF_UNIX, 0, 0)",
        "refused by both, differently",
        "  EACCES / EAFNOSUPPORT: socket, as in socket(AF_UNSPEC, 0, 0)",
        "  EACCES / EAFNOSUPPORT: socketpair, as in socketpair(AF_UNSPEC, 0, 0)",
        "calls that neither names",
        "  kill / ENOSYS",
    ]
    other = policy("diff", base, own).stdout.decode()
    assert other.startswith(f"allowed by {base}, refused by {own}\n  allow / EACCES: socket, ")


def test_every_difference_of_the_json_is_one(own: str) -> None:
    """Its example is decided as it says, by the policies as they are."""
    base = f"{os.path.dirname(own)}/base.toml"
    done = policy("diff", "--json", own, base)
    assert done.status == 1
    told = json.loads(done.stdout)
    assert (told["policies"], told["defaults"]) == ([own, base], ["kill", "ENOSYS"])
    target = Target(os.uname().machine, (6, 1))
    rulesets = [load_policy(name).ruleset for name in told["policies"]]
    assert {each["call"] for each in told["calls"]} == {"socket", "socketpair", "mount", "unshare"}
    for each in told["calls"]:
        found = [one.decide(target, each["call"], each["example"]).action for one in rulesets]
        assert found == each["decisions"]
        assert each["always"] == (each["call"] == "mount")


@pytest.mark.parametrize("name", list_policies())
def test_every_rule_of_a_shipped_policy_is_told_by_some_arguments(name: str) -> None:
    """Else it would decide nothing, or what it does would be missing in a comparison."""
    ruleset = load_policy(name).ruleset
    for machine in ("x86_64", "aarch64"):
        target = Target(machine, (6, 18))
        for rule in ruleset.rules:
            if rule.policy == name and rule.is_for(target):
                assert any(decides(ruleset, target, call, rule) for call in rule.calls), rule


def decides(ruleset: Ruleset, target: Target, call: str, rule: object) -> bool:
    own = narrow(ruleset, target, call)
    return any(own.decide(target, call, a).rule is rule for a in list_arguments(own.rules))


# -- compile --------------------------------------------------------------------------------------


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_program_is_the_one_that_is_loaded(machine: str, tmp_path: Path) -> None:
    expected = compile_policy(load_policy("default"), machine)
    assert policy("compile", "--arch", machine, "default") == (0, expected, "")
    path = tmp_path / "default.bpf"
    done = policy("compile", "-o", str(path), "--arch", machine, "--format", "raw", "default")
    assert (done, path.read_bytes()) == ((0, b"", ""), expected)


def test_the_program_as_text_has_a_line_for_each_instruction() -> None:
    lines = lines_of(policy("compile", "--format", "text", "default"))
    assert len(lines) == len(compile_policy(load_policy("default"))) // 8
    assert lines[0] == "    0  load    arch"
    assert lines[-1].endswith("return  ERRNO ENOSYS")
    assert not [line for line in lines if re.search(r"  0x[0-9a-f]+  ", line)]


def test_jumps_go_to_the_lines_that_are_named() -> None:
    program = b"".join(
        step.to_bytes(2, "little") + bytes([yes, no]) + value.to_bytes(4, "little")
        for step, yes, no, value in (
            (0x20, 0, 0, 28),
            (0x45, 1, 2, 0x4000),
            (0x05, 0, 0, 1),
            (0x54, 0, 0, 0xF),
            (0x06, 0, 0, 0x7FFF0000),
        )
    )
    assert [line.split(maxsplit=1)[1] for line in format_program(program).splitlines()] == [
        "load    arg1.high",
        "if      & 0x4000 goto 3 else 4",
        "goto    4",
        "and     0xf",
        "return  ALLOW",
    ]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0x80000000, "KILL_PROCESS"),
        (0x00050001, "ERRNO EPERM"),
        (0x7FC00026, "USER_NOTIF ENOSYS"),
        (0x7FC00000, "USER_NOTIF notify"),
        (0x7FC00FFF, "USER_NOTIF kill"),
        (0x7FF0FFFF, "TRACE 0xffff"),
        (0x00050FFF, "ERRNO 4095"),
    ],
)
def test_what_is_returned_has_a_name(value: int, expected: str) -> None:
    assert name_return(value) == expected


def test_no_terminal_gets_the_bytes() -> None:
    master, slave = pty.openpty()
    try:
        done = subprocess.run(
            [*JAIL, "policy", "compile", "default"],
            stdin=subprocess.DEVNULL,
            stdout=slave,
            stderr=subprocess.PIPE,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 125
        assert done.stderr == b"jail: stdout is a terminal: give -o FILE, or --format text\n"
        os.set_blocking(master, False)
        with pytest.raises(BlockingIOError):
            os.read(master, 1)
    finally:
        os.close(master)
        os.close(slave)


@pytest.mark.parametrize("words", [["show", "default"], ["compile", "default"]])
def test_what_can_t_be_written_is_no_success(words: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*JAIL, "policy", *words],
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=PATIENCE_S,
            check=False,
        )
    assert done.returncode == 125
    assert done.stderr == b"jail: stdout can't be written: No space left on device\n"


# -- the page -------------------------------------------------------------------------------------


def test_the_policy_that_the_page_shows_can_be_used(tmp_path: Path) -> None:
    page = (CHECKOUT / "docs" / "policies.md").read_text()
    (text,) = re.findall(r"^```toml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    path = tmp_path / "own.toml"
    path.write_text(text)
    done = policy("check", str(path))
    assert done.status == 0
    assert len(lines_of(done)) == 1, "and nothing about it is odd"


def test_the_page_has_every_word_of_the_language() -> None:
    from jail.policy.condition import OPS, WORDS
    from jail.policy.document import FILE_KEYS, RULE_KEYS

    page = (CHECKOUT / "docs" / "policies.md").read_text()
    words = {f"`{each}`" for each in (*RULE_KEYS, *OPS, "default", "extends")}
    words |= {f'`"{each}"`' for each in WORDS} | {f"`[{each}]`" for each in ("groups", "learned")}
    assert set(FILE_KEYS) == {"default", "extends", "groups", "learned", "rule"}
    assert {each for each in words if each not in page} == set()
