"""Finding policies: shipped ones by their names, others as files, and those that they extend.

The language is described in ``docs/policies.md``. It is parsed when somebody asks for the rules:
of a policy that was compiled before, nobody does. Which file another one extends is therefore
read off its first lines, without a parser.
"""

from __future__ import annotations

import functools
import os
import re
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from jail.errors import SpecError

if TYPE_CHECKING:
    from jail.policy.rule import Rule, Ruleset, Target

POLICIES: Final = os.path.join(os.path.dirname(os.path.dirname(__file__)), "policies")
MAX_TEXT_BYTES: Final = 1 << 20
MAX_CHAIN: Final = 9
FIRST_TABLE: Final = re.compile(rb"^[ \t]*\[", re.MULTILINE)
EXTENDS: Final = re.compile(rb"""^[ \t]*extends[ \t]*=[ \t]*["']([^"'\\\n]+)["']""", re.MULTILINE)


QUOTED: Final = re.compile(rb"""\"(?:[^"\\\n]|\\.)*\"|'[^'\n]*'|#.*""")
MANY_DOTS: Final = re.compile(rb"(?:[^.\n]*\.){33}")
"""in one line: a key of so many parts, for which tomllib's time and memory grow with the square"""


class Text(NamedTuple):
    """A file as it was read."""

    name: str
    text: bytes

    def is_profile(self) -> bool:
        """Whether it is JSON in Docker's way, not TOML in ours."""
        return self.name.endswith(".json")


class File(NamedTuple):
    """Where it lies, which version of it that is, and what it extends."""

    text: Text
    path: str
    identity: tuple[int, int, int, int]
    base: str | None


@dataclass(frozen=True)
class Policy:
    """A policy's name and text, and those that it extends, the nearest first."""

    name: str
    text: bytes
    bases: tuple[Text, ...] = ()

    def read_rules(self, target: Target | None = None) -> Ruleset:
        """What it says, parsed when first asked for.

        A Docker profile says different things to different targets: this machine, if none is given.
        """
        texts = (Text(self.name, self.text), *self.bases)
        if target is None and texts[-1].is_profile():
            from jail.policy.compile import read_target

            target = read_target()
        return _parse_texts(texts, target if texts[-1].is_profile() else None)

    def read_filter(self, target: Target) -> Ruleset:
        """What the filter of its programs is made of."""
        return self.read_rules(target)

    @property
    def ruleset(self) -> Ruleset:
        """What it says on this machine."""
        return self.read_rules()

    @property
    def default(self) -> str:
        """What becomes of a call that no rule names: an action, as a rule's."""
        return self.ruleset.default

    @property
    def rules(self) -> tuple[Rule, ...]:
        """In the order in which they are tried."""
        return self.ruleset.rules


@dataclass(frozen=True)
class MadePolicy(Policy):
    """One that was made in code: its text only tells it from others."""

    made: Ruleset | None = None

    def read_rules(self, target: Target | None = None) -> Ruleset:
        """What it was made of."""
        assert self.made is not None
        return self.made


def make_policy(name: str, ruleset: Ruleset) -> Policy:
    """A policy of these rules."""
    return MadePolicy(name, repr(ruleset).encode(), (), ruleset)


def load_policy(name_or_path: str) -> Policy:
    """A shipped policy by its name, or a file (a path with ``/``, or ending in ``.toml`` or
    ``.json``: a Docker profile).

    SpecError says what is wrong with the name or the file; what is wrong with a rule in it is said
    when it is compiled, or the rules are asked for.
    """
    file = _read_file(name_or_path, _find(name_or_path))
    chain = [file]
    while file.base is not None:
        name, path = _find_from(file, file.base)
        file = _read_base(file, name, path)
        chain.append(file)
        if file.identity in [each.identity for each in chain[:-1]] or len(chain) > MAX_CHAIN:
            names = " extends ".join(each.text.name for each in chain)
            raise SpecError(f"seccomp policy {name_or_path}: {names}: that never ends")
    return Policy(name_or_path, chain[0].text.text, tuple([each.text for each in chain[1:]]))


