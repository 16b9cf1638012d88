"""The file of a learned policy: read to be added to, and written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from typing import Any, Final

from jail.errors import SpecError
from jail.policy.learn.note import Learned, read_table
from jail.policy.learn.text import BASE, make_digest

MODE: Final = 0o644
MAX_BYTES: Final = 1 << 20


def read_learned(path: str) -> Learned | None:
    """What an earlier run learned; None if there is no file yet.

    SpecError for a file that was not learned, or whose rules somebody has changed since.
    """
    import tomllib

    try:
        with open(path, "rb") as file:
            document = tomllib.loads(file.read(MAX_BYTES).decode())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SpecError(f"{path}: {error.strerror}") from None
    except ValueError as error:  # of TOML, or of UTF-8
        raise SpecError(f"--append: {path} is no policy: {error}") from None
    try:
        return _read_document(document)
    except SpecError as error:
        raise SpecError(f"--append: {path}: {error}") from None


def _read_document(document: dict[str, Any]) -> Learned:
    table = document.get("learned")
    if not isinstance(table, dict):
        raise SpecError("has no [learned]: it was not learned")
    learned = read_table(table)
    if set(document) - {"extends", "rule", "learned"} or document.get("extends") != BASE:
        raise SpecError(CHANGED)
    if make_digest(_read_own_rules(document)) != table.get("digest"):
        raise SpecError(CHANGED)
    return learned


CHANGED: Final = (
    "its rules were changed since they were learned, and would be lost: learn into another file, "
    "and let yours extend that"
)


def _read_own_rules(document: dict[str, Any]) -> Any:
    """Without those of the policy that it extends."""
    from jail.policy.document import parse_document

    return parse_document({"default": "kill", "rule": document.get("rule", [])}).rules


def write_policy(path: str, text: str) -> None:
    """In place of what was there. SpecError where that can't be."""
    try:
        if not _is_replaceable(path):
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
            return
        # Only now: a pipe's link in /proc leads to no name.
        _replace(os.path.realpath(path), text)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SpecError(f"-o {path}: {reason}") from None


def _is_replaceable(path: str) -> bool:
    """A file or nothing; not a pipe, a device, /dev/stdout."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        return True


def _replace(path: str, text: str) -> None:
    fd, aside = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".learned-")
    try:
        with open(fd, "w", encoding="utf-8") as file:
            file.write(text)
            os.fchmod(file.fileno(), MODE)
        os.rename(aside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(aside)
        raise
