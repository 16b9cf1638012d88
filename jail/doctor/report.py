"""The doctor's answer: what works, which tier that makes, what to do about the rest."""

from __future__ import annotations

import errno as codes
import pwd
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from jail.doctor.cause import Cause, find_cause
from jail.doctor.probe import PROBES, Outcome, Probe, Runner, run_probes
from jail.host import HostFacts, read_facts
from jail.subid import IdRange

TIERS = (
    ("kernel and Python", "no jail can run on this host"),
    ("ids of their own, network", "one id inside a jail, your own; and no network"),
    (
        "limits by a delegated cgroup v2",
        "memory, processes and cpu are held by rlimits and the supervisor's watch, not the kernel",
    ),
)


@dataclass(frozen=True)
class Finding:
    """One probe's outcome, and the cause where it failed and a cause is known."""

    probe: Probe
    outcome: Outcome
    cause: Cause | None = None

    @property
    def status(self) -> str:
        """``"ok"``, ``"missing"`` (not there) or ``"broken"`` (there, and failed)."""
        if self.outcome.ok:
            return "ok"
        return "missing" if self.outcome.absent else "broken"

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.probe.name,
            "ok": self.outcome.ok,
            "status": self.status,
            "needed": self.probe.needed,
            "tier": self.probe.tier,
            "feature": self.probe.feature,
            "step": self.outcome.step or self.probe.step,
            "errno": _errno_name(self.outcome.errno),
            "detail": self.outcome.detail,
            "cause": self.cause.key if self.cause else None,
        }


@dataclass(frozen=True)
class Report:
    """All findings on one host. ``warnings`` are about the facts, not about a probe."""

    facts: HostFacts
    findings: tuple[Finding, ...]
    warnings: tuple[str, ...] = ()

    @property
    def tier(self) -> int | None:
        """The highest tier that is reached with all below it; None: not even tier 0."""
        reached = None
        for number in range(len(TIERS)):
            if self.missing(number):
                break
            reached = number
        return reached

    @property
    def ok(self) -> bool:
        return self.tier is not None

    @property
    def exit_status(self) -> int:
        return 0 if self.ok else 1

    @property
    def causes(self) -> dict[str, Cause]:
        """Every cause once, by key, in the order of the findings."""
        return {each.cause.key: each.cause for each in self.findings if each.cause}

    def missing(self, tier: int) -> tuple[str, ...]:
        """The probes that keep this one tier away; of a choice, all when none works."""
        needed = [each for each in self.findings if each.probe.tier == tier]
        chosen = {each.probe.choice for each in needed if each.outcome.ok and each.probe.choice}
        failed = [each.probe for each in needed if not each.outcome.ok]
        return tuple(probe.name for probe in failed if probe.choice not in chosen)

    def to_json(self) -> dict[str, Any]:
        """Plain data with stable keys: ok, tier, host, tiers, probes, causes, warnings."""
        return {
            "ok": self.ok,
            "tier": self.tier,
            "host": _host_to_json(self.facts),
            "tiers": [
                {"tier": n, "ok": not self.missing(n), "missing": list(self.missing(n)), "costs": c}
                for n, (_, c) in enumerate(TIERS)
            ],
            "probes": [each.to_json() for each in self.findings],
            "causes": [
                {**asdict(each), "lines": list(each.lines)} for each in self.causes.values()
            ],
            "warnings": list(self.warnings),
        }


def run_doctor(
    facts: HostFacts | None = None,
    probes: Sequence[Probe] = PROBES,
    runner: Runner | None = None,
) -> Report:
    """Tries everything a jail needs on this host (about a second; changes nothing).

    ``facts`` default to this host's; ``runner`` tries the probes, by default for real in
    processes of their own.
    """
    facts = facts or read_facts()
    outcomes = run_probes(probes, facts, runner)
    findings = tuple(_find(each, outcomes[each.name], facts) for each in probes)
    return Report(facts, findings, (*facts.subid_warnings, *_read_overlaps(facts)))


def find_owned_ids(
    kind: str, ranges: Iterable[IdRange], entries: Iterable[tuple[str, int]]
) -> list[str]:
    """A warning for each real account (name, id) that lies in a subordinate range."""
    return [
        f"/etc/sub{kind}: {each} contains {number}, the {kind} of {name}: a jail could act as it"
        for each in ranges
        for name, number in entries
        if number in each
    ]


def _find(probe: Probe, outcome: Outcome, facts: HostFacts) -> Finding:
    if outcome.ok:
        return Finding(probe, outcome)
    return Finding(probe, outcome, find_cause(outcome.step or probe.step, outcome.errno, facts))


def _read_overlaps(facts: HostFacts) -> list[str]:
    entries = [(entry.pw_name, entry.pw_uid) for entry in pwd.getpwall()]
    return find_owned_ids("uid", facts.subuids, entries)


def _host_to_json(facts: HostFacts) -> dict[str, Any]:
    return {
        "kernel": facts.kernel_release,
        "arch": facts.arch,
        "distro": list(facts.distro),
        "python": facts.python,
        "user": facts.user,
        "uid": facts.uid,
        "container": facts.container,
        "subuids": [asdict(each) for each in facts.subuids],
        "subgids": [asdict(each) for each in facts.subgids],
    }


def _errno_name(number: int | None) -> str | None:
    return None if number is None else codes.errorcode.get(number, str(number))
