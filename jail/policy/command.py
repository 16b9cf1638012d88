"""The words of ``jail policy``. What does it comes later.

A further command is added by a function ``add_X(commands)``, whose parser names with
``set_defaults(run=…)`` who runs it: called with the parsed words, ``program`` among them (what
stood behind ``--``), it returns the exit status.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any, Final

from jail.errors import JailError, SpecError
from jail.say import complain, complain_of, make_printable

FAILED: Final = 125
WRONG: Final = 1
DIFFERENT: Final = 1


def add_policy_commands(commands: Any, *, whole: bool) -> None:
    """``jail policy``, and its own commands if it is ``jail policy`` that was called."""
    policy = commands.add_parser(
        "policy",
        help="show, check, try, compare, learn and translate system-call policies",
        description="Look at system-call policies: the shipped ones, by their names, or files.",
        allow_abbrev=False,
    )
    policy.set_defaults(run=None, help=policy.print_help, takes_program=False)
    if whole:
        add_own_commands(policy.add_subparsers(dest="policy_command", metavar="COMMAND"))


def add_own_commands(commands: Any) -> None:
    """All that stand behind ``jail policy``."""
    from jail.policy.learn.command import add_learn
    from jail.policy.words import add_export
    from jail.trial.command import add_test

    add_list(commands)
    add_show(commands)
    add_check(commands)
    add_diff(commands)
    add_compile(commands)
    add_test(commands)
    add_learn(commands)
    add_export(commands)


def run_policy(args: argparse.Namespace, program: list[str]) -> int:
    """The exit status. ``program`` is what stood behind a ``--``."""
    if args.run is None:
        args.help(sys.stderr)
        return FAILED
    try:
        if program and not args.takes_program:
            raise SpecError(f"policy {args.policy_command} takes no program: {' '.join(program)}")
        args.program = program
        status: int = args.run(args)
        sys.stdout.flush()
    except JailError as error:
        complain_of(error)
        return FAILED
    except BrokenPipeError:
        raise
    except OSError as error:
        complain(f"stdout can't be written: {error.strerror}")
        return FAILED
    return status


def say(text: str) -> None:
    """Lines on stdout; part of them may be a stranger's, and stdout a terminal."""
    for line in text.split("\n"):
        print(make_printable(line))


# -- list -----------------------------------------------------------------------------------------


