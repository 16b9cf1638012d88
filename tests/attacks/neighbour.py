"""The honest neighbour: other jails of the same user, at work while each attack runs.

They belong to a supervisor in a process of its own, one jail for each way to map ids. During a
test they run one small program after another; an attack that hurts them, or makes them wait, has
reached out of its jail. Between tests they rest, so that the leak oracle sees them unchanged.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

PATIENCE_S: Final = 10.0
"""far more than a run takes on a busy machine, far less than for ever"""
PAUSE_S: Final = 0.1
SPARE_S: Final = 2.0
PROGRAM: Final = ("sh", "-c", "read nonce; echo $nonce $((6 * 7)) > note; cat note")


class Neighbour:
    """Our side: a process that is told to work or to rest, a line at a time."""

    def __init__(self) -> None:
        # -P: the modules beside this file are nobody's to import by their bare names.
        command = [sys.executable, "-P", str(Path(__file__).resolve())]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._read()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        try:
            self._write("ping")
            return "ready" in self._read()
        except OSError:
            return False

    def work(self) -> None:
        self._write("work")

    def rest(self) -> list[str]:
        """What went wrong since :meth:`work`, a line each; whoever was hurt is buried."""
        try:
            self._write("rest")
            report = self._read()
        except OSError as error:
            self.close()
            return [f"the neighbour's supervisor is gone: {error!r}"]
        if report["wrong"]:
            self.close()
        return list(report["wrong"])

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()

    def _write(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise BrokenPipeError("it has ended")
        report: dict[str, Any] = json.loads(line)
        return report


# -- the neighbour's own process ------------------------------------------------------------------


async def serve() -> None:
    """``work``, ``rest`` and ``ping`` on stdin until it closes; each but the first is answered."""
    import trio

    import jail

    async with jail.open_supervisor() as supervisor:
        kinds = ["single", *(["auto"] if supervisor.facts.can_map_subids else [])]
        async with (
            supervisor.open_jail(userns=kinds[0]) as first,
            supervisor.open_jail(userns=kinds[-1]) as last,
        ):
            words = trio.lowlevel.FdStream(os.dup(0))
            wait_for_spares(len(kinds))
            say({"ready": kinds})
            while word := await words.receive_some(5):
                if word == b"ping\n":
                    say({"ready": kinds})
                else:
                    say({"wrong": await work([first, last], words)})


async def work(jails: list[Any], words: Any) -> list[str]:
    """Once at least, and again until the next word comes."""
    import trio

    wrong: list[str] = []
    told = trio.Event()

    async def listen() -> None:
        await words.receive_some(5)
        told.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        while not told.is_set():
            wrong += [flaw for jail in jails for flaw in await run_once(jail)]
            with trio.move_on_after(PAUSE_S):
                await told.wait()
    return wrong


async def run_once(jail: Any) -> list[str]:
    """One honest program, in time and with the right answer; else what was wrong."""
    import trio

    nonce = uuid.uuid4().hex
    begin = time.monotonic()
    try:
        with trio.fail_after(PATIENCE_S):
            result = await jail.run(PROGRAM, input=nonce + "\n")
    except Exception as error:
        return [f"a neighbour's program: {error!r} after {time.monotonic() - begin:.1f} s"]
    if result.stdout != f"{nonce} 42\n".encode():
        return [f"a neighbour's program: {result.verdict} {result.stdout!r} {result.stderr!r}"]
    return []


def wait_for_spares(zygotes: int) -> None:
    """Each zygote keeps one init ahead; until it is there the family is not at rest."""
    jails = 2
    deadline = time.monotonic() + SPARE_S
    while count_family(os.getpid()) < zygotes + jails + zygotes and time.monotonic() < deadline:
        time.sleep(0.01)


def count_family(pid: int) -> int:
    children = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return sum(1 + count_family(child) for child in children if read_parent(child) == pid)


def read_parent(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return -1
    return int(text.rpartition(")")[2].split()[1])


def say(report: dict[str, Any]) -> None:
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    import trio

    trio.run(serve)
