"""What was seen of a program: :class:`Learned`, as it is kept in a policy's ``[learned]`` table.

Pure: observations come in, and a table goes out and comes back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from jail.errors import SpecError
from jail.policy.learn.table import TELLING

Values = tuple[int, ...]
USES: Final = ("read", "written", "created", "executed", "missing")
"""what a program does with a path; ``missing``: it looked for it, and it was not there"""
KEYS: Final = (
    "ceiling",
    "machine",
    "digest",
    "runs",
    "calls",
    "beyond",
    "mounts",
    "network",
    "values",
    "refused",
    "paths",
)
MAX_USES: Final = 5000
"""of a call, and of all that is refused: more than any filter has room for"""
MAX_PATHS: Final = 400
"""in a file, of each use; more are told by the folders that they lie in"""


@dataclass
class Learned:
    """All that was learned so far, of one run or of several."""

    ceiling: str
    """the policy that decided meanwhile"""
    machine: str
    runs: list[str] = field(default_factory=list)
    """the command lines"""
    calls: set[str] = field(default_factory=set)
    """calls that were made and of whose arguments nothing is noted"""
    values: dict[str, set[Values]] = field(default_factory=dict)
    """calls that were made, with the arguments that tell"""
    refused: dict[tuple[str, Values], str] = field(default_factory=dict)
    """what the ceiling refused, and by which action"""
    beyond: set[str] = field(default_factory=set)
    """calls without telling arguments that the base would have decided otherwise"""
    paths: dict[str, set[str]] = field(default_factory=dict)
    """by use, as the program sees them"""
    mounts: set[str] = field(default_factory=set)
    """options of ``jail run`` for what the paths lie in"""
    network: set[str] = field(default_factory=set)
    """addresses and names"""

    def note_call(self, call: str, values: Values, action: str | None, *, beyond: bool) -> None:
        """A call; ``action`` is None where it was made."""
        if action is not None:
            if len(self.refused) < MAX_USES:
                self.refused[call, values] = action
        elif call in TELLING:
            uses = self.values.setdefault(call, set())
            if len(uses) < MAX_USES:
                uses.add(values)
        else:
            self.calls.add(call)
        if beyond and call not in TELLING:
            self.beyond.add(call)

    @property
    def seen(self) -> set[str]:
        """Names of all calls that were tried."""
        return self.calls | set(self.values) | {call for call, _ in self.refused}

    def add(self, other: Learned) -> None:
        """What another run showed, too. SpecError where that was on another machine."""
        if other.machine != self.machine:
            raise SpecError(f"was learned on a {self.machine} machine, and this is {other.machine}")
        self.ceiling = other.ceiling
        self.runs += [each for each in other.runs if each not in self.runs]
        self.calls |= other.calls
        self.beyond |= other.beyond
        self.mounts |= other.mounts
        self.network |= other.network
        self.refused.update(other.refused)
        for call, values in other.values.items():
            self.values.setdefault(call, set()).update(values)
        for use, paths in other.paths.items():
            self.paths.setdefault(use, set()).update(paths)

    def to_table(self) -> dict[str, Any]:
        """Plain data, sorted; what is empty is left out."""
        table: dict[str, Any] = {
            "ceiling": self.ceiling,
            "machine": self.machine,
            "runs": list(self.runs),
            "calls": sorted(self.calls),
            "beyond": sorted(self.beyond),
            "mounts": sorted(self.mounts),
            "network": sorted(self.network),
            "values": {call: sorted(map(list, self.values[call])) for call in sorted(self.values)},
            "refused": [
                {"call": call, "values": list(values), "action": action}
                for (call, values), action in sorted(self.refused.items())
            ],
            "paths": {use: fold_paths(self.paths[use]) for use in USES if self.paths.get(use)},
        }
        return {key: value for key, value in table.items() if value}


def read_table(table: Mapping[str, Any]) -> Learned:
    """The other way. SpecError for what was never written by us."""
    for key in table:
        if key not in KEYS:
            raise SpecError(f"learned: unknown key {key!r}")
    learned = Learned(_take_text(table, "ceiling"), _take_text(table, "machine"))
    learned.runs = _take_texts(table, "runs")
    learned.calls = set(_take_texts(table, "calls"))
    learned.beyond = set(_take_texts(table, "beyond"))
    learned.mounts = set(_take_texts(table, "mounts"))
    learned.network = set(_take_texts(table, "network"))
    values = _take_dict(table, "values")
    learned.values = {
        call: {_check_values(call, each) for each in _take_list(values, call)} for call in values
    }
    for each in _take_list(table, "refused"):
        if not isinstance(each, dict):
            raise SpecError("learned: refused is a list of tables")
        call = _take_text(each, "call")
        used = call, _check_values(call, each.get("values", []))
        learned.refused[used] = _take_text(each, "action")
    paths = _take_dict(table, "paths")
    learned.paths = {use: set(_take_texts(paths, use)) for use in paths}
    return learned


def _check_values(call: str, values: Any) -> Values:
    """As many numbers as the call has telling arguments."""
    masks = [mask for _, mask in TELLING.get(call, ())]
    if isinstance(values, list) and len(values) == len(masks):
        pairs = zip(values, masks, strict=True)
        if all(type(value) is int and 0 <= value == value & mask for value, mask in pairs):
            return tuple(values)
    raise SpecError(f"learned: {call}: {values!r} are not its arguments")


def _take_text(table: Mapping[str, Any], key: str) -> str:
    value = table.get(key)
    if not isinstance(value, str):
        raise SpecError(f"learned: {key} must be a text")
    return value


def _take_list(table: Mapping[str, Any], key: str) -> list[Any]:
    value = table.get(key, [])
    if not isinstance(value, list):
        raise SpecError(f"learned: {key} must be a list")
    return value


def _take_texts(table: Mapping[str, Any], key: str) -> list[str]:
    values = _take_list(table, key)
    if not all(isinstance(each, str) for each in values):
        raise SpecError(f"learned: {key} must be a list of texts")
    return values


def _take_dict(table: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = table.get(key, {})
    if not isinstance(value, dict):
        raise SpecError(f"learned: {key} must be a table")
    return value


EVERYTHING: Final = "/**"
"""behind a folder: all that is in it, at any depth"""


def fold_paths(paths: Iterable[str], most: int = MAX_PATHS) -> list[str]:
    """Sorted; where there are more than ``most``, the deepest ones by the folders they lie in."""
    left = _drop_covered(set(paths))
    while len(left) > most:
        depth = max(map(_measure_depth, left))
        if depth <= 1:
            return [EVERYTHING]
        left = _drop_covered(
            {_find_folder(each) if _measure_depth(each) == depth else each for each in left}
        )
    return sorted(left)


def _measure_depth(path: str) -> int:
    """A folder with all that is in it lies between itself and what is in it."""
    if path.endswith(EVERYTHING):
        return 2 * path.count("/") - 1
    return 2 * path.count("/")


def _find_folder(path: str) -> str:
    return path.removesuffix(EVERYTHING).rpartition("/")[0] + EVERYTHING


def _drop_covered(paths: set[str]) -> set[str]:
    """Without what lies in a folder that is there with all that is in it."""
    folders = {each for each in paths if each.endswith(EVERYTHING)}
    return {each for each in paths if not _is_covered(each, folders)}


def _is_covered(path: str, folders: set[str]) -> bool:
    if not folders:
        return False
    parts = path.removesuffix(EVERYTHING).split("/")
    ends = range(1, len(parts) + (not path.endswith(EVERYTHING)))
    return any("/".join(parts[:end]) + EVERYTHING in folders for end in ends)
