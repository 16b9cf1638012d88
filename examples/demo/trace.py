"""What a program leaves outside its jail, looked for from outside."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from examples.demo.case import PROGRAMS


def find_processes(marker: str) -> list[int]:
    """Processes of this machine with the marker on their command line."""
    return [pid for pid in list_pids() if marker.encode() in read_proc(pid, "cmdline")]


def find_children() -> list[int]:
    """Our own: helpers, zygotes."""
    parents = {pid: read_proc(pid, "stat").rpartition(b")")[2].split() for pid in list_pids()}
    return [pid for pid, fields in parents.items() if fields and int(fields[1]) == os.getpid()]


def list_pids() -> list[int]:
    """Every process there is now."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def read_proc(pid: int, name: str) -> bytes:
    """A file of /proc/PID, empty where the process has gone."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def count_callers(listener: socket.socket) -> int:
    """Connections that wait to be accepted, and are by this."""
    callers = 0
    try:
        while True:
            listener.accept()[0].close()
            callers += 1
    except BlockingIOError:
        return callers


def run_outside(name: str, *arguments: str) -> str:
    """What the same program prints where no jail is around it."""
    with tempfile.TemporaryDirectory(prefix="jail-demo-") as folder:
        argv = [sys.executable, str(PROGRAMS / name), *arguments]
        return subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False).stdout
