"""From rules to BPF, through libseccomp's own Python binding or through pyseccomp.

libseccomp knows no order among the rules of one call: an unconditional rule swallows the
conditional ones, and rules with different actions must not overlap. So the rules of a policy,
which are read from the top, are spread over *layers*: within a layer every call has one action.
Each layer is compiled by libseccomp with a marker as its default; the programs are put one
behind the other, and where a layer would answer with the marker it goes on to the next.
"""

from __future__ import annotations

import os
import platform
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Final

from jail.errors import HostError

INSTRUCTION: Final = struct.Struct("=HBBI")
MAX_INSTRUCTIONS: Final = 4096
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
ERRNO: Final = 0x00050000
MARKER_DATA: Final = 0xFFFF
MARKER: Final = 0x7FF00000 | MARKER_DATA
"""SECCOMP_RET_TRACE with a number of its own: no rule of a policy can say that."""

UNKNOWN: Final = -1
REMEDY: Final = "apt install libseccomp2"


@dataclass(frozen=True)
class Compare:
    """One condition on one argument; ``mask`` only with MASKED_EQ."""

    arg: int
    op: str
    value: int
    mask: int = 0


Conjunction = tuple[Compare, ...]


@dataclass
class Run:
    """What a layer says of one call: an action, if one of the alternatives holds."""

    action: int
    alternatives: list[Conjunction] = field(default_factory=list)

    def is_always(self) -> bool:
        return () in self.alternatives


Layer = dict[str, Run]


def make_layers(rules: Iterable[tuple[str, int, Sequence[Conjunction]]]) -> list[Layer]:
    """``(call, action, alternatives)`` from the top, as layers; no alternative holds as ``()``."""
    depth: dict[str, int] = {}
    layers: list[Layer] = []
    for call, action, alternatives in rules:
        level = depth.get(call, 0)
        if call in depth and layers[level][call].action != action:
            level += 1
        depth[call] = level
        if level == len(layers):
            layers.append({})
        layers[level].setdefault(call, Run(action)).alternatives += alternatives
    return layers


def compile_layers(layers: Sequence[Layer], default: int, machine: str) -> bytes:
    """An array of ``struct sock_filter`` for one machine; every other ABI ends the process."""
    library = read_binding()
    parts = [_export(library, layer, machine) for layer in layers]
    return join_parts(parts, default, machine)


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


def read_number(call: str, machine: str) -> int:
    """The call's number; UNKNOWN, or another negative one where only other machines have it."""
    library = read_binding()
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
        if read_number(call, machine) >= 0:
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
    try:
        rules.set_attr(getattr(library.Attr, "CTL_OPTIMIZE", 8), 2)
    except (OSError, RuntimeError, ValueError):
        pass


def _add_run(library: Any, rules: Any, call: str, run: Run) -> None:
    action = _action(library, run.action)
    if run.is_always():
        rules.add_rule(action, call)
        return
    for conjunction in dict.fromkeys(run.alternatives):
        rules.add_rule(action, call, *[_argument(library, each) for each in conjunction])


def _action(library: Any, action: int) -> Any:
    """The binding's own constant: it is the binding that knows how it takes them."""
    if action == ALLOW:
        return library.ALLOW
    if action == KILL_PROCESS:
        return library.KILL_PROCESS
    return library.ERRNO(action & 0xFFFF)


def _argument(library: Any, each: Compare) -> Any:
    if each.op == "masked_eq":
        return library.Arg(each.arg, library.MASKED_EQ, each.mask, each.value)
    return library.Arg(each.arg, getattr(library, each.op.upper()), each.value)
