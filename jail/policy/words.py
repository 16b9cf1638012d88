"""The words of ``jail policy export``. What does it comes later."""

from __future__ import annotations

import argparse
from typing import Any

from jail.say import complain


def add_export(commands: Any) -> None:
    """``jail policy export``."""
    parser = commands.add_parser(
        "export",
        usage="jail policy export [-o FILE] NAME|FILE",
        help="the same as a profile for Docker",
        description="The policy as a seccomp profile that Docker accepts, for x86-64 and arm64. It "
        "never allows more; where it refuses more, a note on stderr says so.",
        allow_abbrev=False,
    )
    parser.add_argument("policy", metavar="NAME|FILE", help="a shipped policy, or a file")
    parser.add_argument("-o", "--output", metavar="FILE", help="default: stdout")
    parser.set_defaults(run=run_export)


def run_export(args: argparse.Namespace) -> int:
    """The exit status."""
    from jail.policy.compile import read_known, read_target
    from jail.policy.export import export_profile
    from jail.policy.load import load_policy
    from jail.policy.number import read_names
    from jail.policy.output import write_output
    from jail.policy.rule import MACHINES

    policy, target = load_policy(args.policy), read_target()
    is_profile = any(
        each.endswith(".json") for each in (policy.name, *(base.name for base in policy.bases))
    )
    machines = (target.machine,) if is_profile else MACHINES
    names = {name for machine in machines for name in read_names(machine).values()}
    export = export_profile(read_known(policy, target), names, machines)
    write_output(args.output, export.to_json().encode())
    for call, notes in export.notes.items():
        complain(f"note: {args.policy}: {call} {', '.join(notes)}")
    return 0
