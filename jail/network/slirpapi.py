"""slirp4netns is told of ports over a socket: one connection a command, JSON both ways."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

import trio

from jail.check import show
from jail.errors import HelperError, HostError
from jail.network.publish import Publish

ANSWER_TIMEOUT_S: Final = 5.0
MAX_ANSWER_BYTES: Final = 4096
MAX_PATH_BYTES: Final = 107
"""unix(7): 108 with the NUL that ends it"""


def make_socket_path(directory: Path, pid: int) -> Path:
    """Where the socket of the jail whose init is ``pid`` lies; HostError if that is too long."""
    path = directory / f"slirp-{pid}.sock"
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise HostError(
            f"{path} is too long for the path of a socket",
            step="runtime dir",
            remedy="Set XDG_RUNTIME_DIR to a directory with a shorter name.",
        )
    path.unlink(missing_ok=True)  # of one that was killed with this number
    return path


def make_request(publish: Publish) -> bytes:
    """The command that publishes a port."""
    arguments = {
        "proto": publish.protocol,
        "host_addr": publish.ip or "0.0.0.0",
        "host_port": publish.host_port,
        "guest_port": publish.jail_port,
    }
    return json.dumps({"execute": "add_hostfwd", "arguments": arguments}).encode()


def check_answer(publish: Publish, answer: bytes) -> None:
    """``{"return": {"id": 1}}``, or HostError with what it says."""
    try:
        said = json.loads(answer)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict) or not {"return", "error"} & set(said):
        raise HelperError(f"publish {publish}: slirp4netns answers {show(answer)}")
    if "return" not in said:
        raise HostError(f"publish {publish}: slirp4netns: {_describe(said)}", step="publish")


async def forward_ports(path: Path, publishes: tuple[Publish, ...]) -> None:
    """All of them, one after the other."""
    for each in publishes:
        check_answer(each, await _ask(path, each))


async def _ask(path: Path, publish: Publish) -> bytes:
    answer = b""
    try:
        with trio.fail_after(ANSWER_TIMEOUT_S):
            async with await _connect(path) as stream:
                await stream.send_all(make_request(publish))
                await stream.send_eof()
                async for data in stream:
                    answer += data
                    if len(answer) > MAX_ANSWER_BYTES:
                        break
    except trio.TooSlowError:
        raise HelperError(f"publish {publish}: no answer of slirp4netns") from None
    except (OSError, trio.BrokenResourceError) as error:
        raise HelperError(f"publish {publish}: slirp4netns: {error}") from error
    return answer


async def _connect(path: Path) -> trio.SocketStream:
    """An old one is ready before it listens."""
    while True:
        try:
            return await trio.open_unix_socket(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            await trio.sleep(0.005)


def _describe(said: dict[str, Any]) -> str:
    error = said["error"]
    return str(error.get("desc", error) if isinstance(error, dict) else error)[:200]
