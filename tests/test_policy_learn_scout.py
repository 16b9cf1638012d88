"""What a call's pointers lead to: a program's memory, which may hold anything."""

from __future__ import annotations

import ctypes
import os
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jail.kernel.memory import PAGE_BYTES, TextReader, read_bytes
from jail.policy.describe.call import KINDS
from jail.policy.learn.address import is_dns, is_question, read_address, read_question
from jail.policy.learn.note import Learned
from jail.policy.learn.path import (
    CWD,
    NAMES,
    decide_use,
    find_mount,
    join_path,
    propose_volumes,
    settle_use,
)
from jail.policy.learn.propose import find_uses, make_command, needs_network

pytestmark = pytest.mark.beside

QUESTION = bytes.fromhex("123401000001000000000000076578616d706c65036f72670000010001")


def test_an_address_is_read_as_one_writes_it() -> None:
    port = struct.pack("!H", 80)
    inet = struct.pack("=H", socket.AF_INET) + port + bytes([127, 0, 0, 1]) + bytes(8)
    assert read_address(inet) == "127.0.0.1:80"
    inet6 = struct.pack("=H", socket.AF_INET6) + port + bytes(4) + bytes(15) + b"\1" + bytes(4)
    assert read_address(inet6) == "[::1]:80"
    assert read_address(b"\1\0/run/x\0garbage") == "unix /run/x"
    assert read_address(b"\1\0\0name\0\0") == "unix @name"
    assert is_dns("127.0.0.1:53") and not is_dns("127.0.0.1:5353")


@given(st.binary(max_size=140))
def test_whatever_stands_for_an_address_is_one_or_nothing(data: bytes) -> None:
    assert isinstance(read_address(data), str)


def test_a_question_is_read() -> None:
    assert read_question(QUESTION) == "example.org"
    assert read_question(QUESTION[:-5]) == ""
    answer = QUESTION[:2] + b"\x81\x80" + QUESTION[4:]
    assert not is_question(answer) and read_question(answer) == ""


@given(st.binary(max_size=512), st.booleans())
def test_whatever_stands_for_a_question_is_one_or_nothing(data: bytes, headed: bool) -> None:
    text = read_question(QUESTION[:12] + data if headed else data)
    assert text.isprintable()


def test_a_name_that_points_at_itself_is_none() -> None:
    assert read_question(QUESTION[:12] + b"\xc0\x0c\0\1\0\1") == ""


def test_every_name_is_one_by_the_table_of_calls() -> None:
    for call, names in NAMES.items():
        for each in names:
            assert KINDS[call][each.path] == "path", call
            assert each.folder == CWD or KINDS[call][each.folder] == "dirfd", call


@pytest.mark.parametrize(
    ("use", "flags"),
    [
        ("read", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC),
        ("read", os.O_PATH),
        ("written", os.O_WRONLY),
        ("written", os.O_RDWR | os.O_APPEND),
        ("written", os.O_RDONLY | os.O_TRUNC),
        ("written", os.O_TMPFILE | os.O_RDWR),
        ("created", os.O_WRONLY | os.O_CREAT | os.O_EXCL),
    ],
)
def test_what_an_open_does_its_flags_say(use: str, flags: int) -> None:
    assert decide_use(flags) == use


def test_what_is_created_where_it_is_already_is_written() -> None:
    assert settle_use("created", True) == "written"
    assert settle_use("created", False) == "created"
    assert settle_use("read", False) == "missing"
    assert settle_use("read", None) == "read"


def test_paths_are_joined_without_detours() -> None:
    assert join_path("/a/b", "../c/./d") == "/a/c/d"
    assert join_path("/a", "/b") == "/b"
    assert join_path("", "b") == "/b"
    assert join_path("/", "../..") == "/"


def test_the_nearest_mount_is_the_one() -> None:
    targets = ("/data", "/data/in", "/dat")
    assert find_mount("/data/in/x", targets) == "/data/in"
    assert find_mount("/data/inner", targets) == "/data"
    assert find_mount("/database", targets) is None


def test_of_what_is_missing_little_is_proposed() -> None:
    missing = ["/opt/a", "/opt/a/b", "/usr/share/x", "/proc/1", "/", "/home/me/.config"]
    assert propose_volumes(missing) == ["/home/me/.config", "/opt/a"]


def test_a_mount_is_used_by_what_lies_in_it_alone() -> None:
    learned = Learned("default", "x86_64")
    learned.paths = {"read": {"/a/b/x"}, "written": {"/a/y"}, "missing": {"/c/x"}}
    targets = ("/a", "/a/b", "/c")
    assert find_uses("/a", targets, learned) == {"written"}
    assert find_uses("/a/b", targets, learned) == {"read"}
    assert find_uses("/c", targets, learned) == set()


@pytest.mark.parametrize(
    ("needs", "network"),
    [
        (False, set()),
        (False, {"unix /run/x", "bind unix /run/y", "unix @abstract"}),
        (True, {"tcp 127.0.0.1:80"}),
        (True, {"bind tcp 0.0.0.0:80"}),
        (True, {"tcp 192.0.2.1:80"}),
        (True, {"dns example.org"}),
    ],
)
def test_a_network_is_for_who_speaks_to_somebody_else(needs: bool, network: set[str]) -> None:
    assert needs_network(Learned("default", "x86_64", network=network)) is needs


def test_a_command_can_be_given_to_a_shell() -> None:
    assert make_command(["-e A=b c", "--read-only"], "my.toml", ["echo", "it's"]) == (
        """jail run --seccomp my.toml -e 'A=b c' --read-only -- echo 'it'"'"'s'"""
    )
    assert make_command([], "", ["true"]) == "jail run --seccomp FILE -- true"
    assert make_command([], "mine", ["true"]) == "jail run --seccomp ./mine -- true"


class Large(ctypes.Structure):
    """Goes over the stack when it is passed by its value."""

    _fields_ = [("bytes", ctypes.c_ubyte * 512)]


def test_memory_is_read_whatever_lies_on_the_stack() -> None:
    """The sixth argument of a call lies there, as wide as a register."""
    text = ctypes.create_string_buffer(b"a text", PAGE_BYTES)
    ones = Large((ctypes.c_ubyte * 512)(*[255] * 512))
    for _ in range(20):
        ctypes.PyDLL(None).abs(0, ones)
        assert read_bytes(os.getpid(), ctypes.addressof(text), 6) == b"a text"


@given(st.binary(max_size=2 * PAGE_BYTES).map(lambda data: data.replace(b"\0", b"x")))
def test_a_text_ends_with_its_nul_or_a_page(data: bytes) -> None:
    text = ctypes.create_string_buffer(data)
    reader = TextReader()
    read = reader.read(os.getpid(), ctypes.addressof(text))
    assert read[:PAGE_BYTES] == data[:PAGE_BYTES] and len(read) < PAGE_BYTES + 256


def test_where_nothing_is_nothing_is_read() -> None:
    reader = TextReader()
    for address in (0, 1, 2**47 - 1, 2**63, 2**64 - 1):
        assert reader.read(os.getpid(), address) == b""
    assert reader.read(2**22 + 1, 4096) == b""
