"""Finding policies: shipped ones by their names, others as files.

The language is described at the head of ``policies/default.toml``. It is parsed when somebody
asks for the rules: of a policy that was compiled before, nobody does.
"""

from __future__ import annotations

import functools
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from jail.errors import SpecError

if TYPE_CHECKING:
    from jail.policy.rule import Rule, Ruleset

POLICIES: Final = os.path.join(os.path.dirname(os.path.dirname(__file__)), "policies")
MAX_TEXT_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class Policy:
    """A policy's name and text."""

    name: str
    text: bytes

    @property
    def ruleset(self) -> Ruleset:
        """What it says, parsed when first asked for."""
        return _parse_text(self.name, self.text)

    @property
    def default(self) -> str:
        """What becomes of a call that no rule names: an action, as a rule's."""
        return self.ruleset.default

    @property
    def rules(self) -> tuple[Rule, ...]:
        """In the order in which they are tried."""
        return self.ruleset.rules


def load_policy(name_or_path: str) -> Policy:
    """A shipped policy by its name, or a file (a path with ``/``, or ending in ``.toml``).

    SpecError says what is wrong with the name, the file or a rule in it.
    """
    if "/" in name_or_path or name_or_path.endswith(".toml"):
        policy = _read_policy(name_or_path, name_or_path)
        _ = policy.rules
        return policy
    path = f"{POLICIES}/{name_or_path}.toml"
    if not name_or_path.isprintable() or not os.path.exists(path):
        known = ", ".join([*list_policies(), "unconfined"])
        raise SpecError(f"no seccomp policy {name_or_path!r}: there are {known}, or give a file")
    return _read_policy(name_or_path, path)


def list_policies() -> list[str]:
    """Names of the shipped ones."""
    names = map(os.path.splitext, os.listdir(POLICIES))
    return sorted(name for name, ending in names if ending == ".toml")


def _read_policy(name: str, path: str) -> Policy:
    try:
        facts = os.stat(path)
        if not stat.S_ISREG(facts.st_mode):
            raise SpecError(f"seccomp policy {path}: not a regular file")
        return _read_version(name, path, facts.st_ino, facts.st_mtime_ns, facts.st_size)
    except (OSError, ValueError) as error:
        if isinstance(error, SpecError):
            raise
        reason = error.strerror if isinstance(error, OSError) else error
        raise SpecError(f"seccomp policy {path}: {reason}") from None


@functools.lru_cache(maxsize=16)
def _read_version(name: str, path: str, inode: int, mtime_ns: int, size: int) -> Policy:
    if size > MAX_TEXT_BYTES:
        raise SpecError(f"seccomp policy {path}: larger than {MAX_TEXT_BYTES} bytes")
    with open(path, "rb") as file:
        return Policy(name, file.read(MAX_TEXT_BYTES))


@functools.lru_cache(maxsize=16)
def _parse_text(name: str, text: bytes) -> Ruleset:
    import tomllib

    from jail.policy.document import parse_document

    try:
        return parse_document(tomllib.loads(text.decode()))
    except ValueError as error:  # of TOML, of UTF-8, or a SpecError
        raise SpecError(f"seccomp policy {name}: {error}") from None
