"""Runs them, prints the table, and looks for what was left."""

from __future__ import annotations

import shutil
import sys

import trio

import jail
from benchmarks.table import print_table
from examples.demo import trace
from examples.demo.case import (
    LIMITS,
    PROGRAMS,
    Bait,
    Case,
    make_compiled,
    make_honest,
    make_hostile,
    open_bait,
)
from jail import Jail, Result, Supervisor

HEAD = ("program", "verdict", "cpu", "wall", "peak memory", "what stopped it")
SEEN_WITHIN_S = 5.0


class Report:
    """The rows of the table, the checks that held, and everything that is not as it must be."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, ...]] = []
        self.checked: list[str] = []
        self.failures: list[str] = []

    def add(self, name: str, result: Result, end: str | None = None) -> None:
        """A row; ``end`` where the result itself doesn't say what ended it."""
        memory = result.memory_peak_bytes
        figures = f"{result.cpu_time_s:.2f} s", f"{result.wall_time_s:.2f} s"
        peak = "?" if memory is None else f"{memory / 2**20:.1f} MiB"
        self.rows.append((name, result.verdict, *figures, peak, end or describe_end(result)))

    def skip(self, name: str, reason: str) -> None:
        """A row for what this host can't show."""
        self.rows.append((name, "-", "-", "-", "-", reason))

    def expect(self, holds: bool, what: str) -> None:
        """Writes down a failure unless it holds."""
        if not holds:
            self.failures.append(what)

    def check(self, holds: bool, what: str) -> None:
        """As ``expect``; what holds is told at the end."""
        self.expect(holds, f"not so: {what}")
        self.checked.append(what)


def describe_end(result: Result) -> str:
    """What stopped it: the limit, or its own last word."""
    if result.message or result.ok:
        return result.message
    lines = result.stderr.decode(errors="replace").splitlines()
    return f"“{lines[-1]}”" if lines else ""


async def run_cases(supervisor: Supervisor, cases: list[Case], report: Report) -> None:
    """Each in a jail of its own."""
    for case in cases:
        async with supervisor.open_jail(**LIMITS | case.limits) as living:
            report.add(case.name, await run_in(living, case, report))
            if "thief.py" in case.files:
                await follow_no_link(living, report)


async def run_together(supervisor: Supervisor, cases: list[Case], report: Report) -> None:
    """One after the other in one jail, with the first one's limits."""
    limits = LIMITS | (cases[0].limits if cases else {})
    async with supervisor.open_jail(**limits) as living:
        for case in cases:
            report.add(case.name, await run_in(living, case, report))


async def run_in(living: Jail, case: Case, report: Report) -> Result:
    """Put its files there, run it, hold the result against what it must be."""
    for name in case.files:
        await living.put(name, (PROGRAMS / name).read_bytes())
    result = await living.run(case.argv, input=case.input)
    told = f"{case.name}: {result.verdict}, {describe_end(result) or 'by itself'}"
    report.expect(result.verdict is case.verdict, f"{told}; not {case.verdict}")
    report.expect(result.limit == case.stopped_by, f"{told}; not by {case.stopped_by}")
    if case.output is not None:
        report.expect(result.stdout == case.output.encode(), f"{told}; printed {result.stdout!r}")
    return result


async def follow_no_link(living: Jail, report: Report) -> None:
    """The thief has left a link to the canary in the place of a result."""
    try:
        taken = repr(await living.get("result.txt"))
    except jail.TransferError as error:
        taken = str(error)
    what = "its link in the place of a result was refused, not followed to the file"
    report.check("symbolic link" in taken, what)


async def run_daemon(supervisor: Supervisor, bait: Bait, report: Report) -> None:
    """Its parent ends when we have seen it; it must be gone when the result is here."""
    async with supervisor.open_jail(**LIMITS) as living:
        await living.put("daemon.py", (PROGRAMS / "daemon.py").read_bytes())
        async with living.start(["python3", "daemon.py", bait.marker]) as process:
            assert process.stdin is not None
            seen = await see_both(bait.marker)
            await process.stdin.aclose()
            result = await process.wait()
            left = trace.find_processes(bait.marker)
    report.expect(result.ok, f"daemon: its parent ended as {result.verdict}")
    report.check(seen and not left, "the daemon was seen alive, and gone when the result came")
    report.add("daemon", result, "killed when the program that left it ended")


async def see_both(marker: str) -> bool:
    """Whether parent and daemon are there; the parent waits until it may end."""
    with trio.move_on_after(SEEN_WITHIN_S):
        while len(trace.find_processes(marker)) < 2:  # noqa: ASYNC110 - nobody tells us
            await trio.sleep(0.01)
        return True
    return False


def check_bait(bait: Bait, report: Report) -> None:
    """Without a jail both attacks succeed: else their failure in one would show nothing."""
    stolen = trace.run_outside("thief.py", str(bait.canary))
    trace.run_outside("caller.py", str(bait.port))
    called = trace.count_callers(bait.listener)
    what = "outside a jail the same programs read the file and reach the listener"
    report.check(bait.secret in stolen and called > 0, what)


def check_left(bait: Bait, report: Report) -> None:
    """When the supervisor has closed."""
    called = trace.count_callers(bait.listener)
    report.check(called == 0, "from inside nobody reached the listener")
    report.check(bait.canary.read_text() == bait.secret, "the file is as it was")
    left = [*trace.find_children(), *trace.find_processes(bait.marker)]
    report.check(not left, "no process is left: no child of this one, no daemon")


async def run_all(bait: Bait, report: Report) -> None:
    """One supervisor for all jails: the first pays for the zygote, the others fork it."""
    async with jail.open_supervisor() as supervisor:
        await run_cases(supervisor, make_honest(), report)
        if shutil.which("gcc") is None:
            report.skip("C, compiled inside", "not run: there is no gcc on this host")
        else:
            await run_together(supervisor, make_compiled(), report)
        await run_cases(supervisor, make_hostile(bait), report)
        await run_daemon(supervisor, bait, report)


def print_report(report: Report) -> None:
    """The table, then what was checked, then what is wrong."""
    width = max(len(row[-1]) for row in report.rows)
    head, *rows = [(*row[:-1], f" {row[-1]:{width}}") for row in (HEAD, *report.rows)]
    print_table(head, rows)
    print()
    for what in report.checked:
        print(f"checked: {what}")
    for failure in report.failures:
        print(f"FAILED: {failure}", file=sys.stderr)


def main() -> int:
    """0 when everything ended as it must."""
    report = Report()
    with open_bait() as bait:
        check_bait(bait, report)
        trio.run(run_all, bait, report)
        check_left(bait, report)
    print_report(report)
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
