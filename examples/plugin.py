"""Call a plugin: somebody else's function, in a process that can reach nothing of ours.

    python -m examples.plugin PLUGIN.py VALUE

The plugin is a file with a function ``transform(value)``. Values go in and come out as JSON, one
line each. What comes out is a stranger's: it is bounded and parsed, and nothing else is done
with it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

import jail
from jail import Process

LIMITS: dict[str, Any] = {
    "memory": "128m",
    "cpu_time": "10s",
    "wall_time": "1h",
    "pids_limit": 8,
    "output_limit": "16m",
    "disk": "16m",
}
MAX_ANSWER_BYTES = 64 * 1024
LOOP = """
import json, sys
sys.path.insert(0, "")
from plugin import transform
for line in sys.stdin:
    print(json.dumps(transform(json.loads(line))), flush=True)
"""


class PluginError(Exception):
    """The plugin ended, took too long, or answered something that is no answer."""


class Plugin:
    """A plugin that waits for calls. Made by :func:`open_plugin`; one call at a time."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._pending = b""

    async def call(self, value: Any, timeout_s: float = 1.0) -> Any:
        """``transform(value)``; PluginError, after which the plugin is of no more use."""
        assert self._process.stdin is not None
        try:
            with trio.fail_after(timeout_s):
                await self._process.stdin.send_all(json.dumps(value).encode() + b"\n")
                return json.loads(await self._read_line())
        except trio.TooSlowError:
            raise PluginError(f"no answer within {timeout_s:g} s") from None
        except (trio.BrokenResourceError, ValueError) as error:
            raise PluginError(f"no answer: {error}") from None

    async def _read_line(self) -> bytes:
        assert self._process.stdout is not None
        while b"\n" not in self._pending:
            data = await self._process.stdout.receive_some()
            if not data or len(self._pending) > MAX_ANSWER_BYTES:
                raise ValueError("the plugin has ended" if not data else "too long")
            self._pending += data
        line, _, self._pending = self._pending.partition(b"\n")
        return line


@asynccontextmanager
async def open_plugin(source: bytes) -> AsyncGenerator[Plugin, None]:
    """Loaded, and gone with everything it started when the block ends."""
    async with jail.open_jail(seccomp="plugin", **LIMITS) as living:
        await living.put("plugin.py", source)
        async with living.start(["python3", "-c", LOOP]) as process:
            yield Plugin(process)


async def call_once(source: bytes, value: Any) -> Any:
    """One call of a plugin that is loaded for it."""
    async with open_plugin(source) as plugin:
        return await plugin.call(value)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the answer; 1 when there is none."""
    parser = argparse.ArgumentParser(description="Call a plugin once.")
    parser.add_argument("plugin", type=Path)
    parser.add_argument("value", type=json.loads, help="JSON")
    args = parser.parse_args(argv)
    try:
        print(json.dumps(trio.run(call_once, args.plugin.read_bytes(), args.value)))
    except PluginError as error:
        print(f"{args.plugin}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
