"""A seccomp profile as Docker, podman and the OCI write it: JSON, read strictly.

What Go's decoder lets pass (unknown and repeated keys, other capitals) is refused here: it would
be a profile that says less than its author believes. What it means is in :mod:`jail.policy.oci`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn, TypeVar

from jail.errors import SpecError

T = TypeVar("T")
MAX_PROFILE_BYTES: Final = 1 << 20
MAX_U64: Final = 2**64 - 1
MAX_ARGUMENT: Final = 5

PROFILE_KEYS: Final = (
    "defaultAction", "defaultErrnoRet", "defaultErrno", "architectures", "archMap", "flags",
    "listenerPath", "listenerMetadata", "syscalls", "comment", "$schema",
)  # fmt: skip
ARCH_KEYS: Final = ("architecture", "subArchitectures")
ENTRY_KEYS: Final = (
    "name", "names", "action", "args", "errnoRet", "errno", "comment", "includes", "excludes",
)  # fmt: skip
ARGUMENT_KEYS: Final = ("index", "value", "valueTwo", "op")
FILTER_KEYS: Final = ("caps", "arches", "minKernel")
KINDS: Final = {str: "a string", int: "a number", list: "a list", dict: "an object"}


@dataclass(frozen=True)
class Argument:
    """One comparison; with ``SCMP_CMP_MASKED_EQ`` the first value is the mask."""

    where: str
    index: int
    op: str
    value: int
    value_two: int


@dataclass(frozen=True)
class Filter:
    """When an entry is there (``includes``) or is not (``excludes``)."""

    where: str
    caps: tuple[str, ...] = ()
    arches: tuple[str, ...] = ()
    min_kernel: tuple[int, int] | None = None


@dataclass(frozen=True)
class Entry:
    """One of ``syscalls``."""

    where: str
    names: tuple[str, ...]
    action: str
    errno: int | str | None
    args: tuple[Argument, ...]
    comment: str
    includes: Filter
    excludes: Filter


@dataclass(frozen=True)
class Profile:
    """The whole file."""

    default_action: str
    default_errno: int | str | None
    architectures: tuple[str, ...]
    """those named, without what ``archMap`` puts below them"""
    flags: tuple[str, ...]
    entries: tuple[Entry, ...]


def parse_json(text: bytes) -> Profile:
    """A profile by itself, or the one in ``linux.seccomp`` of a ``config.json``."""
    table = _find_seccomp(_load(text))
    where = ""
    _refuse_unknown(table, PROFILE_KEYS, "the profile")
    for key in ("listenerPath", "listenerMetadata"):
        if table.get(key):
            raise SpecError(f"{key}: a jail hands its system calls to no other program")
    default_action = _take(table, "defaultAction", str, where)
    if not default_action:
        raise SpecError("defaultAction: missing; without any policy is --seccomp unconfined")
    entries = _take(table, "syscalls", list, where) or []
    return Profile(
        default_action,
        _take_errno(table, "defaultErrno", "defaultErrnoRet", where),
        _parse_architectures(table),
        _take_strings(table, "flags", where),
        tuple(_parse_entry(each, f"syscalls[{index}]") for index, each in enumerate(entries)),
    )


def _load(text: bytes) -> Any:
    if len(text) > MAX_PROFILE_BYTES:
        raise SpecError(f"larger than {MAX_PROFILE_BYTES} bytes")
    try:
        return json.loads(
            text.decode(),
            object_pairs_hook=_refuse_repeated,
            parse_constant=_refuse_number,
            parse_float=_refuse_number,
        )
    except SpecError:
        raise
    except RecursionError:
        raise SpecError("nested too deeply") from None
    except UnicodeDecodeError as error:
        raise SpecError(f"not UTF-8 at byte {error.start}") from None
    except ValueError as error:
        raise SpecError(f"not JSON: {error}") from None


def _refuse_repeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise SpecError(f"{twice!r} is there twice in one object")
    return table


def _refuse_number(number: str) -> NoReturn:
    raise SpecError(f"{number} is not a whole number")


def _find_seccomp(document: Any) -> dict[str, Any]:
    """The object with the profile."""
    _require(document, dict, "the profile")
    if "ociVersion" not in document and "linux" not in document:
        return dict(document)
    linux = _take(document, "linux", dict, "") or {}
    seccomp = _take(linux, "seccomp", dict, "linux")
    if seccomp is None:
        raise SpecError("linux.seccomp: a config.json without a profile")
    return seccomp


def _parse_architectures(table: dict[str, Any]) -> tuple[str, ...]:
    plain = _take_strings(table, "architectures", "")
    mapped = _take(table, "archMap", list, "") or []
    if plain and mapped:
        raise SpecError("architectures and archMap: one of them, not both")
    return plain or tuple(
        _parse_architecture(each, f"archMap[{index}]") for index, each in enumerate(mapped)
    )


def _parse_architecture(table: Any, where: str) -> str:
    _require(table, dict, where)
    _refuse_unknown(table, ARCH_KEYS, where)
    _take_strings(table, "subArchitectures", where)
    name = _take(table, "architecture", str, where)
    if not name:
        raise SpecError(f"{where}.architecture: missing")
    return name


def _parse_entry(table: Any, where: str) -> Entry:
    _require(table, dict, where)
    _refuse_unknown(table, ENTRY_KEYS, where)
    action = _take(table, "action", str, where)
    if not action:
        raise SpecError(f"{where}.action: missing")
    args = _take(table, "args", list, where) or []
    return Entry(
        where,
        _parse_names(table, where),
        action,
        _take_errno(table, "errno", "errnoRet", where),
        tuple(_parse_argument(each, f"{where}.args[{index}]") for index, each in enumerate(args)),
        _take(table, "comment", str, where) or "",
        _parse_filter(table, "includes", where),
        _parse_filter(table, "excludes", where),
    )


def _parse_names(table: dict[str, Any], where: str) -> tuple[str, ...]:
    """``names``, or the one ``name`` of old profiles; each once."""
    name = _take(table, "name", str, where)
    names = _take_strings(table, "names", where)
    if name and names:
        raise SpecError(f"{where}: name or names, not both")
    names = names or ((name,) if name else ())
    if not names:
        raise SpecError(f"{where}.names: missing")
    for each in names:
        if not (each.isidentifier() and each.isascii()):
            raise SpecError(f"{where}.names: {each!r} is not the name of a system call")
    return tuple(dict.fromkeys(names))


def _parse_argument(table: Any, where: str) -> Argument:
    _require(table, dict, where)
    _refuse_unknown(table, ARGUMENT_KEYS, where)
    op = _take(table, "op", str, where)
    if not op:
        raise SpecError(f"{where}.op: missing")
    return Argument(
        where,
        _take_number(table, "index", MAX_ARGUMENT, where) or 0,
        op,
        _take_number(table, "value", MAX_U64, where) or 0,
        _take_number(table, "valueTwo", MAX_U64, where) or 0,
    )


def _parse_filter(table: dict[str, Any], key: str, where: str) -> Filter:
    here = f"{where}.{key}"
    filter_ = _take(table, key, dict, where) or {}
    _refuse_unknown(filter_, FILTER_KEYS, here)
    return Filter(
        here,
        _take_strings(filter_, "caps", here),
        _take_strings(filter_, "arches", here),
        _parse_kernel(_take(filter_, "minKernel", str, here), f"{here}.minKernel"),
    )


def _parse_kernel(version: str | None, where: str) -> tuple[int, int] | None:
    """Of "5.8"; moby takes no third number either."""
    if not version:
        return None
    parts = version.split(".")
    if len(parts) != 2 or not all(len(each) < 5 and _is_decimal(each) for each in parts):
        raise SpecError(f'{where}: must be like "5.8", not {version!r}')
    return int(parts[0]), int(parts[1])


def _take_errno(table: dict[str, Any], name: str, number: str, where: str) -> int | str | None:
    """By its name where one is given, as containers-common reads it; a string may be a number."""
    value = _take_number(table, number, MAX_U64, where)
    text = _take(table, name, str, where)
    if not text:
        return value
    return int(text) if _is_decimal(text) and len(text) < 20 else text


def _is_decimal(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _take_number(table: dict[str, Any], key: str, most: int, where: str) -> int | None:
    value = _take(table, key, int, where)
    if value is not None and not 0 <= value <= most:
        raise SpecError(f"{_join(where, key)}: must be from 0 to {most}, not {value}")
    return value


def _take_strings(table: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
    values = _take(table, key, list, where) or []
    for index, each in enumerate(values):
        _require(each, str, f"{_join(where, key)}[{index}]")
    return tuple(values)


def _take(table: dict[str, Any], key: str, kind: type[T], where: str) -> T | None:
    """Of that kind; null is as good as nothing, as Go has it."""
    value = table.get(key)
    return None if value is None else _require(value, kind, _join(where, key))


def _require(value: Any, kind: type[T], where: str) -> T:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise SpecError(f"{where}: must be {KINDS[kind]}, not {_quote(value)}")
    return value


def _refuse_unknown(table: dict[str, Any], known: Sequence[str], where: str) -> None:
    for key in table:
        if key not in known:
            raise SpecError(f"{where}: unknown key {_quote(key)} (there are {', '.join(known)})")


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _quote(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
