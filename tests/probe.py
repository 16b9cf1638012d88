"""The probe: a static program that tries one system call at a time, inside a jail and outside.

The arguments are harmless (a closed descriptor, an address that is never mapped), so an allowed
call answers EBADF or EFAULT and a refused one EPERM or ENOSYS: a test is a table. The same table
is tried without a jail, twice: as we are, and as root of a user namespace of our own, where most
of what the kernel keeps for root is open to anybody.
"""

from __future__ import annotations

import errno
import shutil
import signal
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import pyseccomp

from jail import Jail, ProgramError, Result

SOURCE: Final = Path(__file__).parent / "probes/try.c"
INSIDE: Final = "/tmp/try"
TABLE: Final = "/tmp/table"
OWN_NAMESPACES: Final = ("unshare", "-Urmpnifu", "--mount-proc")
REFUSALS: Final = ("EPERM", "ENOSYS", "EACCES", "SIGSYS")

Argument = int | str
Answers = Mapping[str, str]


class Call(NamedTuple):
    """One line of a table: how the line is called, which system call, with what."""

    label: str
    number: int
    args: tuple[Argument, ...] = ()

    def to_line(self) -> str:
        words = (self.label, str(self.number), *map(str, self.args))
        return " ".join(words) + "\n"


def make_call(name: str, *args: Argument, label: str = "") -> Call:
    """By the kernel's name for it; -1 is nobody's number, for a call this library doesn't know."""
    number = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)
    return Call(label or name, number, args)


class Probe:
    """The built program, and what it says."""

    def __init__(self, path: Path) -> None:
        self.path = path

    async def put(self, jail: Jail, path: str = INSIDE) -> None:
        """Into a living jail, executable."""
        await jail.put(path, self.path.read_bytes(), mode=0o755)

    async def run(self, jail: Jail, *words: str, timeout: float = 20) -> Result:  # noqa: ASYNC109
        """Inside; it is put there the first time."""
        try:
            return await jail.run([INSIDE, *words], timeout=timeout)
        except ProgramError:
            await self.put(jail)
            return await jail.run([INSIDE, *words], timeout=timeout)

    async def try_calls(
        self, jail: Jail, calls: Iterable[Call], door: str = "calls"
    ) -> dict[str, str]:
        """label → answer, from inside."""
        await jail.put(TABLE, "".join(call.to_line() for call in calls))
        result = await self.run(jail, door, TABLE)
        assert result.ok, (result.verdict, result.message, result.stderr)
        return read_answers(result.stdout)

    def try_calls_outside(
        self,
        folder: Path,
        calls: Iterable[Call],
        *,
        door: str = "calls",
        prefix: Iterable[str] = (),
    ) -> dict[str, str]:
        """label → answer, from the host; ``prefix`` goes before the command."""
        table = folder / "table"
        table.write_text("".join(call.to_line() for call in calls))
        command = [*prefix, str(self.path), door, str(table)]
        done = subprocess.run(command, capture_output=True, timeout=60, check=True)
        return read_answers(done.stdout)

    def find_exercised(self, folder: Path, calls: Iterable[Call]) -> set[str]:
        """The labels whose calls are open to anybody on this kernel: the positive control."""
        table = list(calls)
        seen = self.try_calls_outside(folder, table)
        exercised = {label for label, answer in seen.items() if answer not in REFUSALS}
        if can_unshare():
            seen = self.try_calls_outside(folder, table, prefix=OWN_NAMESPACES)
            exercised |= {label for label, answer in seen.items() if answer not in REFUSALS}
        return exercised


def can_unshare() -> bool:
    """Whether the second control can be made here."""
    if shutil.which("unshare") is None:
        return False
    return (
        subprocess.run([*OWN_NAMESPACES, "true"], capture_output=True, check=False).returncode == 0
    )


def build_probe(folder: Path) -> Probe:
    """Compile it, static, into ``folder``."""
    path = folder / "try"
    command = ["gcc", "-static", "-O1", "-Wall", "-Wextra", "-Werror", "-o", str(path), str(SOURCE)]
    subprocess.run(command, check=True, timeout=60)
    return Probe(path)


def read_answers(text: bytes) -> dict[str, str]:
    """``0`` becomes ``OK``, an errno its name, ``-N`` the signal's name."""
    answers = {}
    for line in text.decode().splitlines():
        label, _, number = line.rpartition(" ")
        answers[label] = name_answer(int(number))
    return answers


def name_answer(number: int) -> str:
    if number < 0:
        return signal.Signals(-number).name
    return errno.errorcode.get(number, f"errno {number}") if number else "OK"
