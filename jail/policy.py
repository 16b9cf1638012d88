"""Seccomp policies: data with a reason on every rule, as TOML; and the BPF made of them.

The language is described at the head of ``policies/default.toml``. Reading a policy that has
been compiled before takes neither a TOML parser nor libseccomp: the BPF lies in the cache,
under a name made of the text and of everything else that goes into it.
"""

from __future__ import annotations

import errno
import functools
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from jail.errors import SpecError

POLICIES: Final = Path(__file__).parent / "policies"
MAX_TEXT_BYTES: Final = 1 << 20
MAX_BPF_BYTES: Final = 4096 * 8
DIGEST_BYTES: Final = 32
OPS: Final = ("eq", "ne", "lt", "le", "gt", "ge", "masked_eq")
RULE_KEYS: Final = frozenset({"calls", "action", "when", "any", "why", "optional"})
LIBRARY_FOLDERS: Final = ("/usr/lib64", "/lib64", "/usr/lib", "/lib", "/usr/local/lib")


@dataclass(frozen=True)
class Condition:
    """One comparison of one argument, all 64 bits of it unless ``mask`` says less.

    Holds if it holds for one of ``values``.
    """

    arg: int
    op: str
    values: tuple[int, ...]
    mask: int = 0


@dataclass(frozen=True)
class Rule:
    """``alternatives``: one of these lists must hold wholly; an empty list always does."""

    calls: tuple[str, ...]
    action: str
    alternatives: tuple[tuple[Condition, ...], ...]
    why: str
    optional: bool = False

    def is_always(self) -> bool:
        return () in self.alternatives


@dataclass(frozen=True)
class Policy:
    """A policy's name and text. ``default`` and ``rules`` are parsed when first asked for."""

    name: str
    text: bytes

    @property
    def default(self) -> str:
        """``"allow"``, ``"kill"`` or the name of an errno."""
        return _parse_text(self.name, self.text)[0]

    @property
    def rules(self) -> tuple[Rule, ...]:
        """In the order in which they are tried."""
        return _parse_text(self.name, self.text)[1]


# --- Loading ------------------------------------------------------------------------------------


def load_policy(name_or_path: str) -> Policy:
    """A shipped policy by its name, or a file (a path with ``/``, or ending in ``.toml``).

    SpecError says what is wrong with the name, the file or a rule in it.
    """
    if "/" in name_or_path or name_or_path.endswith(".toml"):
        policy = _read_policy(name_or_path, name_or_path)
        _ = policy.rules
        return policy
    path = POLICIES / f"{name_or_path}.toml"
    if name_or_path not in list_policies():
        known = ", ".join(["unconfined", *list_policies()])
        raise SpecError(f"no seccomp policy {name_or_path!r}: there are {known}, or give a file")
    return _read_policy(name_or_path, os.fspath(path))


@functools.cache
def list_policies() -> tuple[str, ...]:
    """Names of the shipped ones."""
    return tuple(sorted(each.stem for each in POLICIES.glob("*.toml")))


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


# --- The language -------------------------------------------------------------------------------


@functools.lru_cache(maxsize=16)
def _parse_text(name: str, text: bytes) -> tuple[str, tuple[Rule, ...]]:
    import tomllib

    try:
        document = tomllib.loads(text.decode())
    except ValueError as error:
        raise SpecError(f"seccomp policy {name}: {error}") from None
    try:
        return parse_document(document)
    except SpecError as error:
        raise SpecError(f"seccomp policy {name}: {error}") from None


def parse_document(document: dict[str, Any]) -> tuple[str, tuple[Rule, ...]]:
    """(default, rules) of what a TOML file says."""
    _refuse_unknown(document, {"default", "rule"}, "the file")
    if "default" not in document:
        raise SpecError("no default")
    default = parse_action(document["default"], "default")
    tables = document.get("rule", [])
    if not isinstance(tables, list):
        raise SpecError("rule: write [[rule]]")
    rules = tuple(_parse_rule(index, each) for index, each in enumerate(tables, 1))
    _refuse_unreachable(rules)
    return default, rules


def _parse_rule(index: int, table: Any) -> Rule:
    if not isinstance(table, dict):
        raise SpecError(f"rule {index}: not a table")
    calls = _parse_calls(f"rule {index}", table.get("calls"))
    where = f"rule {index} ({', '.join(calls[:3])}{', …' if len(calls) > 3 else ''})"
    _refuse_unknown(table, RULE_KEYS, where)
    why = table.get("why")
    if not isinstance(why, str) or not why.strip():
        raise SpecError(f"{where}: no why")
    if "action" not in table:
        raise SpecError(f"{where}: no action")
    optional = table.get("optional", False)
    if not isinstance(optional, bool):
        raise SpecError(f"{where}: optional must be true or false")
    action = parse_action(table["action"], where)
    return Rule(calls, action, _parse_alternatives(table, where), why, optional)


