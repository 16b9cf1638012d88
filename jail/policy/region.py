"""Sets of arguments, cut to pieces that one masked comparison each can tell. Pure.

A *box* says what some arguments must be, each by one cube; a *region* is a list of boxes, of which
one must hold. Rules that are tried in an order become rules in no order by taking from each what
the earlier ones have decided.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from jail.policy.rule import ALL_BITS, Condition

ARGUMENT_BITS: Final = 64
MOST_BOXES: Final = 256
"""of one conjunction"""


class Cube(NamedTuple):
    """Values of which the masked bits are these."""

    mask: int
    value: int

    def meets(self, other: Cube) -> bool:
        """Whether the two have anything in common."""
        return self.mask & other.mask & (self.value ^ other.value) == 0

    def contains(self, other: Cube) -> bool:
        """Whether all of the other one lies in this one."""
        return self.mask & ~other.mask == 0 and self.meets(other)

    def cut(self, taken: Cube) -> Iterator[Cube]:
        """Without the other: what differs from it in the lowest bit, what first in the next, …"""
        if not self.meets(taken):
            yield self
            return
        mask, value = self
        for position in range(ARGUMENT_BITS):
            bit = 1 << position
            if bit & taken.mask & ~mask:
                mask |= bit
                yield Cube(mask, value | (~taken.value & bit))
                value |= taken.value & bit


Box = tuple[tuple[int, Cube], ...]
"""(argument, cube), each argument once, sorted"""
ANYTHING: Final = Cube(0, 0)


class TooManyError(Exception):
    """More boxes than are asked for."""


def make_boxes(conjunction: Sequence[Condition]) -> list[Box]:
    """The conditions, which all must hold, as boxes, of which one must."""
    cubes = [[(each.arg, cube) for cube in _make_cubes(each)] for each in conjunction]
    if math.prod(map(len, cubes)) > MOST_BOXES:
        raise TooManyError
    return [
        tuple(sorted(each for each in choice if each[1] != ANYTHING))
        for choice in itertools.product(*cubes)
    ]


def _make_cubes(condition: Condition) -> Iterator[Cube]:
    for value in condition.values:
        match condition.op:
            case "eq":
                yield Cube(ALL_BITS, value)
            case "masked_eq":
                if value & ~condition.mask == 0:
                    yield Cube(condition.mask, value)
            case "ne":
                yield from ANYTHING.cut(Cube(ALL_BITS, value))
            case "lt" | "le":
                yield from _cut_range(0, value - (condition.op == "lt"))
            case "gt" | "ge":
                yield from _cut_range(value + (condition.op == "gt"), ALL_BITS)


def _cut_range(low: int, high: int) -> Iterator[Cube]:
    """Blocks, each as large as its place lets it be."""
    while low <= high:
        size = low & -low or 1 << ARGUMENT_BITS
        while low + size - 1 > high:
            size >>= 1
        yield Cube(ALL_BITS & ~(size - 1), low)
        low += size


def meets(box: Box, other: Box) -> bool:
    """Whether the two have anything in common."""
    own = dict(box)
    return all(own[arg].meets(cube) for arg, cube in other if arg in own)


def subtract(region: Iterable[Box], taken: Iterable[Box], most: int, depth: int) -> list[Box]:
    """What is left of a region; TooManyError if that is more than ``most`` boxes.

    ``depth`` is how many cubes one may be cut to; where that is too few, less is left.
    """
    region, taken = list(region), list(taken)
    ways = [_subtract(region, taken, most, depth, apart) for apart in (False, True)]
    found = [each for each in ways if each is not None]
    if not found:
        raise TooManyError
    return min(found, key=len)


def _subtract(
    region: list[Box], taken: list[Box], most: int, depth: int, apart: bool
) -> list[Box] | None:
    left = dict.fromkeys(region)
    for each in taken:
        boxes, left = left, {}
        for box in boxes:
            left.update(dict.fromkeys(_cut(box, each, depth, apart)))
            if len(left) > most:
                return None
    return _drop_contained(list(left))


def _cut(box: Box, taken: Box, depth: int, apart: bool) -> Iterator[Box]:
    """The box without another one: outside of it in one argument, or in another one, …

    ``apart``: and within it in those before, so that no two of them meet. It depends which way
    makes fewer.
    """
    if not meets(box, taken):
        yield box
        return
    own = dict(box)
    for arg, cube in taken:
        mine = own.get(arg, ANYTHING)
        for rest in itertools.islice(mine.cut(cube), depth):
            yield tuple(sorted({**own, arg: rest}.items()))
        if apart:
            own[arg] = Cube(mine.mask | cube.mask, mine.value | cube.value)


def _drop_contained(boxes: list[Box]) -> list[Box]:
    """Without those that lie in another one; only duplicates are gone already."""
    kept: dict[Box, None] = {}
    for box in sorted(boxes, key=len):
        own = dict(box)
        if not any(
            all(arg in own and cube.contains(own[arg]) for arg, cube in other) for other in kept
        ):
            kept[box] = None
    return [box for box in boxes if box in kept]
