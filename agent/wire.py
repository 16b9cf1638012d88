"""The messages between a supervisor and its agent, and how they are framed.

A frame is four bytes of length, big-endian, and a msgpack array: the message's name, then its
fields in order. File descriptors ride on a frame's first byte (SCM_RIGHTS, unix(7)); each
kind of message brings a fixed number of them (:data:`FDS`). Requests are
imperative, facts past.

Both sides check everything: the other one may be hostile.
"""

from __future__ import annotations

import array
import os
import socket
import struct
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgpack

HEADER: Final = struct.Struct(">I")
MAX_FRAME_BYTES: Final = 4 * 1024 * 1024
MAX_FDS: Final = 8
RECEIVE_BYTES: Final = 64 * 1024
ANCILLARY_BYTES: Final = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)
PROTOCOL_VERSION: Final = 1
REFUSED: Final = "refused"


class WireError(Exception):
    """The peer sent something that is no message."""


class TruncatedError(WireError):
    """Descriptors found no room in our own table: unix(7), MSG_CTRUNC. Not the peer's fault."""


class Setup(NamedTuple):
    """The first frame to init: what to build (``jail.launchplan.LaunchPlan.to_wire``)."""

    version: int
    plan: dict[str, Any]


class Exec(NamedTuple):
    """Start a program as run number ``run``; fds: its stdin, stdout and stderr.

    ``rlimits`` are (resource, soft, hard) for it alone.
    """

    run: int
    argv: list[str]
    env: dict[str, str]
    cwd: str
    rlimits: list[list[int]]


class ExecTerminal(NamedTuple):
    """As Exec, on a pseudo-terminal of the jail's own, of ``rows`` by ``columns``."""

    run: int
    argv: list[str]
    env: dict[str, str]
    cwd: str
    rlimits: list[list[int]]
    rows: int
    columns: int


class KillTree(NamedTuple):
    """Kill a run and who is of no run's family, while other runs and their families go on."""

    run: int


class OpenFile(NamedTuple):
    """Open a regular file as the program's user: to ``write`` (made or emptied) or to read."""

    request: int
    path: str
    write: bool
    mode: int


class MakeDir(NamedTuple):
    """Make a directory and its parents; one that is there is fine."""

    request: int
    path: str
    mode: int


class MakeLink(NamedTuple):
    """Make a symbolic link."""

    request: int
    path: str
    target: str


class ListDir(NamedTuple):
    """List a directory without following it."""

    request: int
    path: str


class Ready(NamedTuple):
    """The jail is built and everything dropped.

    What that took of the jail's cgroup, 0 without one: ``cpu_us``, of it ``system_us``, and
    ``memory_bytes``. fds: the jail's /proc, its scratch tmpfs, and the list of its System V
    shared memory.
    """

    version: int
    cpu_us: int
    system_us: int
    memory_bytes: int


class Listening(NamedTuple):
    """What a filter refuses is told to this: seccomp_unotify(2); fd: the listener.

    Of the filter that every program of the jail inherits (run 0), right behind Ready; or of the
    one that is this run's alone, before its Started. There is none where the kernel gives none.
    """

    run: int


class Gated(NamedTuple):
    """Right behind Ready, where the network leads to the supervisor; fds: its sockets inside.

    Listeners, datagram and raw sockets, IPv4's and IPv6's of each, and that of the log of held
    connections.
    """


class SetupFailed(NamedTuple):
    """Init gave up at ``step``; nothing untrusted has run.

    At :data:`REFUSED` it was no step that failed: ``detail`` says what can't be as asked.
    """

    step: str
    errno: int
    detail: str


class Started(NamedTuple):
    """The program has been executed; fd: its pidfd."""

    run: int
    pid: int


class StartedTerminal(NamedTuple):
    """As Started; fds: its pidfd and the terminal's master side."""

    run: int
    pid: int


class NotStarted(NamedTuple):
    """The program could not be executed."""

    run: int
    errno: int
    detail: str


class Refused(NamedTuple):
    """What the run was refused, right before its Exited, where the agent traces its programs.

    Of each call that was: its number, the errno, how often, and the six arguments of the first
    time as signed words.
    """

    run: int
    calls: list[list[int]]


class Exited(NamedTuple):
    """The run's first process was reaped, and what it left was killed if it was the last run.

    Times in microseconds and the greatest single resident set in KiB, of the first process and
    of the children it waited for; ``switches`` are its involuntary context switches.
    """

    run: int
    status: int
    cpu_us: int
    maxrss_kib: int
    switches: int


class Opened(NamedTuple):
    """The answer to OpenFile; fd: the file."""

    request: int


class Listed(NamedTuple):
    """The answer to ListDir: [name, st_mode, target of a link or ""]."""

    request: int
    entries: list[list[Any]]


class Done(NamedTuple):
    """The request was carried out."""

    request: int


class Failed(NamedTuple):
    """The request was not carried out."""

    request: int
    errno: int
    detail: str


REQUESTS: Final[dict[str, Any]] = {
    each.__name__: each
    for each in (Setup, Exec, ExecTerminal, KillTree, OpenFile, MakeDir, MakeLink, ListDir)
}
FACTS: Final[dict[str, Any]] = {
    each.__name__: each
    for each in (
        Ready,
        Listening,
        Gated,
        SetupFailed,
        Started,
        StartedTerminal,
        NotStarted,
        Refused,
        Exited,
        Opened,
        Listed,
        Done,
        Failed,
    )
}


