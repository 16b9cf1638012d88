"""Makes calls under a filter, in a jail that has none of its own."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from jail.errors import HostError
from jail.policy.action import ACTION_BITS, ERRNO
from jail.policy.compile import compile_policy, read_target
from jail.policy.interpreter import AARCH64, KILL_PROCESS, X86_64, run_filter
from jail.policy.libseccomp import INSTRUCTION, RETURN
from jail.policy.load import Policy
from jail.policy.number import read_names
from jail.trial.case import ERRNO_SHIFT, Answer, Case, make_cases
from jail.trial.report import Outcome, Report, make_report

PROBE: Final = Path(__file__).with_name("probe.py")
PATIENCE_S: Final = 0.5
TIME_S: Final = 120
AUDIT_ARCHES: Final = {"x86_64": X86_64, "aarch64": AARCH64}
TRAP: Final = 0x00030000

Call = tuple[int, Sequence[int]]


def try_policy(policy: Policy, bpf: bytes | None = None) -> Report:
    """Every rule of it, on this machine; ``bpf`` is tried instead of what it is compiled to."""
    target = read_target()
    bpf = bpf or compile_policy(policy)
    ruleset = policy.read_rules(target)
    numbers = {name: number for number, name in read_names(target.machine).items()}
    cases = list(make_cases(ruleset, target, numbers))
    return make_report(policy.name, ruleset, try_cases(cases, bpf, target.machine))


def try_cases(cases: Iterable[Case], bpf: bytes, machine: str) -> list[Outcome]:
    """What becomes of each."""
    outcomes = [Outcome(case) for case in cases]
    made = [each for each in outcomes if each.case.is_safe]
    calls = [(each.case.number, each.case.args) for each in made]
    for outcome, answer in zip(made, make_calls(bpf, calls), strict=True):
        outcome.answer, outcome.was_made = answer, True
    for outcome in outcomes:
        if outcome.answer is None and outcome.case.kind != "never":
            outcome.answer = simulate_call(bpf, machine, outcome.case.number, outcome.case.args)
    return outcomes


def simulate_call(bpf: bytes, machine: str, number: int, args: Sequence[int]) -> Answer:
    """What the kernel would make of the filter."""
    action = run_filter(bpf, AUDIT_ARCHES[machine], number, args)
    if action & ACTION_BITS in (KILL_PROCESS, TRAP):
        return Answer("signal", 31)
    if action & ACTION_BITS == ERRNO:
        return Answer("returned", (action & ~ACTION_BITS) + ERRNO_SHIFT)
    return Answer("returned", 0)


def make_calls(bpf: bytes, calls: Sequence[Call], patience_s: float = PATIENCE_S) -> list[Answer]:
    """What becomes of each: the filter is loaded in a process of its own, which makes the call.

    The filter's errnos are shifted, see :data:`jail.trial.case.ERRNO_SHIFT`.
    """
    from jail.supervisor import run

    asked = {
        "filter": shift_errnos(bpf).hex(),
        "calls": [[number, list(args)] for number, args in calls],
        "patience_s": patience_s,
    }
    python = os.path.realpath(sys.executable)
    prefix = os.path.realpath(sys.base_prefix)
    volumes = [] if f"{prefix}/".startswith("/usr/") else [f"{prefix}:{prefix}:ro"]
    result = run(
        [python, "-I", "-S", "-B", "-c", PROBE.read_text()],
        input=json.dumps(asked).encode(),
        timeout=TIME_S,
        seccomp="unconfined",
        volumes=volumes,
    )
    if not result.ok:
        told = result.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise HostError(
            f"the calls could not be tried: {result.verdict} {result.message} {' '.join(told)}",
            step="trial",
        )
    return [Answer(what, number) for what, number in json.loads(result.stdout)]


def shift_errnos(bpf: bytes) -> bytes:
    """The same program with other errnos, which the kernel itself never answers."""
    shifted = bytearray()
    for code, yes, no, value in INSTRUCTION.iter_unpack(bpf):
        if code == RETURN and value & ACTION_BITS == ERRNO:
            value += ERRNO_SHIFT
        shifted += INSTRUCTION.pack(code, yes, no, value)
    return bytes(shifted)
