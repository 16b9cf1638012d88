"""The process that probes: one fork per attempt, a deadline on each, one JSON line per answer."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
from typing import Any

from jail.doctor.attempt import ATTEMPTS, AbsentError, Setting, StuckError
from jail.kernel import process

ANSWER_LIMIT_BYTES = 4096  # one write to a pipe, whole or not at all
REAP_TIMEOUT_S = 1.0


def main() -> None:
    """Reads the order from stdin, answers on stdout: ``{"name", "ok", "detail", ...}`` a line."""
    order = json.load(sys.stdin)
    setting = Setting(**order["setting"])
    for name in order["names"]:
        answer = run_attempt(name, setting, order["timeout_s"])
        print(json.dumps({"name": name, **answer}), flush=True)


def run_attempt(name: str, setting: Setting, timeout_s: float) -> dict[str, Any]:
    """The answer of one attempt, made in a child that is killed with its children in the end."""
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        _be_the_attempt(name, setting, write_fd)
    os.close(write_fd)
    ready, _, _ = select.select([read_fd], [], [], timeout_s)
    said = os.read(read_fd, ANSWER_LIMIT_BYTES) if ready else None
    os.close(read_fd)
    status = _kill_and_reap(pid)
    if said is None:
        return _broken(f"no answer in {timeout_s:g} s")
    if not said:
        return _broken(f"it was killed ({_describe(status)})")
    answer: dict[str, Any] = json.loads(said)
    return answer


def _be_the_attempt(name: str, setting: Setting, write_fd: int) -> None:
    try:
        # A session of its own, so that one kill reaches its children; dead with its parent,
        # which has one thread only.
        os.setsid()
        process.prctl(process.PR_SET_PDEATHSIG, signal.SIGKILL)
        null_fd = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null_fd, stream)
        os.write(write_fd, _answer(name, setting))
    finally:
        os._exit(0)


def _answer(name: str, setting: Setting) -> bytes:
    try:
        answer = {"ok": True, "detail": ATTEMPTS[name](setting)[:200]}
    except AbsentError as absent:
        answer = {"ok": False, "absent": True, "detail": str(absent)}
    except StuckError as stuck:
        answer = {**_broken(str(stuck)), "step": stuck.step, "errno": stuck.errno}
    except OSError as error:
        answer = {**_broken(str(error)), "errno": error.errno}
    except Exception as error:  # a probe that is itself broken must say so, not vanish
        answer = _broken(repr(error))
    return json.dumps(answer).encode()[:ANSWER_LIMIT_BYTES]


def _broken(detail: str) -> dict[str, Any]:
    return {"ok": False, "detail": detail[:200]}


def _kill_and_reap(pid: int) -> int | None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        os.kill(pid, signal.SIGKILL)  # not its own leader yet
    pidfd = os.pidfd_open(pid)
    try:
        gone, _, _ = select.select([pidfd], [], [], REAP_TIMEOUT_S)
    finally:
        os.close(pidfd)
    return os.waitpid(pid, 0)[1] if gone else None  # stuck in the kernel: leave it


def _describe(status: int | None) -> str:
    if status is None or not os.WIFSIGNALED(status):
        return "status unknown"
    return signal.strsignal(os.WTERMSIG(status)) or "some signal"
