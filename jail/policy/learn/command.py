"""``jail policy learn``: run a program, and write the smallest policy that it works under."""

from __future__ import annotations

import argparse
import os
import shlex
import tomllib
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from jail.errors import JailError, SpecError
from jail.say import complain, complain_of, tell_end

if TYPE_CHECKING:
    from jail.policy.learn.note import Learned
    from jail.policy.rule import Ruleset, Target
    from jail.result import Result
    from jail.spec import JailSpec

FAILED: Final = 125
UNCONFINED: Final = "unconfined"
DESCRIPTION: Final = """\
Run a program in a jail, watch its system calls, and write the smallest policy that it works under,
as a difference to “strict”. --seccomp decides meanwhile: nothing is allowed that it refuses. What
the program does only sometimes is learned when it does it: run it again with --append.
Exit status: the program's own.
"""
DECIDED_ANEW: Final = ("seccomp", "volume", "tmpfs")
"""options of the jail that are proposed by what was seen, not as they were given"""
FOR_NETWORK: Final = ("network", "allow", "deny", "observe", "publish", "dns")
"""those that only a program needs that spoke to somebody"""


class Recorder:
    """Stands before an argument group, and remembers what options were added to it."""

    def __init__(self, group: Any) -> None:
        self._group = group
        self.options: list[argparse.Action] = []

    def add_argument(self, *names: str, **words: Any) -> None:
        self.options.append(self._group.add_argument(*names, **words))


def add_learn(commands: Any) -> None:
    """``jail policy learn``."""
    from jail.cli import add_jail_options, add_limit_options
    from jail.network.option import add_network_options

    parser = commands.add_parser(
        "learn",
        usage="jail policy learn [-o FILE] [--append] [OPTIONS of jail run] -- PROGRAM [ARG…]",
        help="run a program, and write the smallest policy that it works under",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,  # -h is the hostname, as with jail run
        allow_abbrev=False,
    )
    add = parser.add_argument_group("the policy").add_argument
    add("-o", "--output", metavar="FILE", help="default: stdout, where the program's own is not")
    add("--append", action="store_true", help="add to what FILE has learned before")
    add("--format", choices=("toml", "docker"), default="toml", help="default: toml")
    add("--help", action="help", help="this text")
    recorder = Recorder(parser.add_argument_group("the jail, as with jail run"))
    add_jail_options(recorder)
    add_network_options(recorder)
    add_limit_options(recorder)
    run = parser.add_argument_group("the run").add_argument
    run("-i", "--interactive", action="store_true", help="pass our stdin on; else it is empty")
    parser.set_defaults(run=run_learn, takes_program=True, jail_options=recorder.options)


def run_learn(args: argparse.Namespace) -> int:
    """The exit status: as that of ``jail run``, also where nothing ran."""
    from jail.result import make_failure

    try:
        return learn(args)
    except JailError as error:
        complain_of(error)
        return make_failure(error).exit_status


def learn(args: argparse.Namespace) -> int:
    """The program's exit status."""
    from jail.check import check_argv
    from jail.cli import make_spec_of
    from jail.policy.compile import read_target
    from jail.policy.learn.propose import list_beyond, list_mounts

    check_ending(args)
    spec, argv = make_spec_of(args), check_argv(args.program)
    target = read_target()
    before = read_before(args)
    base, ceiling = load_rules(target, args.seccomp)
    learned = make_learned(args, argv, target)
    result = watch_program(args, spec, argv, learned, (base, ceiling), target)
    if result.fault:
        return result.exit_status
    tell_end(result)
    mounts = list_mounts(spec, learned)
    learned.mounts.update(mounts)
    command = find_command(args, argv, mounts, learned, list_rules(args, result))
    missing = find_shown(spec, learned)
    if before is not None:
        before.add(learned)
    write(args, before or learned, (base, ceiling), target)
    whole = before or learned
    tell(args, whole, list_beyond(whole, base, target), command, missing)
    return result.exit_status


def check_ending(args: argparse.Namespace) -> None:
    """SpecError for a name by which the file would be taken for one of the other format."""
    is_profile = (args.output or "").endswith(".json")
    if args.output is not None and is_profile != (args.format == "docker"):
        told = "a name in .json" if args.format == "docker" else "any name but one in .json"
        raise SpecError(f"-o {args.output}: --format {args.format} wants {told}")


def read_before(args: argparse.Namespace) -> Learned | None:
    """What is to be added to."""
    if not args.append:
        return None
    if args.output is None or args.format != "toml":
        raise SpecError("--append: give -o FILE, a policy in TOML that was learned before")
    from jail.policy.learn.file import read_learned

    before = read_learned(args.output)
    if before is not None and before.ceiling != args.seccomp:
        raise SpecError(
            f"--append: {args.output} was learned with --seccomp {before.ceiling}: give that again"
        )
    return before


def load_rules(target: Target, ceiling: str) -> tuple[Ruleset, Ruleset]:
    """The base's, and the ceiling's."""
    from jail.policy.learn.text import BASE
    from jail.policy.load import load_policy
    from jail.policy.rule import Ruleset

    if ceiling == UNCONFINED:
        return load_policy(BASE).read_rules(target), Ruleset("allow", ())
    return load_policy(BASE).read_rules(target), load_policy(ceiling).read_rules(target)


