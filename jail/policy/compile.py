"""From a policy to an array of ``struct sock_filter``."""

from __future__ import annotations

import functools
import os
import re
from typing import TYPE_CHECKING, Final

from jail.errors import HostError, SpecError

if TYPE_CHECKING:
    from jail.policy.action import Report
    from jail.policy.load import Policy
    from jail.policy.rule import Ruleset, Target

MAX_BPF_BYTES: Final = 4096 * 8


def compile_policy(policy: Policy, machine: str | None = None, report: Report = "none") -> bytes:
    """An array of ``struct sock_filter`` for this machine, or for "x86_64" or "aarch64".

    SpecError for a call that libseccomp does not know, HostError where it is missing.
    """
    target = read_target(machine)
    return compile_ruleset(policy.read_rules(target), target, report, policy.name)


def compile_ruleset(
    ruleset: Ruleset, target: Target, report: Report = "none", name: str = "made"
) -> bytes:
    """The same, of rules that were made in code."""
    from jail.policy import libseccomp

    try:
        bpf = libseccomp.compile_rules(ruleset, target, report)
    except SpecError as error:
        raise SpecError(f"seccomp policy {name}: {error}") from None
    if len(bpf) > MAX_BPF_BYTES:
        raise SpecError(f"seccomp policy {name}: too long for the kernel")
    return bpf


def read_known(policy: Policy, target: Target) -> Ruleset:
    """Its rules; SpecError where it could not be compiled for a name that nobody knows."""
    from jail.policy.libseccomp import refuse_unknown_calls

    ruleset = policy.read_rules(target)
    try:
        refuse_unknown_calls(ruleset, target)
    except SpecError as error:
        raise SpecError(f"seccomp policy {policy.name}: {error}") from None
    return ruleset


def read_target(machine: str | None = None) -> Target:
    """This machine or that one, with the kernel that runs; HostError where we know no filter."""
    from jail.policy.rule import MACHINES, Target

    facts = os.uname()
    machine = machine or facts.machine
    if machine not in MACHINES:
        raise HostError(f"no system-call filter for a {machine} machine", step="libseccomp")
    return Target(machine, parse_release(facts.release))


@functools.cache
def parse_release(release: str) -> tuple[int, int]:
    """(major, minor) of what ``uname -r`` says; (0, 0), so none of a rule's, if it says neither."""
    found = re.match(r"([0-9]+)\.([0-9]+)", release)
    return (int(found[1]), int(found[2])) if found else (0, 0)
