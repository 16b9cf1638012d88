"""isolate's meta file: a ``key:value`` a line, see isolate(1), “Meta-files”. Pure."""

from __future__ import annotations

from jail.result import Result, Verdict

STATUSES = {Verdict.TLE: "TO", Verdict.IE: "XX", Verdict.SG: "SG", Verdict.RE: "RE"}


def format_meta(result: Result) -> str:
    """Times in seconds with milliseconds, memory in KiB. ``status`` is missing where all is well.

    isolate has no words for memory, output, disk, processes and policy: those are RE or SG, by
    how the program ended, and ``message`` names the limit.
    """
    lines: dict[str, object] = {}
    status = find_status(result)
    if result.verdict is not Verdict.IE:
        lines["time"] = f"{result.cpu_time_s:.3f}"
        lines["time-wall"] = f"{result.wall_time_s:.3f}"
    if result.memory_peak_bytes is not None:
        lines["max-rss"] = result.memory_peak_bytes // 1024
    if result.enforced_by.get("memory") == "cgroup" and result.memory_peak_bytes is not None:
        lines["cg-mem"] = result.memory_peak_bytes // 1024
    if result.usage.oom_kills:
        lines["cg-oom-killed"] = 1
    if result.context_switches_forced is not None:
        lines["csw-forced"] = result.context_switches_forced
    if result.exit_code is not None:
        lines["exitcode"] = result.exit_code
    if result.signal is not None:
        lines["exitsig"] = result.signal
    if result.killed:
        lines["killed"] = 1
    if status:
        lines["status"] = status
    message = result.message or describe_end(result)
    if message:
        lines["message"] = " ".join(message.split())
    return "".join(f"{key}:{value}\n" for key, value in lines.items())


def find_status(result: Result) -> str:
    """TO, XX, SG, RE, or "" where it exited with 0."""
    if result.verdict in STATUSES:
        return STATUSES[result.verdict]
    if result.signal is not None:
        return "SG"
    return "RE" if result.exit_code else ""


def describe_end(result: Result) -> str:
    """isolate's own sentences for an end that was nobody's limit."""
    if result.signal is not None:
        return f"Caught fatal signal {result.signal}"
    return f"Exited with error status {result.exit_code}" if result.exit_code else ""