def make_learned(args: argparse.Namespace, argv: tuple[str, ...], target: Target) -> Learned:
    """Nothing so far."""
    from jail.policy.learn.note import Learned

    return Learned(args.seccomp, target.machine, [shlex.join(argv)])


def watch_program(
    args: argparse.Namespace,
    spec: JailSpec,
    argv: tuple[str, ...],
    learned: Learned,
    rules: tuple[Ruleset, Ruleset],
    target: Target,
) -> Result:
    """Its result. Without -o our stdout is for the policy."""
    from jail.foreground import Request
    from jail.learning import run_watched
    from jail.policy.learn.watch import Watch

    request = Request(
        spec=spec,
        argv=argv,
        interactive=args.interactive,
        shows=args.output is not None,
        warn=lambda text: complain(f"note: {text}"),
    )
    return run_watched(request, Watch(learned, *rules, target))


def find_command(
    args: argparse.Namespace,
    argv: tuple[str, ...],
    mounts: list[str],
    learned: Learned,
    rules: list[str],
) -> str:
    """``jail run`` as this program needs it."""
    from jail.policy.learn.propose import make_command, needs_network

    left_out: tuple[str, ...] = DECIDED_ANEW
    if not needs_network(learned):
        left_out, rules = left_out + FOR_NETWORK, []
    elif args.observe:
        left_out += ("network", "allow", "observe")
    options = [*list_options(args, left_out), *rules, *mounts]
    return make_command(options, args.output or "", argv)


def list_rules(args: argparse.Namespace, result: Result) -> list[str]:
    """In the place of --observe, what it let pass."""
    if not args.observe:
        return []
    from jail.network.advice import find_rules

    return [f"--allow {rule}" for rules in find_rules(result.network) for rule in rules]


def list_options(args: argparse.Namespace, left_out: tuple[str, ...]) -> list[str]:
    """Those that were given, but for these."""
    words = []
    for option in args.jail_options:
        value, name = getattr(args, option.dest), option.option_strings[0]
        if option.dest in left_out or value == option.default:
            continue
        if value is True:
            words.append(name)
        else:
            words += [f"{name} {each}" for each in (value if isinstance(value, list) else [value])]
    return words


def find_shown(spec: JailSpec, learned: Learned) -> list[str]:
    """What it looked for and the host has: it could be shown."""
    from jail.policy.learn.path import propose_volumes

    if spec.rootfs != "host":
        return []
    # Of a link, what it leads to is what isn't there inside.
    missing = {os.path.realpath(each) for each in learned.paths.get("missing", ())}
    return propose_volumes(each for each in missing if os.access(each, os.R_OK))


def write(
    args: argparse.Namespace, learned: Learned, rules: tuple[Ruleset, Ruleset], target: Target
) -> None:
    """The policy, which has been read back and compiled before anybody gets it."""
    from jail.policy.compile import compile_ruleset
    from jail.policy.document import parse_document
    from jail.policy.learn.rules import make_pieces
    from jail.policy.learn.text import BASE, format_policy, make_rules

    base, ceiling = rules
    text = format_policy(make_rules(make_pieces(learned, base, ceiling, target)), learned)
    ruleset = parse_document(tomllib.loads(text), args.output or "learned", (BASE, base))
    compile_ruleset(ruleset, target, "none", args.output or "learned")
    if args.format == "docker":
        text = export(ruleset)
    if args.output is None:
        print(text, end="", flush=True)
        return
    from jail.policy.learn.file import write_policy

    write_policy(args.output, text)


def export(ruleset: Ruleset) -> str:
    """As Docker takes it, whose runtime is under the filter before the program is."""
    from jail.policy.export import export_profile
    from jail.policy.learn.table import CONTAINER_RUNTIME
    from jail.policy.rule import Rule

    starting = Rule(CONTAINER_RUNTIME, "allow", ((),), "runc starts the program under the filter")
    exported = export_profile(replace(ruleset, rules=(starting, *ruleset.rules)))
    for call, notes in exported.notes.items():
        complain(f"note: {call}: {'; '.join(notes)}")
    return exported.to_json()


def tell(
    args: argparse.Namespace,
    learned: Learned,
    beyond: list[str],
    command: str,
    missing: list[str],
) -> None:
    """What one would want to know of it, a line each."""
    from jail.policy.learn.propose import join_some, list_refused, split

    calls = sorted(learned.calls | set(learned.values))
    complain(f"{args.output or 'learned'}: {len(calls)} calls beside those that every program has")
    if beyond:
        complain(f"beyond strict: {join_some(beyond)}")
    if refused := list_refused(learned):
        complain(f"refused by {learned.ceiling}: {join_some(refused)}")
    if learned.network:
        complain(f"spoke to: {join_some(sorted(learned.network))}")
    if missing:
        complain(f"looked for and not shown: {join_some(missing)}")
        shown = split(f"-v {each}:{each}:ro" for each in missing)
        complain(f"show them with: {shlex.join(shown)}")
    complain(f"now: {command}")