FDS: Final[dict[type[Any], int]] = {
    Exec: 3,
    Ready: 3,
    Listening: 1,
    Gated: 7,
    Started: 1,
    StartedTerminal: 2,
    Opened: 1,
}
"""How many descriptors a message brings, where it brings any."""


def _is_int(value: object) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63


def _is_str(value: object) -> bool:
    return type(value) is str


def _is_list_of(check: Any) -> Any:
    return lambda value: type(value) is list and all(map(check, value))


def _is_entry(value: object) -> bool:
    return (
        type(value) is list
        and len(value) == 3
        and _is_str(value[0])
        and _is_int(value[1])
        and _is_str(value[2])
    )


CHECKS: Final[dict[str, Any]] = {
    "int": _is_int,
    "str": _is_str,
    "bool": lambda value: type(value) is bool,
    "list[str]": _is_list_of(_is_str),
    "list[list[int]]": _is_list_of(_is_list_of(_is_int)),
    "list[list[Any]]": _is_list_of(_is_entry),
    "dict[str, str]": lambda value: (
        type(value) is dict and all(_is_str(k) and _is_str(v) for k, v in value.items())
    ),
    "dict[str, Any]": lambda value: type(value) is dict and all(map(_is_str, value)),
}
"""By annotation: exact types, so that True is no number and a list no text."""


def pack_frame(message: Any) -> bytes:
    """The whole frame; WireError when it is too large to be taken."""
    body: bytes = msgpack.packb(
        [type(message).__name__, *message], unicode_errors="surrogateescape"
    )
    if len(body) > MAX_FRAME_BYTES:
        raise WireError(f"a message of {len(body)} bytes; {MAX_FRAME_BYTES} is the most")
    return HEADER.pack(len(body)) + body


def unpack_body(body: bytes, known: dict[str, Any]) -> Any:
    """A message of one of the ``known`` kinds, every field of exactly the declared type."""
    try:
        array_ = msgpack.unpackb(
            body,
            unicode_errors="surrogateescape",
            strict_map_key=True,
            object_pairs_hook=_make_map,
            ext_hook=_refuse_ext,
            timestamp=0,
        )
    except Exception as error:  # msgpack raises a dozen unrelated kinds
        raise WireError(f"not msgpack: {type(error).__name__}") from None
    if type(array_) is not list or not array_ or type(array_[0]) is not str:
        raise WireError("not a message")
    kind = known.get(array_[0])
    if kind is None:
        raise WireError(f"unknown message {array_[0][:40]!r}")
    return make_message(kind, array_[1:])


def make_message(kind: Any, values: Sequence[Any]) -> Any:
    """``kind(*values)`` after checking number and types."""
    annotations = {k: v for k, v in kind.__annotations__.items() if k in kind._fields}
    if len(values) != len(annotations):
        raise WireError(f"{kind.__name__}: {len(values)} fields")
    for (name, annotation), value in zip(annotations.items(), values, strict=True):
        text = getattr(annotation, "__forward_arg__", annotation)
        if not CHECKS[text](value):
            raise WireError(f"{kind.__name__}.{name}: not {text}")
    return kind(*values)


def _make_map(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise WireError("a key twice")
    return made


def _refuse_ext(code: int, data: bytes) -> Any:
    raise WireError(f"extension type {code}")


class FrameBuffer:
    """Bytes and file descriptors in, messages out; owns the descriptors until they are taken."""

    def __init__(self, known: dict[str, Any]) -> None:
        self._known = known
        self._bytes = bytearray()
        self._fds: deque[int] = deque()

    def feed(self, data: bytes, ancillary: Sequence[tuple[int, int, bytes]], flags: int) -> None:
        """What one ``recvmsg`` of :data:`ANCILLARY_BYTES` brought."""
        fds = array.array("i")
        for level, kind, raw in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(raw[: len(raw) - len(raw) % fds.itemsize])
        self._fds.extend(fds)
        is_cut = bool(flags & socket.MSG_CTRUNC)
        if is_cut and len(fds) < MAX_FDS:
            raise TruncatedError("no room for more file descriptors")
        if is_cut or len(self._fds) > MAX_FDS:
            raise WireError("more file descriptors than any message brings")
        self._bytes += data

    def take(self) -> tuple[Any, list[int]] | None:
        """The next whole message and its fds, or None until more has come."""
        if len(self._bytes) < HEADER.size:
            return None
        (size,) = HEADER.unpack_from(self._bytes)
        if size > MAX_FRAME_BYTES:
            raise WireError(f"a frame of {size} bytes")
        end = HEADER.size + size
        if len(self._bytes) < end:
            return None
        body = bytes(self._bytes[HEADER.size : end])
        del self._bytes[:end]
        message = unpack_body(body, self._known)
        count = FDS.get(type(message), 0)
        if len(self._fds) < count:
            raise WireError(f"{type(message).__name__}: file descriptors missing")
        # A later frame's come with its first byte, so with none left all of these are this one's.
        if len(self._fds) > count and not self._bytes:
            raise WireError(f"{type(message).__name__}: more file descriptors than it brings")
        return message, [self._fds.popleft() for _ in range(count)]

    def close(self) -> None:
        """Close what nobody took."""
        while self._fds:
            os.close(self._fds.popleft())


def send_with_fds(sock: socket.socket, frame: bytes, fds: Sequence[int]) -> None:
    """Blocking: the whole frame, the fds on its first byte."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sent = sock.sendmsg([frame], rights)
    if sent < len(frame):
        sock.sendall(memoryview(frame)[sent:])
