"""Running a program to learn what it needs: a thread answers for its every call."""

from __future__ import annotations

import signal
import threading
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from jail.errors import HostError
from jail.foreground import Request, run_foreground
from jail.kernel.process import kill_pidfd
from jail.listening import open_caller
from jail.result import Verdict

if TYPE_CHECKING:
    from jail.policy.learn.watch import Watch
    from jail.result import Result

GRACE_S: Final = 10.0
"""for the last answers: whoever was asked about is dead by then"""


def run_watched(request: Request, watch: Watch) -> Result:
    """As ``run_foreground``. HostError where nobody could watch."""
    learning = Learning(watch)
    spec = replace(request.spec, watched=True)
    result = run_foreground(replace(request, spec=spec, attend=learning.attend))
    if not learning.finish() and not result.fault:
        raise HostError(
            "nothing can be learned here: a filter around us has the only listener",
            step="listener",
            remedy="run it outside of other sandboxes",
        )
    return learning.name_end(result)


class Learning:
    """The thread, which blocks where a task of trio's could not: in every question."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._has_ended = False

    def attend(self, fd: int) -> None:
        """Owns the listener's fd."""
        self._thread = threading.Thread(target=self._run, args=(fd,), name="learn", daemon=True)
        self._thread.start()

    def _run(self, fd: int) -> None:
        try:
            self._watch.run(fd, self._end_caller)
        except BaseException as error:  # told by finish(): here nobody would hear of it
            self._error = error

    def finish(self) -> bool:
        """All has been noted; False if nothing ever was."""
        if self._thread is None:
            return False
        self._thread.join(GRACE_S)
        if self._error is not None:
            raise self._error
        return True

    def name_end(self, result: Result) -> Result:
        """What ended it for a call stands for the kernel's own kill: as elsewhere."""
        if not self._has_ended or result.signal != signal.SIGKILL or result.killed:
            return result
        text = "ended by the system-call policy"
        sigsys = int(signal.SIGSYS)
        return replace(result, verdict=Verdict.SV, signal=sigsys, limit="seccomp", message=text)

    def _end_caller(self, thread: int) -> None:
        """As a ``kill`` rule does where nothing is learned."""
        caller = open_caller(thread)
        if caller is not None:
            self._has_ended = True
            with caller, suppress(OSError):
                kill_pidfd(caller.pidfd)
