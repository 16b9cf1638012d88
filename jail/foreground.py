"""``jail run``: one program in a jail of its own, on our own standard streams and signals."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from dataclasses import dataclass

import trio

from jail.background import Background, open_background
from jail.jail import add_output
from jail.process import Process
from jail.result import Result, Verdict
from jail.spec import JailSpec
from jail.stdio import Buffer, Sink, Writer, relay_input, relay_output
from jail.supervisor import open_jail
from jail.terminal import open_raw, read_terminal_size

STDIN, STDOUT, STDERR = 0, 1, 2
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
MAX_KEPT_BYTES = 64 * 1024 * 1024
"""of each stream for the JSON, where the output has no limit"""


def say_nothing(_: str) -> None:
    """For who wants no warnings."""


@dataclass(frozen=True)
class Request:
    """What the command line asks beside the jail itself.

    ``shows`` relays the output to ours, ``keeps`` collects it for the result, ``warn`` is told
    what is weaker here than it could be. ``paused`` leaves the program unstarted until somebody
    resumes the jail, whose pid is for ``tell``. ``attend`` takes the listener of the program's
    filter.
    """

    spec: JailSpec
    argv: tuple[str, ...]
    interactive: bool = False
    terminal: bool = False
    shows: bool = True
    keeps: bool = False
    paused: bool = False
    warn: Callable[[str], None] = say_nothing
    tell: Callable[[str], None] = say_nothing
    attend: Callable[[int], None] | None = None


def run_foreground(request: Request) -> Result:
    """Blocks until the program and all that it left are gone. Raises as :func:`jail.run` does.

    An ending signal or a broken pipe ends the jail at once; the result's ``failure_status`` is
    128 + the signal's number then.
    """
    return trio.run(_run_until_ended, request)


class Ending:
    """What ends us before the program's own end: a signal's number, or none so far."""

    def __init__(self, scope: trio.CancelScope) -> None:
        self.scope = scope
        self.number: signal.Signals | None = None

    def end(self, number: signal.Signals) -> None:
        self.number = self.number or number
        self.scope.cancel()

    def end_by_pipe(self) -> None:
        self.end(signal.SIGPIPE)


async def _run_until_ended(request: Request) -> Result:
    # nohup(1) has SIGHUP ignored, a shell's background job SIGINT: then they are not for us.
    wanted = [each for each in ENDING_SIGNALS if signal.getsignal(each) is not signal.SIG_IGN]
    ending = Ending(trio.CancelScope())
    with trio.open_signal_receiver(*wanted) as signals, ending.scope:
        async with open_background() as background:
            background.start_soon(_end_on_signal, signals, ending)
            return await _run(request, ending)
    assert ending.number is not None
    return make_interrupted(ending.number)


async def _end_on_signal(signals: AsyncIterator[int], ending: Ending) -> None:
    async for number in signals:
        ending.end(signal.Signals(number))


def make_interrupted(number: signal.Signals) -> Result:
    """Nothing can be said of a program that was ended because we were."""
    return Result(
        verdict=Verdict.IE,
        message=f"interrupted by {number.name}",
        fault="caller",
        failure_status=128 + number,
        killed=True,
    )


async def _run(request: Request, ending: Ending) -> Result:
    wants_raw = request.terminal and request.interactive
    with ExitStack() as stack:
        if wants_raw and not request.paused:
            stack.enter_context(open_raw(STDIN))
        size = read_terminal_size(STDOUT if request.shows else STDIN)
        async with open_jail(request.spec) as jail:
            for each in jail.plan.warnings:
                request.warn(each)
            jail.attend = request.attend
            if request.paused:
                await jail.pause()
                request.tell(f"paused; go on with: jail resume {jail.init_pid}")
            async with jail.start(request.argv, terminal=request.terminal, size=size) as process:
                if wants_raw and request.paused:  # until now a key could interrupt us
                    stack.enter_context(open_raw(STDIN))
                return await _attend(request, process, ending)


async def _attend(request: Request, process: Process, ending: Ending) -> Result:
    """Relay until it has ended and all it wrote has gone where it should."""
    limit = request.spec.limits.output_bytes or MAX_KEPT_BYTES
    kept = Buffer(limit), Buffer(limit)
    streams = process.stdout, process.stderr
    writers = [Writer(fd, ending.end_by_pipe) for fd in (STDOUT, STDERR)]
    async with open_background() as helpers:
        await _attend_input(request, process, helpers)
        async with trio.open_nursery() as outputs:
            for stream, writer, buffer in zip(streams, writers, kept, strict=True):
                if stream is not None:
                    sinks: list[Sink] = [buffer.write] if request.keeps else []
                    sinks += [writer.write] if request.shows else []
                    outputs.start_soon(relay_output, stream, sinks)
                    if request.shows:
                        helpers.start_soon(writer.watch)
    result = await process.wait()
    return add_output(result, process, kept[0].data, kept[1].data)


async def _attend_input(request: Request, process: Process, helpers: Background) -> None:
    assert process.stdin is not None
    if request.interactive:
        helpers.start_soon(relay_input, STDIN, process.stdin)
    elif not request.terminal:
        await process.stdin.aclose()
    if request.terminal:
        helpers.start_soon(_follow_size, process)


async def _follow_size(process: Process) -> None:
    with trio.open_signal_receiver(signal.SIGWINCH) as signals:
        async for _ in signals:
            process.resize(*read_terminal_size(STDOUT))