def _parse_calls(where: str, calls: Any) -> tuple[str, ...]:
    if not isinstance(calls, list) or not calls:
        raise SpecError(f"{where}: calls must be a list of names")
    for each in calls:
        if not isinstance(each, str) or not each.isidentifier() or not each.isascii():
            raise SpecError(f"{where}: {each!r} is not the name of a system call")
        if calls.count(each) > 1:
            raise SpecError(f"{where}: {each} is named twice")
    return tuple(calls)


def parse_action(value: Any, where: str) -> str:
    """``"allow"``, ``"kill"``, or the name in ``{errno = "EPERM"}``."""
    if value in ("allow", "kill"):
        return str(value)
    if isinstance(value, dict) and list(value) == ["errno"]:
        name = value["errno"]
        if isinstance(name, str) and name in errno.errorcode.values():
            return name
        raise SpecError(f"{where}: no errno {name!r}")
    raise SpecError(f'{where}: an action is "allow", "kill" or {{ errno = "EPERM" }}, not {value!r}')


def _parse_alternatives(table: dict[str, Any], where: str) -> tuple[tuple[Condition, ...], ...]:
    if "when" in table and "any" in table:
        raise SpecError(f"{where}: when or any, not both")
    if "any" in table:
        lists = table["any"]
        if not isinstance(lists, list) or not lists:
            raise SpecError(f"{where}: any must be a list of lists of conditions")
        return tuple(_parse_conditions(each, where) for each in lists)
    return (_parse_conditions(table["when"], where),) if "when" in table else ((),)


def _parse_conditions(conditions: Any, where: str) -> tuple[Condition, ...]:
    if not isinstance(conditions, list) or not conditions:
        raise SpecError(f"{where}: a condition list is missing or empty")
    parsed = tuple(_parse_condition(each, where) for each in conditions)
    args = [each.arg for each in parsed]
    for arg in args:
        if args.count(arg) > 1:
            raise SpecError(
                f"{where}: two conditions on argument {arg} in one list, which libseccomp can't do;"
                " use a mask, values, or alternatives in any"
            )
    return parsed


def _parse_condition(table: Any, where: str) -> Condition:
    if not isinstance(table, dict):
        raise SpecError(f"{where}: a condition is {{ arg = 0, op = …, value = … }}")
    _refuse_unknown(table, {"arg", "op", "mask", "value", "values"}, where)
    arg = _parse_number(table.get("arg"), 5, f"{where}: arg")
    op = table.get("op")
    if op not in OPS:
        raise SpecError(f"{where}: op must be one of {', '.join(OPS)}, not {op!r}")
    if (op == "masked_eq") != ("mask" in table):
        raise SpecError(f"{where}: a mask belongs to masked_eq, and only there")
    mask = _parse_number(table.get("mask", 0), 2**64 - 1, f"{where}: mask")
    values = _parse_values(table, op, where)
    if op == "masked_eq" and (mask == 0 or any(each & ~mask for each in values)):
        raise SpecError(f"{where}: a value outside the mask {mask:#x} never matches")
    return Condition(arg, op, values, mask)


def _parse_values(table: dict[str, Any], op: str, where: str) -> tuple[int, ...]:
    if ("value" in table) == ("values" in table):
        raise SpecError(f"{where}: a condition has value or values")
    values = table["values"] if "values" in table else [table["value"]]
    if not isinstance(values, list) or not values:
        raise SpecError(f"{where}: values must be a list of numbers")
    if len(values) > 1 and op not in ("eq", "masked_eq"):
        raise SpecError(f"{where}: several values only with eq and masked_eq")
    return tuple(_parse_number(each, 2**64 - 1, f"{where}: value") for each in values)


