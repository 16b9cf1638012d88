"""From rules to BPF, through libseccomp's own Python binding or through pyseccomp.

libseccomp knows no order among the rules of one call: an unconditional rule swallows the
conditional ones, and rules with different actions must not overlap. So the rules of a policy,
which are read from the top, are spread over *layers*: within a layer every call has one action.
Each layer is compiled by libseccomp with a marker as its default; the programs are put one
behind the other, and where a layer would answer with the marker it goes on to the next. Every
answer is a marker to begin with, SECCOMP_RET_TRACE with a number: libseccomp knows no others that
it would take anywhere (it refuses USER_NOTIF and LOG where the running kernel has none). Then the
returns are rewritten to what they stand for.

Nor does it merge every set of conditions on one call well: 2.5.4 does not come back from some
that compare sizes. So a call's conditions share a layer only where they compare bits; any other
has a layer to itself.
"""

from __future__ import annotations

import contextlib
import functools
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Final

from jail.errors import HostError, SpecError
from jail.policy.action import (
    ACTION_BITS,
    DATA_BITS,
    TRACE,
    Report,
    decide_return,
    silence_return,
)
from jail.policy.rule import Condition, Rule, Ruleset, Target

INSTRUCTION: Final = struct.Struct("=HBBI")
LOAD: Final = 0x20
JUMP: Final = 0x05
JUMP_IF_EQUAL: Final = 0x15
JUMP_IF_GREATER_OR_EQUAL: Final = 0x35
RETURN: Final = 0x06
NR_OFFSET: Final = 0
ARCH_OFFSET: Final = 4
AUDIT_ARCHES: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

MARKER_DATA: Final = 0xFFFF

UNKNOWN: Final = -1
REMEDY: Final = "apt install libseccomp2"


@dataclass
class Run:
    """What a layer says of one call: an action, if one of the alternatives holds."""

    action: int
    alternatives: list[tuple[Condition, ...]] = field(default_factory=list)

    def is_always(self) -> bool:
        return () in self.alternatives

    def has_room_for(self, conjunction: tuple[Condition, ...]) -> bool:
        """Whether libseccomp can be trusted with this one beside those that are here."""
        return is_masked(conjunction) and is_masked(self.alternatives[0])


def is_masked(conjunction: tuple[Condition, ...]) -> bool:
    """Whether it compares bits alone, not sizes."""
    return all(each.op in ("eq", "masked_eq") for each in conjunction)


Layer = dict[str, Run]


def compile_rules(ruleset: Ruleset, target: Target, report: Report) -> bytes:
    """An array of ``struct sock_filter`` for one machine; every other ABI ends the process.

    SpecError for a call that libseccomp does not know.
    """
    library = read_binding()
    default = decide_return(ruleset.default, False, report)
    layers = make_layers(_select_rules(library, ruleset.rules, target), report, default)
    returns = list(dict.fromkeys(run.action for layer in layers for run in layer.values()))
    parts = [_export(library, layer, returns, target.machine) for layer in layers]
    return join_parts(parts, returns, default, target.machine)


def _select_rules(
    library: Any, rules: Sequence[Rule], target: Target
) -> Iterator[tuple[str, Rule]]:
    """(call, rule) from the top, without the calls that this machine does not have."""
    for rule in rules:
        if not rule.is_for(target):
            continue
        for call in rule.calls:
            number = read_number(library, call, target.machine)
            if number >= 0:
                yield call, rule
            elif number == UNKNOWN and not rule.optional:
                raise SpecError(
                    f"{_find_place(rule, rules)}: libseccomp knows no call {call}"
                    " (optional = true passes over those that are newer than the library)"
                )


def _find_place(rule: Rule, rules: Sequence[Rule]) -> str:
    """As the loader names it. A file's own rules stand before those of its base."""
    calls = f"({', '.join(rule.calls[:3])}{', …' if len(rule.calls) > 3 else ''})"
    if rule.policy == rules[0].policy:
        return f"rule {rules.index(rule) + 1} {calls}"
    return f"{rule.policy}: rule {calls}"


def refuse_unknown_calls(ruleset: Ruleset, target: Target) -> None:
    """SpecError for a call that libseccomp does not know, as when it is compiled."""
    for _ in _select_rules(read_binding(), ruleset.rules, target):
        pass


def make_layers(
    calls: Iterable[tuple[str, Rule]], report: Report = "none", default: int | None = None
) -> list[Layer]:
    """As few as there must be: a condition goes a layer down if the call's last one has no room.

    A last word that is the default's too is not in them: libseccomp's time grows faster than the
    number of rules.
    """
    depth: dict[str, int] = {}
    decided: set[str] = set()
    # A policy without rules has a layer too: it is there that foreign ABIs end.
    layers: list[Layer] = [{}]
    for call, rule in calls:
        if call in decided:
            continue
        action = decide_return(rule.action, rule.quiet, report)
        for conjunction in rule.spread_values():
            if not conjunction and action == default:
                continue
            level = depth.get(call, -1)
            if level < 0 or not _fits(layers[level][call], action, conjunction):
                level += 1
            depth[call] = level
            if level == len(layers):
                layers.append({})
            layers[level].setdefault(call, Run(action)).alternatives.append(conjunction)
        if rule.is_always():
            decided.add(call)
    return layers


