"""The command: words in, a :class:`jail.Result` out as text, JSON and exit status."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import IO, Any, NoReturn

from jail import __version__
from jail.errors import JailError, SpecError
from jail.network.option import add_network_options, read_network_words
from jail.policy.command import add_policy_commands, run_policy
from jail.result import Result, make_failure
from jail.say import complain, complain_of, tell_denied, tell_end, tell_needed, tell_unreached
from jail.stats.command import add_commands, run_on_living

FAILED = 125
DEVICE_OPTIONS = {
    "device_read_bps": "read at most so many bytes a second, such as /dev/sda:1mb",
    "device_write_bps": "write at most so many bytes a second",
    "device_read_iops": "at most so many reads a second",
    "device_write_iops": "at most so many writes a second",
}
LIMIT_OPTIONS = (
    "memory",
    "cpu_time",
    "wall_time",
    "pids_limit",
    "output_limit",
    "disk",
    "cpus",
    "cpuset_cpus",
    "cpu_shares",
    "blkio_weight",
    *DEVICE_OPTIONS,
)
EPILOG = """\
exit status: the program's own; 128+n when signal n killed it; 124 time limit, 137 memory limit,
153 output limit; 125 the sandbox failed, 126 the program can't be executed, 127 it isn't there.
--json tells them all apart.
"""


class Parser(argparse.ArgumentParser):
    """argparse with docker's exit status for a wrong command line, and one line to say it in."""

    def error(self, message: str) -> NoReturn:
        complain(f"{message} (see {self.prog} --help)")
        raise SystemExit(FAILED)


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status."""
    open_missing_streams()
    try:
        return run_command(list(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        return 128 + signal.SIGPIPE
    finally:
        flush_or_forget()


def open_missing_streams() -> None:
    """What a shell closed (``>&-``): else 0, 1 or 2 would be the next thing that we open, a socket
    of ours, and a stranger's output would go there.
    """
    for number, name, flags in (
        (0, "stdin", os.O_RDONLY),
        (1, "stdout", os.O_WRONLY),
        (2, "stderr", os.O_WRONLY),
    ):
        with suppress(OSError):
            os.fstat(number)
            continue
        os.open(os.devnull, flags)
        stream = open(number, "w" if number else "r", closefd=False)  # noqa: SIM115 - as sys has it
        setattr(sys, name, stream)


def run_command(words: list[str]) -> int:
    """One of the commands."""
    # argparse would take the program's own options for ours, and its "--" away.
    options, program = split_program(words)
    parser = make_parser(options[0] if options else "")
    args, unknown = parser.parse_known_args(options)
    if unknown:
        refuse_words(args, unknown)
    if args.command is None:
        parser.print_help(sys.stderr)
        return FAILED
    if args.command == "doctor":
        return run_doctor(args, program)
    if args.command == "policy":
        return run_policy(args, program)
    if args.command != "run":
        return run_on_living(args, program)
    return run_program(args, [*args.program, *program])


def refuse_words(args: argparse.Namespace, unknown: list[str]) -> NoReturn:
    """With the help of the very command that they were given to."""
    words = ["jail", args.command, getattr(args, "policy_command", None)]
    prog = " ".join(each for each in words if each)
    Parser(prog=prog).error(f"unrecognized arguments: {' '.join(unknown)}")


def flush_or_forget() -> None:
    """Python would flush once more at its end, and turn a reader that has gone into status 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)


def split_program(words: list[str]) -> tuple[list[str], list[str]]:
    """What stands before and behind the first ``--``."""
    if "--" not in words:
        return words, []
    where = words.index("--")
    return words[:where], words[where + 1 :]


