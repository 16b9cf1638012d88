"""Numbers as the names that C programs have for them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

ALL_BITS: Final = 2**64 - 1


@dataclass(frozen=True)
class Names:
    """A number: one of ``choices`` in the bits of ``mask``, and ``flags`` in the others.

    ``bits`` is how many of a register's 64 the kernel looks at.
    """

    choices: Mapping[int, str] = field(default_factory=dict)
    flags: Mapping[int, str] = field(default_factory=dict)
    mask: int = ALL_BITS
    bits: int = 32

    def show(self, value: int) -> str:
        """All of the number."""
        value &= 2**self.bits - 1
        if value in self.choices:
            return self.choices[value]
        mask = self.mask & (2**self.bits - 1) if self.choices else 0
        names = list(self._name_choice(value & mask))
        names += self._name_flags(value & ~mask)
        return "|".join(names) or "0"

    def show_masked(self, value: int, mask: int) -> str:
        """What is known of a number of which only the bits of ``mask`` are."""
        seen = mask & (2**self.bits - 1)
        if self.choices and (self.mask & (2**self.bits - 1)) & ~seen:
            return "|".join(self._name_flags(value & seen)) or "0"
        return self.show(value & seen)

    def show_mask(self, mask: int) -> str:
        """The mask itself, as what it leaves out where that is less."""
        mask &= ALL_BITS
        if mask.bit_count() > self.bits // 2 and mask != ALL_BITS:
            left_out = ~mask & (2**self.bits - 1)
            return f"~({self._show_bits(left_out)})" if left_out else f"{mask:#x}"
        return self._show_bits(mask)

    def _show_bits(self, bits: int) -> str:
        return "|".join(self._name_flags(bits)) or "0"

    def _name_choice(self, value: int) -> Iterator[str]:
        if value in self.choices:
            yield self.choices[value]
        elif value:
            yield f"{value:#x}"

    def _name_flags(self, value: int) -> Iterator[str]:
        """Those of several bits before those that are part of them."""
        for flag in sorted(self.flags, key=int.bit_count, reverse=True):
            if value & flag == flag:
                yield self.flags[flag]
                value &= ~flag
        if value:
            yield f"{value:#x}"