def _parse_number(value: Any, most: int, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise SpecError(f"{where} must be a number from 0 to {most}, not {value!r}")
    return value


def _refuse_unknown(table: dict[str, Any], known: frozenset[str] | set[str], where: str) -> None:
    for key in table:
        if key not in known:
            raise SpecError(f"{where}: unknown key {key!r} (there are {', '.join(sorted(known))})")


def _refuse_unreachable(rules: Sequence[Rule]) -> None:
    decided: dict[str, int] = {}
    seen: set[tuple[str, tuple[Condition, ...]]] = set()
    for index, rule in enumerate(rules, 1):
        for call in rule.calls:
            if call in decided:
                raise SpecError(f"rule {index}: {call} is already decided by rule {decided[call]}")
            for each in rule.alternatives:
                if (call, each) in seen:
                    raise SpecError(f"rule {index}: {call} with this very condition came before")
                seen.add((call, each))
            if rule.is_always():
                decided[call] = index


# --- Compiling ----------------------------------------------------------------------------------


def compile_policy(policy: Policy, machine: str | None = None) -> bytes:
    """An array of ``struct sock_filter`` for this machine, or for "x86_64" or "aarch64".

    SpecError for a call that libseccomp does not know, HostError where it is missing.
    """
    from jail import libseccomp

    machine = machine or libseccomp.read_machine()
    layers = libseccomp.make_layers(_spread_rules(policy, machine))
    bpf = libseccomp.compile_layers(layers, _number_of(policy.default), machine)
    if len(bpf) > MAX_BPF_BYTES:
        raise SpecError(f"seccomp policy {policy.name}: too long for the kernel")
    return bpf


def _spread_rules(policy: Policy, machine: str) -> Iterator[tuple[str, int, list[Any]]]:
    from jail import libseccomp

    for index, rule in enumerate(policy.rules, 1):
        alternatives = [one for each in rule.alternatives for one in _spread_values(each)]
        for call in rule.calls:
            if libseccomp.read_number(call, machine) != libseccomp.UNKNOWN:
                yield call, _number_of(rule.action), alternatives
            elif not rule.optional:
                raise SpecError(
                    f"seccomp policy {policy.name}: rule {index}: libseccomp knows no call {call}"
                    " (optional = true passes over calls that are newer than the library)"
                )


def _spread_values(conditions: Sequence[Condition]) -> Iterator[tuple[Any, ...]]:
    """One conjunction for every choice among the values."""
    import itertools

    from jail.libseccomp import Compare

    return itertools.product(
        *[[Compare(each.arg, each.op, one, each.mask) for one in each.values] for each in conditions]
    )


def _number_of(action: str) -> int:
    from jail import libseccomp

    if action == "allow":
        return libseccomp.ALLOW
    if action == "kill":
        return libseccomp.KILL_PROCESS
    return libseccomp.ERRNO | int(getattr(errno, action))


# --- The cache ----------------------------------------------------------------------------------


def read_bpf(policy: Policy, cache_dir: Path | None) -> bytes:
    """The policy compiled for this machine: remembered, else from the cache, else made now."""
    return _read_bpf(policy, None if cache_dir is None else os.fspath(cache_dir))


@functools.lru_cache(maxsize=16)
def _read_bpf(policy: Policy, cache_dir: str | None) -> bytes:
    if cache_dir is None:
        return compile_policy(policy)
    name = _cache_name(policy)
    folder_fd = _open_folder(cache_dir)
    if folder_fd is None:
        return compile_policy(policy)
    try:
        bpf = _read_cached(folder_fd, name)
        if bpf is None:
            bpf = compile_policy(policy)
            _write_cached(folder_fd, name, bpf)
        return bpf
    finally:
        os.close(folder_fd)


def _cache_name(policy: Policy) -> str:
    """Of the text, the machine, libseccomp's file and this code's."""
    code = [_identity(__file__), _identity(os.path.join(os.path.dirname(__file__), "libseccomp.py"))]
    context = repr((os.uname().machine, _library_identity(), code)).encode()
    return _digest(context + b"\0" + policy.text).hex()


@functools.cache
def _library_identity() -> str:
    """Which libseccomp is installed, without loading it; "" if it lies where we don't look."""
    machine = os.uname().machine
    for folder in (f"/usr/lib/{machine}-linux-gnu", *LIBRARY_FOLDERS):
        found = _identity(os.path.join(folder, "libseccomp.so.2"))
        if found:
            return found
    return ""


def _identity(path: str) -> str:
    try:
        facts = os.stat(path)
    except OSError:
        return ""
    return f"{path}:{facts.st_ino}:{facts.st_mtime_ns}:{facts.st_size}"


def _digest(data: bytes) -> bytes:
    import hashlib

    return hashlib.sha256(data).digest()


def _open_folder(cache_dir: str) -> int | None:
    """The fd of a folder that nobody else can write to; None: do without a cache."""
    path = os.path.join(cache_dir, "bpf")
    try:
        os.makedirs(cache_dir, mode=0o700, exist_ok=True)
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            pass
        folder_fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (OSError, ValueError):
        return None
    if _is_ours(os.fstat(folder_fd)):
        return folder_fd
    os.close(folder_fd)
    return None


def _is_ours(facts: os.stat_result) -> bool:
    return facts.st_uid == os.geteuid() and not facts.st_mode & 0o022


def _read_cached(folder_fd: int, name: str) -> bytes | None:
    """A whole, unspoilt program, or None."""
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(name, flags, dir_fd=folder_fd)
    except OSError:
        return None
    with os.fdopen(fd, "rb", buffering=0) as file:
        facts = os.fstat(fd)
        if not stat.S_ISREG(facts.st_mode) or not _is_ours(facts):
            return None
        try:
            data = file.read(DIGEST_BYTES + MAX_BPF_BYTES + 1)
        except OSError:
            return None
    digest, bpf = data[:DIGEST_BYTES], data[DIGEST_BYTES:]
    whole = 0 < len(bpf) <= MAX_BPF_BYTES and len(bpf) % 8 == 0
    return bpf if whole and digest == _digest(name.encode() + bpf) else None


def _write_cached(folder_fd: int, name: str, bpf: bytes) -> None:
    """Aside, then renamed; a cache that can't be written is only a cache that isn't there."""
    aside = f".{name}.{os.getpid()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(aside, flags, 0o600, dir_fd=folder_fd)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(_digest(name.encode() + bpf) + bpf)
            os.rename(aside, name, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
        except OSError:
            os.unlink(aside, dir_fd=folder_fd)
    except OSError:
        return