def make_parser(command: str) -> argparse.ArgumentParser:
    """``jail run``, ``jail doctor`` and the others, with docker's names, for this one of them."""
    parser = Parser(prog="jail", description="Run a program nobody trusts, as yourself.")
    parser.add_argument("--version", action="version", version=f"jail {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    run = commands.add_parser(
        "run",
        usage="jail run [OPTIONS] -- PROGRAM [ARG…]",
        help="run a program in a jail of its own",
        description="Run a program in a jail of its own, with limits, and exit as it did.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,  # -h is the hostname, as docker has it
        allow_abbrev=False,
    )
    add_jail_options(run.add_argument_group("the jail"))
    add_network_options(run.add_argument_group("the network"))
    add_limit_options(run.add_argument_group("limits (0 is refused; “unlimited” lifts one)"))
    add_run_options(run.add_argument_group("the run"))
    run.add_argument("program", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    doctor = commands.add_parser(
        "doctor",
        help="try what a jail needs on this host, and say how to mend what fails",
        description="Try what a jail needs on this host; exit 0 if jails can run here, else 1.",
        allow_abbrev=False,
    )
    doctor.add_argument("--json", action="store_true", help="the report as JSON")
    add_commands(commands)
    add_policy_commands(commands, whole=command == "policy")
    return parser


def add_jail_options(group: Any) -> None:
    """What is inside, and who."""
    add = group.add_argument
    add(
        "--rootfs",
        metavar="host|DIR",
        default="host",
        help="the host's /usr, or a root file system",
    )
    add(
        *("-v", "--volume"),
        action="append",
        default=[],
        metavar="SRC:DST[:ro|rw]",
        help="show a host path inside; rw (as yourself) unless it says ro",
    )
    add(
        "--tmpfs",
        action="append",
        default=[],
        metavar="DST[:SIZE]",
        help="an empty file system in memory",
    )
    add("-e", "--env", action="append", default=[], metavar="K=V", help="nothing else comes in")
    add("-w", "--workdir", metavar="DIR", help="working directory inside (default /work)")
    add("-u", "--user", metavar="USER[:GROUP]", help="name or id inside (default 1000)")
    add("-h", "--hostname", default="jail", help="default: jail")
    add("--read-only", action="store_true", help="the root file system can't be written to")
    add(
        "--seccomp",
        metavar="NAME|FILE|unconfined",
        default="default",
        help="system-call policy (default: the one of that name)",
    )
    add("--cgroup-parent", metavar="PATH", help="a delegated cgroup v2 for the jail's own")
    add("--userns", metavar="auto|single", default="auto", help="ids of the jail's own, or one")
    add(
        "--require",
        action="append",
        default=[],
        metavar="LIMIT=MECHANISM",
        help="refuse to run where less than this would hold the limit",
    )


def add_limit_options(group: Any) -> None:
    """Sizes as 256m, times as 1.5s."""
    add = group.add_argument
    add("-m", "--memory", metavar="SIZE", help="of all processes together (default 512m)")
    add("--cpu-time", metavar="TIME", help="of all processes together (default 60s)")
    add("--wall-time", metavar="TIME", help="default 120s")
    add("--pids-limit", metavar="N", help="processes and threads (default 256)")
    add("--output-limit", metavar="SIZE", help="of stdout and of stderr (default 64m)")
    add("--disk", metavar="SIZE", help="of all that is written inside (default 256m)")
    add(
        "--ulimit",
        action="append",
        default=[],
        metavar="NAME=SOFT[:HARD]",
        help="as docker's: nofile, nproc, core, stack, fsize, …",
    )
    add("--cpus", metavar="N", help="so many processors' worth of time, such as 1.5")
    add("--cpuset-cpus", metavar="LIST", help="the processors to run on, such as 0-2,4")
    add("--cpu-shares", metavar="N", help="who gets more of a busy processor (2 to 262144)")
    add("--blkio-weight", metavar="N", help="who gets more of a busy disk (10 to 1000)")
    for word, unit in zip(DEVICE_OPTIONS, ("RATE", "RATE", "N", "N"), strict=True):
        add(
            f"--{word.replace('_', '-')}",
            action="append",
            metavar=f"DEVICE:{unit}",
            help=DEVICE_OPTIONS[word],
        )
    add("--no-limits", action="store_true", help="none but those given on this command line")


def add_run_options(group: Any) -> None:
    """Streams and reports."""
    add = group.add_argument
    add("-i", "--interactive", action="store_true", help="pass our stdin on; else it is empty")
    add("-t", "--tty", action="store_true", help="give it a terminal of the jail's own")
    add(
        "--json",
        metavar="FILE|-",
        help="write the whole result; with - nothing but it is printed, output inside it",
    )
    add("--meta", metavar="FILE", help="write isolate's meta file")
    add("--pause", action="store_true", help="start the program when “jail resume” says so")
    add("--explain-denied", action="store_true", help="print what the policy refused, and why")
    add("--explain", action="store_true", help="print what would be done, and do nothing")
    add("--help", action="help", help="this text")


# -- jail run -------------------------------------------------------------------------------------


def run_program(args: argparse.Namespace, argv: list[str]) -> int:
    """Parse, run, report."""
    with Reports(args.json, args.meta) as reports:
        try:
            reports.open()
            result = decide_and_run(args, argv)
        except JailError as error:
            result = make_failure(error)
            complain_of(error, quiet=reports.owns_stdout)
        else:
            if result is None:  # explained
                return 0
            if not reports.owns_stdout:
                tell_all(result, args)
        try:
            reports.write(result)
        except BrokenPipeError:
            raise
        except OSError as error:
            complain(f"the result can't be written: {error.strerror}")
            return FAILED
        return result.exit_status


def tell_all(result: Result, args: argparse.Namespace) -> None:
    """As much of it as was asked for."""
    tell_end(result)
    if args.explain_denied:
        tell_denied(result)
    if args.explain_denied or args.observe:
        tell_unreached(result)
    if args.observe:
        tell_needed(result)


def decide_and_run(args: argparse.Namespace, argv: list[str]) -> Result | None:
    """None where there was only something to explain. Raises what is wrong before the start."""
    from jail.check import check_argv
    from jail.host import read_facts
    from jail.inputs import plan_jail

    spec = make_spec_of(args)
    program = () if args.explain and not argv else check_argv(argv)
    if args.tty and args.interactive and not args.explain and not sys.stdin.isatty():
        raise SpecError("-t with -i: stdin is not a terminal")
    if args.explain:
        from jail.explain import format_plan, format_plan_json

        plan = plan_jail(spec, read_facts())
        print(format_plan_json(plan) if args.json == "-" else format_plan(plan, program))
        return None
    from jail.foreground import Request, run_foreground, say_nothing

    return run_foreground(
        Request(
            spec=spec,
            argv=program,
            interactive=args.interactive,
            terminal=args.tty,
            shows=args.json != "-",
            keeps=args.json is not None,
            paused=args.pause,
            warn=say_nothing if args.json == "-" else warn,
            tell=complain,
        )
    )


def warn(text: str) -> None:
    """What is weaker here than it could be."""
    complain(f"note: {text}")


def make_spec_of(args: argparse.Namespace) -> Any:
    """The spec; SpecError for what can't be."""
    from jail import spec
    from jail.limit import UNLIMITED

    words = {name: getattr(args, name) for name in LIMIT_OPTIONS if getattr(args, name) is not None}
    if args.ulimit:
        words["ulimits"] = args.ulimit
    words |= read_network_words(args)
    return spec.make_spec(
        rootfs=args.rootfs,
        volumes=args.volume,
        tmpfs=args.tmpfs,
        env=dict(map(spec.parse_env, args.env)),
        workdir=args.workdir or spec.DEFAULT_WORKDIR,
        user=args.user,
        hostname=args.hostname,
        read_only=args.read_only,
        seccomp=args.seccomp,
        explain_denied=getattr(args, "explain_denied", False),
        userns=args.userns,
        cgroup_parent=args.cgroup_parent,
        require=dict(map(parse_require, args.require)),
        limits=UNLIMITED if args.no_limits else None,
        **words,
    )


def parse_require(text: str) -> tuple[str, str]:
    limit, equals, mechanism = text.partition("=")
    if not limit or not equals or not mechanism:
        raise SpecError(f"require {text!r}: write LIMIT=MECHANISM, such as memory=cgroup")
    return limit, mechanism


class Reports:
    """The files that were asked for: opened before anything runs, so that no result is lost."""

    def __init__(self, json_path: str | None, meta_path: str | None) -> None:
        self._paths = {"json": json_path, "meta": meta_path}
        self._files: dict[str, IO[str]] = {}
        self.owns_stdout = json_path == "-"

    def __enter__(self) -> Reports:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            with suppress(OSError):
                file.close()

    def open(self) -> None:
        """SpecError where one can't be written."""
        for option, path in self._paths.items():
            if path is None or (option == "json" and path == "-"):
                continue
            if path == "-":
                raise SpecError(f"--{option} -: give a file; only --json goes to stdout")
            try:
                file = open(path, "w", encoding="utf-8", errors="replace")  # noqa: SIM115 - ours to close
                self._files[option] = file
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) else error
                raise SpecError(f"--{option} {path}: {reason}") from None

    def write(self, result: Result) -> None:
        if self.owns_stdout:
            print(json.dumps(result.to_json()), flush=True)
        if "json" in self._files:
            self._files["json"].write(json.dumps(result.to_json()) + "\n")
            self._files["json"].flush()
        if "meta" in self._files:
            from jail.meta import format_meta

            self._files["meta"].write(format_meta(result))
            self._files["meta"].flush()


# -- jail doctor ----------------------------------------------------------------------------------


def run_doctor(args: argparse.Namespace, more: list[str]) -> int:
    if more:
        complain(f"doctor takes no program: {' '.join(more)}")
        return FAILED
    from jail.doctor import main_doctor

    return main_doctor(json=args.json)