def list_policies() -> list[str]:
    """Names of the shipped ones."""
    names = map(os.path.splitext, os.listdir(POLICIES))
    return sorted(name for name, ending in names if ending == ".toml")


def is_path(name_or_path: str) -> bool:
    """Whether it is no shipped policy's name."""
    return "/" in name_or_path or name_or_path.endswith((".toml", ".json"))


def _find(name_or_path: str) -> str:
    if is_path(name_or_path):
        return name_or_path
    if not name_or_path.isprintable():
        raise _make_unknown(name_or_path)
    return f"{POLICIES}/{name_or_path}.toml"


def _make_unknown(name: str) -> SpecError:
    if name == "unconfined":
        return SpecError("unconfined is the word for no policy at all: there is nothing in it")
    known = ", ".join([*list_policies(), "unconfined"])
    return SpecError(f"no seccomp policy {name!r}: there are {known}, or give a file")


def _find_from(file: File, base: str) -> tuple[str, str]:
    """The base's name and path; a path is looked up from the folder of who extends it."""
    if is_path(base):
        base = os.path.join(os.path.dirname(file.path), base)
        return base, base
    return base, f"{POLICIES}/{base}.toml"


def _read_base(file: File, name: str, path: str) -> File:
    try:
        return _read_file(name, path)
    except SpecError as error:
        raise SpecError(f"seccomp policy {file.text.name}: extends: {error}") from None


def _find_base(text: Text) -> str | None:
    """What stands behind ``extends``; whether it is the whole truth, the parser will see."""
    if text.is_profile():
        return None
    table = FIRST_TABLE.search(text.text)
    found = EXTENDS.search(text.text, 0, table.start() if table else len(text.text))
    return None if found is None else found[1].decode(errors="replace")


def _read_file(name: str, path: str) -> File:
    try:
        facts = os.stat(path)
        if not stat.S_ISREG(facts.st_mode):
            raise SpecError(f"seccomp policy {path}: not a regular file")
        identity = facts.st_dev, facts.st_ino, facts.st_mtime_ns, facts.st_size
        return _read_version(name, path, identity)
    except FileNotFoundError as error:
        if not is_path(name):
            raise _make_unknown(name) from None
        raise SpecError(f"seccomp policy {path}: {error.strerror}") from None
    except (OSError, ValueError) as error:
        if isinstance(error, SpecError):
            raise
        reason = error.strerror if isinstance(error, OSError) else error
        raise SpecError(f"seccomp policy {path}: {reason}") from None


@functools.lru_cache(maxsize=64)
def _read_version(name: str, path: str, identity: tuple[int, int, int, int]) -> File:
    if identity[-1] > MAX_TEXT_BYTES:
        raise SpecError(f"seccomp policy {path}: larger than {MAX_TEXT_BYTES} bytes")
    with open(path, "rb") as file:
        text = Text(name, file.read(MAX_TEXT_BYTES))
    return File(text, path, identity, _find_base(text))


@functools.lru_cache(maxsize=32)
def _parse_texts(texts: tuple[Text, ...], target: Target | None) -> Ruleset:
    """The first one's rules, then those of what it extends."""
    first, *bases = texts
    if target is not None and first.is_profile():
        from jail.policy.oci import parse_profile

        return parse_profile(first.text, first.name, target)
    base = (bases[0].name, _parse_texts(tuple(bases), target)) if bases else None
    try:
        return _parse_toml(first, base)
    except ValueError as error:  # of TOML, of UTF-8, or a SpecError
        raise SpecError(f"seccomp policy {first.name}: {error}") from None
    except RecursionError:
        raise SpecError(f"seccomp policy {first.name}: nested too deeply") from None


def _parse_toml(text: Text, base: tuple[str, Ruleset] | None) -> Ruleset:
    import tomllib

    from jail.policy.document import parse_document

    if MANY_DOTS.search(QUOTED.sub(b"", text.text)):
        raise SpecError("nested too deeply")
    document = tomllib.loads(text.text.decode())
    if document.get("extends") != _find_base(text):
        raise SpecError('extends: write extends = "NAME" on one line, above the first table')
    return parse_document(document, text.name, base)