def add_list(commands: Any) -> None:
    """``jail policy list``."""
    parser = commands.add_parser(
        "list",
        help="the shipped policies, and what each is for",
        description="The shipped policies, and what each is for.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=run_list)


def run_list(args: argparse.Namespace) -> int:
    from jail.policy.load import list_policies, load_policy
    from jail.policy.show import find_purpose, wrap

    names = list_policies()
    width = max(map(len, names)) + 2
    for name in names:
        for line in wrap(find_purpose(load_policy(name).text), f"{name:{width}}", " " * width):
            say(line)
    return 0


# -- show -----------------------------------------------------------------------------------------


def add_show(commands: Any) -> None:
    """``jail policy show``."""
    parser = commands.add_parser(
        "show",
        usage="jail policy show [--json] NAME|FILE [CALL…]",
        help="what a policy allows and refuses, and why",
        description="What a policy allows and refuses, and why; or what it says of some calls.",
        allow_abbrev=False,
    )
    parser.add_argument("policy", metavar="NAME|FILE", help="a shipped policy, or a file")
    parser.add_argument(
        "calls", metavar="CALL", nargs="*", default=[], help="only the rules for this call"
    )
    parser.add_argument("--json", action="store_true", help="as JSON, with all numbers")
    parser.set_defaults(run=run_show)


def run_show(args: argparse.Namespace) -> int:
    from jail.policy.compile import read_known, read_target
    from jail.policy.load import load_policy
    from jail.policy.show import make_shown

    policy, target = load_policy(args.policy), read_target()
    ruleset = read_known(policy, target)
    for call in args.calls:
        _check_call(call, {each for rule in ruleset.rules for each in rule.calls}, target.machine)
    shown = make_shown(policy, ruleset, target, tuple(args.calls))
    if args.json:
        _print_json(shown.to_json())
    else:
        say(shown.to_text())
    return 0


def _check_call(call: str, known: set[str], machine: str) -> None:
    """SpecError for what is no call at all, or none that anybody here has heard of."""
    from jail.policy.libseccomp import knows_call

    if call not in known and not knows_call(call, machine):
        raise SpecError(f"no system call {call!r}")


def _print_json(value: Any) -> None:
    import json

    print(json.dumps(value, indent=2))


# -- check ----------------------------------------------------------------------------------------


def add_check(commands: Any) -> None:
    """``jail policy check``."""
    parser = commands.add_parser(
        "check",
        usage="jail policy check NAME|FILE…",
        help="say what is wrong with policies, if anything is",
        description="Load policies and compile them for this machine. "
        "Exit status 0 if that can be done, 1 if something is wrong with one of them.",
        allow_abbrev=False,
    )
    parser.add_argument("policies", metavar="NAME|FILE", nargs="+", help="what to check")
    parser.set_defaults(run=run_check)


def run_check(args: argparse.Namespace) -> int:
    status = 0
    for name in args.policies:
        try:
            _check_policy(name)
        except SpecError as error:
            complain(str(error))
            status = WRONG
    return status


def _check_policy(name: str) -> None:
    from jail.policy.check import find_notes
    from jail.policy.compile import read_target
    from jail.policy.filters import make_filters
    from jail.policy.load import load_policy

    policy, target = load_policy(name), read_target()
    filters = make_filters(policy, "none")
    rules = len(policy.read_rules(target).rules)
    size = len(filters.program or filters.agent) // 8
    say(f"{name}: {rules} rules, {size} instructions")
    for note in find_notes(policy, target):
        say(f"{name}: note: {note}")


# -- diff -----------------------------------------------------------------------------------------


def add_diff(commands: Any) -> None:
    """``jail policy diff``."""
    parser = commands.add_parser(
        "diff",
        usage="jail policy diff [--json] NAME|FILE NAME|FILE",
        help="which calls two policies decide differently",
        description="Which calls two policies decide differently, whatever their files look like. "
        "Exit status 0 if there are none, 1 if there are.",
        allow_abbrev=False,
    )
    for word in ("first", "second"):
        parser.add_argument(word, metavar="NAME|FILE", help="a shipped policy, or a file")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=run_diff)


def run_diff(args: argparse.Namespace) -> int:
    from jail.policy.compile import read_known, read_target
    from jail.policy.diff import compare
    from jail.policy.libseccomp import has_call
    from jail.policy.load import load_policy

    target = read_target()
    first, second = load_policy(args.first), load_policy(args.second)
    found = compare(
        (args.first, read_known(first, target)),
        (args.second, read_known(second, target)),
        target,
        lambda call: has_call(call, target.machine),
    )
    if args.json:
        _print_json(found.to_json())
    elif found.differs():
        say(found.to_text())
    return DIFFERENT if found.differs() else 0


# -- compile --------------------------------------------------------------------------------------


def add_compile(commands: Any) -> None:
    """``jail policy compile``."""
    parser = commands.add_parser(
        "compile",
        usage="jail policy compile [-o FILE] [--arch ARCH] [--format raw|text] NAME|FILE",
        help="the program that the kernel gets",
        description="The program that the kernel gets, as an array of struct sock_filter in this "
        "machine's byte order, or as text.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("policy", metavar="NAME|FILE", help="a shipped policy, or a file")
    add("-o", "--output", metavar="FILE", help="default: stdout")
    add("--arch", choices=("x86_64", "aarch64"), help="default: this machine's")
    add("--format", choices=("raw", "text"), default="raw", help="default: raw")
    parser.set_defaults(run=run_compile)


def run_compile(args: argparse.Namespace) -> int:
    from jail.policy.compile import compile_policy
    from jail.policy.disassemble import format_program
    from jail.policy.load import load_policy
    from jail.policy.output import write_output

    if args.format == "raw" and args.output is None and sys.stdout.isatty():
        raise SpecError("stdout is a terminal: give -o FILE, or --format text")
    data = compile_policy(load_policy(args.policy), args.arch)
    if args.format == "text":
        data = f"{format_program(data)}\n".encode()
    write_output(args.output, data)
    return 0
