"""A report as text: for people a table, the tiers and the remedies; for programs JSON."""

from __future__ import annotations

import errno as codes
import json
import textwrap

from jail.doctor.cause import Cause
from jail.doctor.report import TIERS, Finding, Report

WIDTH = 100
_COLOURS = {"ok": "32", "missing": "33", "broken": "31"}


def format_report(report: Report, *, colour: bool = False) -> str:
    """Aligned plain text; terminal colours only if asked for."""
    parts = [
        _format_host(report),
        _format_table(report.findings, colour),
        _format_tiers(report),
        *(_format_cause(cause, _names_of(cause, report)) for cause in report.causes.values()),
        *([_format_warnings(report)] if report.warnings else []),
    ]
    return "\n\n".join(parts)


def format_json(report: Report) -> str:
    return json.dumps(report.to_json(), indent=2)


def printable(text: str) -> str:
    """The text without control characters: helpers' words are shown on a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)


def _format_host(report: Report) -> str:
    facts = report.facts
    system = facts.distro[0] if facts.distro else "an unknown distribution"
    inside = f", perhaps in a container ({facts.container})" if facts.container else ""
    return (
        f"Linux {facts.kernel_release} {facts.arch}, {system}{inside}; "
        f"{facts.user or 'a user without name'} (uid {facts.uid}); {facts.python}"
    )


def _format_table(findings: tuple[Finding, ...], colour: bool) -> str:
    width = max(len(each.probe.name) for each in findings)
    return "\n".join(_format_finding(each, width, colour) for each in findings)


def _format_finding(finding: Finding, width: int, colour: bool) -> str:
    status, detail = f"{finding.status:<7}", printable(_describe(finding))
    if colour:
        status = f"\x1b[{_COLOURS[finding.status]}m{status}\x1b[0m"
    return f"  {status}  {finding.probe.name:<{width}}  {detail}".rstrip()


def _describe(finding: Finding) -> str:
    outcome, probe = finding.outcome, finding.probe
    if outcome.ok:
        return outcome.detail
    name = codes.errorcode.get(outcome.errno or 0, "")
    at = outcome.step if outcome.step and outcome.step != probe.step else ""
    said = ": ".join(part for part in (at, name, outcome.detail) if part)
    return f"{said} [{probe.needed}: {probe.feature}]"


def _format_tiers(report: Report) -> str:
    if report.tier is None:
        lines = ["This host reaches no tier: jails can't run here."]
    else:
        lines = [f"This host reaches tier {report.tier} of {len(TIERS) - 1}."]
    for number, (name, costs) in enumerate(TIERS):
        missing = report.missing(number)
        lines.append(f"  tier {number}  {name}: {'no' if missing else 'ok'}")
        if missing:
            lines += [
                *_fill(f"lacks: {', '.join(missing)}", " " * 6),
                *_fill(f"costs: {costs}", " " * 6),
            ]
    return "\n".join(lines)


def _names_of(cause: Cause, report: Report) -> str:
    names = [each.probe.name for each in report.findings if each.cause and each.cause == cause]
    return ", ".join(names)


def _format_cause(cause: Cause, names: str) -> str:
    lines = [printable(cause.title), *_fill(f"stops: {names}"), *_fill(printable(cause.text))]
    return "\n".join([*lines, *(f"    {printable(line)}".rstrip() for line in cause.lines)])


def _fill(text: str, indent: str = "  ") -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=indent, subsequent_indent=indent, break_long_words=False
    )


def _format_warnings(report: Report) -> str:
    return "\n".join(f"warning: {printable(each)}" for each in report.warnings)
