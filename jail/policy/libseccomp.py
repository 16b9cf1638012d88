"""From rules to BPF, through libseccomp's own Python binding or through pyseccomp.

libseccomp knows no order among the rules of one call: an unconditional rule swallows the
conditional ones, and rules with different actions must not overlap. So the rules of a policy,
which are read from the top, are spread over *layers*: within a layer every call has one action.
Each layer is compiled by libseccomp with a marker as its default; the programs are put one
behind the other, and where a layer would answer with the marker it goes on to the next.

Nor does it merge every set of conditions on one call well: 2.5.4 does not come back from some
that compare several arguments. So a call's conditions share a layer only where they differ in
one value of one argument; any other has a layer to itself.
"""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any, Final

from jail.errors import HostError, SpecError
from jail.policy.rule import Condition, Rule

INSTRUCTION: Final = struct.Struct("=HBBI")
LOAD: Final = 0x20
JUMP: Final = 0x05
JUMP_IF_EQUAL: Final = 0x15
JUMP_IF_GREATER_OR_EQUAL: Final = 0x35
RETURN: Final = 0x06
NR_OFFSET: Final = 0
ARCH_OFFSET: Final = 4
AUDIT_ARCH_X86_64: Final = 0xC000003E

ALLOW: Final = 0x7FFF0000
KILL_PROCESS: Final = 0x80000000
ACTIONS: Final = {"allow": ALLOW, "kill": KILL_PROCESS}
ERRNO: Final = 0x00050000
MARKER_DATA: Final = 0xFFFF
MARKER: Final = 0x7FF00000 | MARKER_DATA
"""SECCOMP_RET_TRACE with a number of its own: no rule of a policy can say that."""

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
        return all(_is_another_value(each, conjunction) for each in self.alternatives)


def _is_another_value(a: tuple[Condition, ...], b: tuple[Condition, ...]) -> bool:
    """The same comparisons of the same arguments, but for the value in one of them."""
    alike = [replace(each, values=()) for each in a] == [replace(each, values=()) for each in b]
    masked = all(each.op in ("eq", "masked_eq") for each in a)
    return alike and masked and sum(x != y for x, y in zip(a, b, strict=True)) == 1


Layer = dict[str, Run]


def compile_rules(rules: Sequence[Rule], default: str, machine: str) -> bytes:
    """An array of ``struct sock_filter`` for one machine; every other ABI ends the process.

    SpecError for a call that libseccomp does not know.
    """
    library = read_binding()
    layers = make_layers(_select_rules(library, rules, machine))
    parts = [_export(library, layer, machine) for layer in layers]
    return join_parts(parts, _action_of(default), machine)


def _select_rules(library: Any, rules: Sequence[Rule], machine: str) -> Iterator[tuple[str, Rule]]:
    """(call, rule) from the top, without the calls that this machine does not have."""
    for index, rule in enumerate(rules, 1):
        for call in rule.calls:
            number = read_number(library, call, machine)
            if number >= 0:
                yield call, rule
            elif number == UNKNOWN and not rule.optional:
                raise SpecError(
                    f"rule {index}: libseccomp knows no call {call}"
                    " (optional = true passes over those that are newer than the library)"
                )


def make_layers(calls: Iterable[tuple[str, Rule]]) -> list[Layer]:
    """As few as there must be: a condition goes a layer down if the call's last one has no room."""
    depth: dict[str, int] = {}
    # A policy without rules has a layer too: it is there that foreign ABIs end.
    layers: list[Layer] = [{}]
    for call, rule in calls:
        action = _action_of(rule.action)
        for conjunction in rule.spread_values():
            level = depth.get(call, -1)
            if level < 0 or not _fits(layers[level][call], action, conjunction):
                level += 1
            depth[call] = level
            if level == len(layers):
                layers.append({})
            layers[level].setdefault(call, Run(action)).alternatives.append(conjunction)
    return layers


def _fits(run: Run, action: int, conjunction: tuple[Condition, ...]) -> bool:
    return run.action == action and run.has_room_for(conjunction)


def _action_of(name: str) -> int:
    """SECCOMP_RET_* of "allow", "kill" or an errno's name."""
    if name in ACTIONS:
        return ACTIONS[name]
    return ERRNO | int(getattr(errno, name))


def join_parts(parts: Sequence[bytes], default: int, machine: str) -> bytes:
    """The layers' programs one behind the other, the default at the very end."""
    program = _refuse_negative(default) if machine == "x86_64" else b""
    program += b"".join(map(_go_on, parts))
    return program + INSTRUCTION.pack(RETURN, 0, 0, default)


def _go_on(part: bytes) -> bytes:
    """The marker's returns become jumps past the end of this part."""
    count = len(part) // INSTRUCTION.size
    patched = bytearray(part)
    for index, (code, _, _, value) in enumerate(INSTRUCTION.iter_unpack(part)):
        if code == RETURN and value == MARKER:
            jump = INSTRUCTION.pack(JUMP, 0, 0, count - index - 1)
            patched[index * INSTRUCTION.size : (index + 1) * INSTRUCTION.size] = jump
    return bytes(patched)


def _refuse_negative(default: int) -> bytes:
    """libseccomp takes numbers from 2^31 on for x32's; they are merely unknown."""
    return b"".join(
        INSTRUCTION.pack(*each)
        for each in (
            (LOAD, 0, 0, ARCH_OFFSET),
            (JUMP_IF_EQUAL, 0, 3, AUDIT_ARCH_X86_64),
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


def read_machine() -> str:
    """The machine policies are compiled for; HostError where we know no filter for it."""
    machine = platform.machine()
    if machine not in ("x86_64", "aarch64"):
        raise HostError(f"no system-call filter for a {machine} machine", step="libseccomp")
    return machine


def read_number(library: Any, call: str, machine: str) -> int:
    """The call's number; UNKNOWN, or another negative one where only other machines have it."""
    number: int = library.resolve_syscall(_architecture(library, machine), call)
    return number


def _architecture(library: Any, machine: str) -> Any:
    return {"x86_64": library.Arch.X86_64, "aarch64": library.Arch.AARCH64}[machine]


def _export(library: Any, layer: Layer, machine: str) -> bytes:
    rules = library.SyscallFilter(library.TRACE(MARKER_DATA))
    _set_machine(library, rules, machine)
    rules.set_attr(library.Attr.ACT_BADARCH, library.KILL_PROCESS)
    _ask_for_tree(library, rules)
    for call, run in layer.items():
        _add_run(library, rules, call, run)
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


def _add_run(library: Any, rules: Any, call: str, run: Run) -> None:
    action = _action(library, run.action)
    if run.is_always():
        rules.add_rule(action, call)
        return
    for conjunction in run.alternatives:
        rules.add_rule(action, call, *[_argument(library, each) for each in conjunction])


def _action(library: Any, action: int) -> Any:
    """The binding's own constant: it is the binding that knows how it takes them."""
    if action == ALLOW:
        return library.ALLOW
    if action == KILL_PROCESS:
        return library.KILL_PROCESS
    return library.ERRNO(action & 0xFFFF)


def _argument(library: Any, each: Condition) -> Any:
    if each.op == "masked_eq":
        return library.Arg(each.arg, library.MASKED_EQ, each.mask, each.values[0])
    return library.Arg(each.arg, getattr(library, each.op.upper()), each.values[0])
