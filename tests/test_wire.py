"""The frames between supervisor and agent: whatever comes in, a message or a WireError comes out.

Catalogue: AG-01, AG-02, AG-05.
"""

from __future__ import annotations

import array
import itertools
import os
import socket
import struct
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any, Final

import msgpack
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from jail.agent import wire

pytestmark = pytest.mark.beside

ALL: Final = wire.REQUESTS | wire.FACTS
KINDS: Final = sorted(ALL)
KiB: Final = 1024
quickly: Final = settings(
    max_examples=200, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


def read_fields(kind: Any) -> dict[str, str]:
    """name → annotation, as it stands in the source."""
    types = {name: kind.__annotations__[name] for name in kind._fields}
    return {name: getattr(each, "__forward_arg__", each) for name, each in types.items()}


# Text as it comes from a file system: any bytes at all.
texts = st.binary(max_size=40).map(os.fsdecode)
numbers = st.integers(-(2**63), 2**63 - 1)
plain = st.recursive(
    st.none() | st.booleans() | numbers | texts | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
VALUES: Final[dict[str, st.SearchStrategy[Any]]] = {
    "int": numbers,
    "str": texts,
    "bool": st.booleans(),
    "list[str]": st.lists(texts, max_size=5),
    "list[list[int]]": st.lists(st.lists(numbers, max_size=4), max_size=4),
    "list[list[Any]]": st.lists(st.tuples(texts, numbers, texts).map(list), max_size=5),
    "dict[str, str]": st.dictionaries(texts, texts, max_size=5),
    "dict[str, Any]": st.dictionaries(texts, plain, max_size=5),
}


@st.composite
def messages(draw: st.DrawFn, kinds: dict[str, Any] = ALL) -> Any:
    kind = kinds[draw(st.sampled_from(sorted(kinds)))]
    return kind(*(draw(VALUES[each]) for each in read_fields(kind).values()))


def make_frame(body: bytes) -> bytes:
    return wire.HEADER.pack(len(body)) + body


def pack(name: str, *fields: Any) -> bytes:
    """A body that no honest peer need have made."""
    return bytes(msgpack.packb([name, *fields], strict_types=False))


def take_all(data: bytes, known: dict[str, Any] = ALL) -> list[Any]:
    """Everything in ``data``, fed at once; messages that bring descriptors get /dev/null."""
    buffer = wire.FrameBuffer(known)
    buffer.feed(data, [], 0)
    found = []
    while (taken := buffer.take()) is not None:
        found.append(taken[0])
    return found


# -- honest frames --------------------------------------------------------------------------------


def test_every_type_of_a_field_has_a_check_and_a_strategy() -> None:
    used = {each for kind in ALL.values() for each in read_fields(kind).values()}
    assert used == set(wire.CHECKS) == set(VALUES)


@pytest.mark.parametrize("name", KINDS)
def test_no_message_brings_more_descriptors_than_are_taken(name: str) -> None:
    assert 0 <= wire.FDS.get(ALL[name], 0) <= wire.MAX_FDS


@quickly
@given(messages())
def test_every_message_comes_out_as_it_went_in(message: Any) -> None:
    frame = wire.pack_frame(message)
    found = wire.unpack_body(frame[wire.HEADER.size :], ALL)
    assert found == message
    assert type(found) is type(message)


WITHOUT_FDS: Final = {name: kind for name, kind in ALL.items() if wire.FDS.get(kind, 0) == 0}


@quickly
@given(st.lists(messages(WITHOUT_FDS), max_size=6), st.data())
def test_frames_may_be_cut_anywhere(sent: list[Any], data: st.DataObject) -> None:
    stream = b"".join(map(wire.pack_frame, sent))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    buffer, found = wire.FrameBuffer(ALL), []
    for start, end in itertools.pairwise([0, *cuts, len(stream)]):
        buffer.feed(stream[start:end], [], 0)
        while (taken := buffer.take()) is not None:
            found.append(taken[0])
    assert found == sent


@pytest.mark.parametrize("names", [wire.REQUESTS, wire.FACTS], ids=["requests", "facts"])
def test_each_side_takes_only_what_is_meant_for_it(names: dict[str, Any]) -> None:
    for name, kind in ALL.items() - names.items():
        fields = [next(iter(EXAMPLES[each])) for each in read_fields(kind).values()]
        with pytest.raises(wire.WireError, match="unknown message"):
            wire.unpack_body(pack(name, *fields), names)


EXAMPLES: Final[dict[str, list[Any]]] = {
    "int": [7],
    "str": ["text"],
    "bool": [True],
    "list[str]": [["a"]],
    "list[list[int]]": [[[1, 2, 3]]],
    "list[list[Any]]": [[["name", 0o100644, ""]]],
    "dict[str, str]": [{"a": "b"}],
    "dict[str, Any]": [{"a": [1]}],
}


# -- AG-01: noise ---------------------------------------------------------------------------------


@quickly
@given(st.binary(max_size=300))
@example(b"")
@example(b"\x90")
@example(b"\x91\xa5Ready")
@example(b"\xc1")
def test_a_body_of_noise_is_a_wire_error(body: bytes) -> None:
    with pytest.raises(wire.WireError):
        wire.unpack_body(body, ALL)


@quickly
@given(st.lists(st.binary(max_size=120), max_size=6))
def test_a_stream_of_noise_is_a_wire_error_or_waits_for_more(chunks: list[bytes]) -> None:
    buffer = wire.FrameBuffer(ALL)
    try:
        for chunk in chunks:
            buffer.feed(chunk, [], 0)
            while buffer.take() is not None:
                raise AssertionError("noise was taken for a message")
    except wire.WireError:
        pass


@quickly
@given(messages(), st.data())
def test_a_spoilt_message_is_another_message_or_a_wire_error(
    message: Any, data: st.DataObject
) -> None:
    body = bytearray(wire.pack_frame(message)[wire.HEADER.size :])
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = wire.unpack_body(bytes(body), ALL)
    except wire.WireError:
        return
    for (name, wanted), value in zip(read_fields(type(found)).items(), found, strict=True):
        assert wire.CHECKS[wanted](value), name


@quickly
@given(st.sampled_from(KINDS), st.lists(plain, max_size=8))
def test_any_fields_are_checked_each_by_its_exact_type(name: str, fields: list[Any]) -> None:
    try:
        found = wire.unpack_body(
            bytes(msgpack.packb([name, *fields], unicode_errors="surrogateescape")), ALL
        )
    except wire.WireError:
        return
    assert len(fields) == len(ALL[name]._fields)
    assert list(found) == fields


# -- AG-02: lies about length ---------------------------------------------------------------------


def measure_peak(data: bytes) -> int:
    """Bytes that reading ``data`` takes at its height."""
    tracemalloc.start()
    try:
        with pytest.raises(wire.WireError):
            take_all(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [wire.MAX_FRAME_BYTES + 1, 2**31 - 1, 2**31, 2**32 - 1])
def test_a_frame_that_claims_too_much_is_refused_by_its_header(size: int) -> None:
    assert measure_peak(struct.pack(">I", size)) < 64 * KiB


@pytest.mark.parametrize(
    "head",
    [
        b"\xdd\xff\xff\xff\xff",  # array 32
        b"\xdc\xff\xff",
        b"\xdf\xff\xff\xff\xff",  # map 32
        b"\xdb\xff\xff\xff\xff",  # str 32
        b"\xc6\xff\xff\xff\xff",  # bin 32
        b"\xc9\xff\xff\xff\xff\x05",  # ext 32
        b"\x92\xa4Done\xdd\x7f\xff\xff\xff",
        b"\x93\xa6Listed\x01\xdd\x7f\xff\xff\xff",
    ],
    ids=lambda head: head.hex(),
)
def test_a_value_that_claims_too_much_takes_no_memory(head: bytes) -> None:
    assert measure_peak(make_frame(head + bytes(100))) < 256 * KiB


def test_an_empty_frame_is_no_message() -> None:
    with pytest.raises(wire.WireError):
        take_all(make_frame(b""))


def test_a_short_body_waits_and_is_nothing_yet() -> None:
    frame = wire.pack_frame(wire.Done(1))
    for length in range(len(frame)):
        assert take_all(frame[:length]) == []


@pytest.mark.parametrize("junk", [b"\0", b"\xc0", wire.pack_frame(wire.Done(2))])
def test_junk_behind_a_message_is_refused(junk: bytes) -> None:
    body = wire.pack_frame(wire.Done(1))[wire.HEADER.size :]
    with pytest.raises(wire.WireError):
        take_all(make_frame(body + junk))


def test_the_largest_frame_is_taken_and_one_byte_more_is_not() -> None:
    spare = wire.MAX_FRAME_BYTES - len(wire.pack_frame(wire.Failed(1, 2, ""))) + wire.HEADER.size
    largest = wire.Failed(1, 2, "x" * (spare - 4))
    frame = wire.pack_frame(largest)
    assert len(frame) == wire.HEADER.size + wire.MAX_FRAME_BYTES
    assert take_all(frame) == [largest]
    with pytest.raises(wire.WireError):
        wire.pack_frame(wire.Failed(1, 2, "x" * (spare - 3)))


@pytest.mark.parametrize("seed", [b"\x91", b"\x81\xa1k", b"\x92\xa1x"])
def test_a_nest_of_any_depth_is_a_wire_error(seed: bytes) -> None:
    for depth in (600, 100_000, 1_000_000):
        nest = seed * min(depth, wire.MAX_FRAME_BYTES // len(seed))
        with pytest.raises(wire.WireError):
            take_all(make_frame(nest + b"\xc0"))


@pytest.mark.parametrize("element", [b"\x90", b"\x80", b"\xa1x", b"\xcb" + bytes(8)])
def test_the_worst_frame_costs_a_bounded_moment(element: bytes) -> None:
    """A full frame of the smallest values, each of which Python makes an object of."""
    count = (wire.MAX_FRAME_BYTES - 32) // len(element)
    body = b"\x93\xa6Listed\x01\xdd" + struct.pack(">I", count) + element * count
    began = time.process_time()
    with pytest.raises(wire.WireError):
        take_all(make_frame(body))
    assert time.process_time() - began < 5


# -- AG-05: values that msgpack takes and we don't ------------------------------------------------

NAN, EXT, TIMESTAMP = float("nan"), msgpack.ExtType(5, b"x"), msgpack.Timestamp(1, 2)
WRONG: Final[dict[str, list[Any]]] = {
    "int": [
        *(True, False, 1.0, NAN, float("inf"), 2**63, 2**64 - 1),
        *(None, "1", b"1", [1], EXT, TIMESTAMP),
    ],
    "bool": [0, 1, None, "true", 1.0, [], EXT],
    "str": [b"bytes", 1, None, True, ["a"], EXT, TIMESTAMP, NAN],
    "list[str]": ["abc", [1], [b"a"], [None], [["a"]], {"a": "b"}, None, EXT],
    "list[list[int]]": [[1], [[True]], [["1"]], [[1.0]], [[2**63]], None, "ab", EXT],
    "list[list[Any]]": [
        [["a", 1]],
        [["a", 1, "", ""]],
        [[b"a", 1, ""]],
        [["a", True, ""]],
        [["a", 1.5, ""]],
        [["a", 1, None]],
        ["abc"],
        [{"a": 1}],
        None,
    ],
    "dict[str, str]": [{"a": 1}, {b"a": "b"}, [["a", "b"]], {"a": None}, None, "", EXT],
    "dict[str, Any]": [{b"a": 1}, [], None, "a", {"a": EXT}],
}


def list_wrong() -> Iterator[Any]:
    for name in KINDS:
        fields = read_fields(ALL[name])
        for place, (field, wanted) in enumerate(fields.items()):
            for index, value in enumerate(WRONG[wanted]):
                yield pytest.param(name, place, value, id=f"{name}.{field}-{index}")


@pytest.mark.parametrize(("name", "place", "value"), list(list_wrong()))
def test_a_value_of_another_type_is_never_taken_for_the_right_one(
    name: str, place: int, value: Any
) -> None:
    fields = [EXAMPLES[each][0] for each in read_fields(ALL[name]).values()]
    assert wire.unpack_body(pack(name, *fields), ALL)
    fields[place] = value
    with pytest.raises(wire.WireError):
        wire.unpack_body(pack(name, *fields), ALL)


@pytest.mark.parametrize("name", KINDS)
def test_a_field_too_few_or_too_many_is_refused(name: str) -> None:
    fields = [EXAMPLES[each][0] for each in read_fields(ALL[name]).values()]
    others: tuple[list[Any], ...] = (fields[:-1], [*fields, 0], [*fields, *fields], [])
    for other in (each for each in others if each != fields):  # one message has no fields
        with pytest.raises(wire.WireError):
            wire.unpack_body(pack(name, *other), ALL)


def test_a_key_twice_is_refused() -> None:
    env = b"\x82\xa1a\xa1b\xa1a\xa1c"
    body = b"\x96\xa4Exec\x01\x91\xa1x" + env + b"\xa1/\x90"
    with pytest.raises(wire.WireError):
        wire.unpack_body(body, ALL)
    body = body.replace(b"\xa1a\xa1c", b"\xa1d\xa1c")
    assert wire.unpack_body(body, ALL).env == {"a": "b", "d": "c"}


def test_bytes_that_are_no_utf8_are_text_as_a_file_name_is() -> None:
    body = b"\x93\xa6Listed\x01\x91\x93\xa2\xff\xfe\x02\xa0"
    (entry,) = wire.unpack_body(body, ALL).entries
    assert os.fsencode(entry[0]) == b"\xff\xfe"
    assert wire.pack_frame(wire.Listed(1, [entry]))[wire.HEADER.size :] == body


@pytest.mark.parametrize(
    "body",
    [
        pack("Done"),
        bytes(msgpack.packb("Done")),
        bytes(msgpack.packb({"Done": 1})),
        bytes(msgpack.packb([])),
        bytes(msgpack.packb([["Done"], 1])),
        bytes(msgpack.packb([b"Done", 1])),
        bytes(msgpack.packb([None, 1])),
        pack("done", 1),
        pack("Done\0", 1),
        pack("__class__", 1),
        pack("FDS", 1),
        pack("x" * 100_000, 1),
    ],
    ids=range(12),
)
def test_what_is_no_message_of_ours_is_refused_in_a_short_sentence(body: bytes) -> None:
    with pytest.raises(wire.WireError) as caught:
        wire.unpack_body(body, ALL)
    assert len(str(caught.value)) < 200


# -- descriptors ----------------------------------------------------------------------------------


def count_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


def make_rights(count: int) -> list[tuple[int, int, bytes]]:
    """As ``recvmsg`` brings them, with descriptors that are really open."""
    fds = array.array("i", [os.open("/dev/null", os.O_RDONLY) for _ in range(count)])
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds.tobytes())]


@pytest.mark.parametrize("count", [0, 1, 2, 4, 8, 9, 253])
def test_descriptors_that_a_message_doesn_t_bring_are_refused_and_closed(count: int) -> None:
    before = count_fds()
    buffer = wire.FrameBuffer(ALL)

    def receive() -> None:
        buffer.feed(wire.pack_frame(wire.Ready(1, 0, 0, 0)), make_rights(count), 0)
        buffer.take()

    with pytest.raises(wire.WireError):
        receive()
    buffer.close()
    assert count_fds() == before


@given(st.sampled_from(KINDS), st.integers(0, wire.MAX_FDS))
@quickly
def test_a_message_is_taken_with_exactly_its_descriptors(name: str, count: int) -> None:
    kind = ALL[name]
    message = kind(*(EXAMPLES[each][0] for each in read_fields(kind).values()))
    buffer = wire.FrameBuffer(ALL)
    buffer.feed(wire.pack_frame(message), make_rights(count), 0)
    try:
        taken = buffer.take()
    except wire.WireError:
        assert count != wire.FDS.get(kind, 0)
        return
    finally:
        buffer.close()
    assert taken is not None
    assert len(taken[1]) == wire.FDS.get(kind, 0) == count
    for fd in taken[1]:
        os.close(fd)


def test_cut_off_ancillary_data_is_refused_and_what_came_is_closed() -> None:
    before = count_fds()
    buffer = wire.FrameBuffer(ALL)
    with pytest.raises(wire.WireError) as caught:
        buffer.feed(b"x", make_rights(wire.MAX_FDS), socket.MSG_CTRUNC)
    buffer.close()
    assert type(caught.value) is wire.WireError
    assert count_fds() == before


def test_what_our_own_table_had_no_room_for_is_not_the_peer_s_fault() -> None:
    before = count_fds()
    buffer = wire.FrameBuffer(ALL)
    with pytest.raises(wire.TruncatedError):
        buffer.feed(b"x", make_rights(3), socket.MSG_CTRUNC)
    buffer.close()
    assert count_fds() == before
