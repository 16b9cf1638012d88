"""The command as its users start it: a process of its own, on pipes or on a terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

JAIL = (sys.executable, "-m", "jail")
PATIENCE_S = 30.0


class Done(NamedTuple):
    """What came back."""

    status: int
    stdout: bytes
    stderr: str

    @property
    def json(self) -> dict[str, Any]:
        """The one line of ``--json -``."""
        lines = self.stdout.decode().splitlines()
        assert len(lines) == 1, lines
        parsed: dict[str, Any] = json.loads(lines[0])
        return parsed


def run_jail(*words: str, stdin: bytes | None = None, command: str = "run") -> Done:
    """``jail run WORDS…`` to its end."""
    done = subprocess.run(
        [*JAIL, command, *words],
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr.decode())


@contextmanager
def start_jail(
    *words: str, command: str = "run", **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """``jail run WORDS…`` while it lives, in a process group of its own; its pipes are closed."""
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, **options}
    with subprocess.Popen([*JAIL, command, *words], process_group=0, **options) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


class Terminal:
    """The other side of a terminal on which a command runs."""

    def __init__(self, master: int, pid: int) -> None:
        self.master, self.pid = master, pid
        self.seen = b""

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def read_until(self, text: bytes) -> bytes:
        """All that was shown so far, once ``text`` is in it."""
        deadline = time.monotonic() + PATIENCE_S
        while text not in self.seen:
            left = deadline - time.monotonic()
            assert left > 0 and self._read_more(left), f"no {text!r} in {self.seen!r}"
        return self.seen

    def read_to_end(self) -> bytes:
        while self._read_more(PATIENCE_S):
            continue
        return self.seen

    def _read_more(self, seconds: float) -> bool:
        if not select.select([self.master], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self.master, 65536)
        except OSError:  # EIO: the other side is closed
            return False
        self.seen += data
        return bool(data)

    def wait(self) -> int:
        """The exit status, 128 + n for a signal."""
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        code = os.waitstatus_to_exitcode(status)
        return code if code >= 0 else 128 - code


@contextmanager
def open_terminal(*words: str, command: str = "run") -> Iterator[Terminal]:
    """``jail run WORDS…`` as the leader of a session on a terminal of its own."""
    pid, master = pty.fork()
    if pid == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        os.execv(JAIL[0], [*JAIL, command, *words])
    terminal = Terminal(master, pid)
    try:
        yield terminal
    finally:
        if terminal.pid:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        if terminal.master >= 0:
            os.close(terminal.master)
