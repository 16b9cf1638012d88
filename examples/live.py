"""A live process with streams: talk to a shell in a jail, line by line, on a terminal of its own.

python -m examples.live
"""

from __future__ import annotations

import re
import sys

import trio

import jail
from jail import Process, Result

SCRIPT = ("tty", "cd /work && echo made here >note && cat note", "ls /home /root", "exit 3")
MAX_SHOWN_BYTES = 4096


async def talk(lines: tuple[str, ...]) -> tuple[str, Result]:
    """What the terminal showed, and how the shell ended."""
    shown = bytearray()
    async with (
        jail.open_jail(wall_time="10s") as living,
        living.start(["sh"], terminal=True, env={"PS1": "jail> "}) as process,
    ):
        assert process.stdin is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(collect, process, shown)
            for line in lines:
                await process.stdin.send_all(line.encode() + b"\n")
        result = await process.wait()
    return make_plain(bytes(shown)), result


async def collect(process: Process, shown: bytearray) -> None:
    """Until the terminal's other side has gone."""
    assert process.stdout is not None
    async for data in process.stdout:
        shown += data


def make_plain(data: bytes) -> str:
    """Fit for a terminal: what a stranger prints could move our cursor, or worse."""
    text = data[:MAX_SHOWN_BYTES].decode("utf-8", "replace").replace("\r\n", "\n")
    return re.sub(r"[^\n\t\x20-\x7e\xa0-\U0010ffff]", "\N{REPLACEMENT CHARACTER}", text)


def main() -> int:
    """Prints the conversation; the shell's own exit status."""
    shown, result = trio.run(talk, SCRIPT)
    print(shown)
    print(f"{result.verdict}, exit status {result.exit_status}, {result.wall_time_s:.2f} s")
    return result.exit_status


if __name__ == "__main__":
    sys.exit(main())
