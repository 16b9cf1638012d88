"""The words of ``jail policy test``. What does it comes later."""

from __future__ import annotations

import argparse
from typing import Any

from jail.say import make_printable

WRONG = 1


def add_test(commands: Any) -> None:
    """``jail policy test``."""
    parser = commands.add_parser(
        "test",
        usage="jail policy test [--json] NAME|FILE",
        help="try a policy: make calls that each rule decides, and such as it just does not",
        description="Make system calls under the policy, in a jail: for each rule some that it "
        "decides, and these with each argument spoilt that it looks at. Exit status 0 if all are "
        "decided as the policy says, 1 if not.",
        allow_abbrev=False,
    )
    parser.add_argument("policy", metavar="NAME|FILE", help="a shipped policy, or a file")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=run_test)


def run_test(args: argparse.Namespace) -> int:
    """The exit status."""
    import json

    from jail.policy.load import load_policy
    from jail.trial.run import try_policy

    report = try_policy(load_policy(args.policy))
    if args.json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        for line in report.to_text().split("\n"):
            print(make_printable(line))
    return 0 if report.ok else WRONG
