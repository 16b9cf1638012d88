"""``jail doctor``: tries what a jail needs, names the cause of what fails and the lines to mend it.

The probes run for real, each in a process that is thrown away; the causes are pure functions of
the step that failed, its errno and the host's facts, and serve ``jail run``'s errors as well.
"""

from __future__ import annotations

import os
import sys

from jail.doctor.cause import Cause, find_cause
from jail.doctor.probe import PROBES, Outcome, Probe
from jail.doctor.report import Finding, Report, run_doctor
from jail.doctor.text import format_json, format_report

__all__ = [
    "PROBES",
    "Cause",
    "Finding",
    "Outcome",
    "Probe",
    "Report",
    "find_cause",
    "format_report",
    "main_doctor",
    "run_doctor",
]


def main_doctor(json: bool = False) -> int:
    """``jail doctor [--json]``: prints the report; 0 if a jail can run on this host, else 1."""
    report = run_doctor()
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    print(format_json(report) if json else format_report(report, colour=colour))
    return report.exit_status
