"""What can go wrong, sorted by whose fault it is.

A failure of the sandbox never looks like a failure of the program: a program's own
misfortunes are a :class:`jail.Result`, everything below is raised.
"""

from __future__ import annotations

import os


class JailError(Exception):
    """Base of everything this library raises on purpose. Its text is one printable line.

    What it quotes may be a stranger's: a file's name with a terminal's escapes in it.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(make_line(message))


class SpecError(JailError, ValueError):
    """The caller asked for something that can't be: one line says what and how to mend it."""


class HostError(JailError):
    """This host can't do what the jail needs.

    ``step`` names what was being set up (``"clone"``, ``"mount proc"``, …), ``errno`` is the
    kernel's answer (None where there was none), ``remedy`` the lines that mend it, if known.
    """

    def __init__(
        self,
        message: str,
        *,
        step: str = "",
        errno: int | None = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(message)
        self.step = step
        self.errno = errno
        self.remedy = remedy

    @classmethod
    def at_step(cls, step: str, errno: int, remedy: str | None = None) -> HostError:
        """The kernel's answer in its own words, behind the step's name."""
        return cls(f"{step}: {os.strerror(errno)}", step=step, errno=errno, remedy=remedy)


class HelperError(JailError):
    """A helper program (newuidmap, slirp4netns, …) failed or answered nonsense."""


class JailBroken(JailError):
    """The jail ended under us: its init, agent or the zygote died, or it was closed."""


class ProtocolError(JailBroken):
    """Something inside the jail sent what no honest agent sends; the jail is killed."""


class ProgramError(JailError):
    """The program could not be started.

    ``exit_status`` is what a shell would answer: 127 not found, 126 not executable.
    """

    def __init__(self, message: str, *, exit_status: int, errno: int) -> None:
        super().__init__(message)
        self.exit_status = exit_status
        self.errno = errno


class TransferError(JailError):
    """A file could not be put into or taken out of the jail (missing, not a regular file, …)."""

    def __init__(self, message: str, *, errno: int | None = None) -> None:
        super().__init__(message)
        self.errno = errno


def make_line(text: str) -> str:
    """Line ends, control characters and bytes that are no text, as Python would write them."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