def _fits(run: Run, action: int, conjunction: tuple[Condition, ...]) -> bool:
    return run.action == action and run.has_room_for(conjunction)


def join_parts(parts: Sequence[bytes], returns: Sequence[int], default: int, machine: str) -> bytes:
    """The layers' programs one behind the other, the default at the very end."""
    program = _answer_negative(silence_return(default), machine)
    program += b"".join(_finish(part, returns) for part in parts)
    return program + INSTRUCTION.pack(RETURN, 0, 0, default)


def _finish(part: bytes, returns: Sequence[int]) -> bytes:
    """The numbers become what they stand for; "go on" becomes a jump past the end of this part."""
    count = len(part) // INSTRUCTION.size
    patched = bytearray(part)
    for index, (code, _, _, value) in enumerate(INSTRUCTION.iter_unpack(part)):
        if code != RETURN or value & ACTION_BITS != TRACE:
            continue
        if value & DATA_BITS == MARKER_DATA:
            now = INSTRUCTION.pack(JUMP, 0, 0, count - index - 1)
        else:
            now = INSTRUCTION.pack(RETURN, 0, 0, returns[value & DATA_BITS])
        patched[index * INSTRUCTION.size : (index + 1) * INSTRUCTION.size] = now
    return bytes(patched)


def _answer_negative(default: int, machine: str) -> bytes:
    """No call has a number from 2^31 on; libseccomp would take them for x32's.

    -1 is what a tracer makes of a call that is not to be made (ptrace(2)), so nobody is asked.
    """
    return b"".join(
        INSTRUCTION.pack(*each)
        for each in (
            (LOAD, 0, 0, ARCH_OFFSET),
            (JUMP_IF_EQUAL, 0, 3, AUDIT_ARCHES[machine]),
            (LOAD, 0, 0, NR_OFFSET),
            (JUMP_IF_GREATER_OR_EQUAL, 0, 1, 0x80000000),
            (RETURN, 0, 0, default),
        )
    )


def read_binding() -> Any:
    """The module ``seccomp`` or ``pyseccomp``: one API, the library's own first."""
    try:
        return _import_binding()
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        raise HostError(
            f"libseccomp: can't be used to compile a system-call policy ({error})",
            step="libseccomp",
            remedy=REMEDY,
        ) from None


def _import_binding() -> ModuleType:
    try:
        import seccomp
    except ImportError:
        import pyseccomp as seccomp
    module: ModuleType = seccomp
    return module


@functools.lru_cache(maxsize=2048)
def read_number(library: Any, call: str, machine: str) -> int:
    """The call's number; UNKNOWN, or another negative one where only other machines have it."""
    number: int = library.resolve_syscall(_architecture(library, machine), call)
    return number


def has_call(call: str, machine: str) -> bool:
    """Whether that machine has it."""
    return read_number(read_binding(), call, machine) >= 0


def knows_call(call: str, machine: str) -> bool:
    """Whether libseccomp has heard of it, though only other machines may have it."""
    return read_number(read_binding(), call, machine) != UNKNOWN


def _architecture(library: Any, machine: str) -> Any:
    return {"x86_64": library.Arch.X86_64, "aarch64": library.Arch.AARCH64}[machine]


def _export(library: Any, layer: Layer, returns: Sequence[int], machine: str) -> bytes:
    rules = library.SyscallFilter(library.TRACE(MARKER_DATA))
    _set_machine(library, rules, machine)
    rules.set_attr(library.Attr.ACT_BADARCH, library.KILL_PROCESS)
    _ask_for_tree(library, rules)
    for call, run in layer.items():
        _add_run(library, rules, call, run, library.TRACE(returns.index(run.action)))
    with os.fdopen(os.memfd_create("bpf", os.MFD_CLOEXEC), "w+b") as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()


def _set_machine(library: Any, rules: Any, machine: str) -> None:
    wanted, native = _architecture(library, machine), library.system_arch()
    if int(wanted) != int(native):
        rules.add_arch(wanted)
        rules.remove_arch(native)


def _ask_for_tree(library: Any, rules: Any) -> None:
    """A binary tree over the numbers instead of a list, from libseccomp 2.5 on."""
    with contextlib.suppress(OSError, RuntimeError, ValueError):
        rules.set_attr(getattr(library.Attr, "CTL_OPTIMIZE", 8), 2)


def _add_run(library: Any, rules: Any, call: str, run: Run, action: Any) -> None:
    if run.is_always():
        rules.add_rule(action, call)
        return
    for conjunction in run.alternatives:
        rules.add_rule(action, call, *[_argument(library, each) for each in conjunction])


def _argument(library: Any, each: Condition) -> Any:
    if each.op == "masked_eq":
        return library.Arg(each.arg, library.MASKED_EQ, each.mask, each.values[0])
    return library.Arg(each.arg, getattr(library, each.op.upper()), each.values[0])
