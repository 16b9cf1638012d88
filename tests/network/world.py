"""The tests' own internet, made without root: see ``place.py`` for who lives where in it.

A *world* is a user namespace with two network namespaces and a cable between them. In one all the
servers are, in the other ``jail`` runs, as the same unprivileged user as ever: whoever enters
gets rid of his capabilities with the next execve(2), his id not being 0.

There are two kinds. In a ``single`` one only that user exists, so jails have one id; in one of
``subuid`` the user's subordinate ids are the other users, root too, with a newuidmap that works.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from jail.host import read_facts
from tests.command import PATIENCE_S, Done
from tests.network.certificates import make_certificates
from tests.network.place import CERTIFIED, Reply

CHECKOUT: Final = Path(__file__).resolve().parents[2]
CLIENT: Final = str(Path(__file__).with_name("client.py"))
PYTHON: Final = "/usr/bin/python3"
WITH_CLIENT: Final = ("-v", f"{CLIENT}:{CLIENT}:ro")
START: Final = ("unshare", "-U", "--keep-caps", "-n", "-m", "-p", "--fork", "--kill-child")
FIRST_SUBID: Final = 2000
"""in a world with subordinate ids, the first that its user may give to jails"""
MAX_MESSAGE_BYTES: Final = 1 << 20


class Visit(NamedTuple):
    """How it went: ``error`` is an errno's name, or a word for what has none."""

    error: str | None
    said: Any
    elapsed_s: float


class World:
    """One that is there. ``authority`` is the file of its certificates' authority."""

    def __init__(
        self, kind: str, folder: Path, control: socket.socket, pids: dict[str, int]
    ) -> None:
        self.kind, self.folder = kind, folder
        self.authority, self.files = folder / "authority.pem", folder / "files"
        self._control, self._pids = control, pids

    def enter(self, argv: Sequence[str], place: str = "uplink") -> list[str]:
        """``argv`` on the host that runs jails (or among ``hosts``), in the checkout."""
        nsenter = ["nsenter", "-t", str(self._pids[place]), "-U", "-n", "-m"]
        return [*nsenter, "--preserve-credentials", "env", "-C", str(CHECKOUT), *argv]

    def run(
        self,
        *argv: str,
        stdin: bytes | None = None,
        timeout_s: float = PATIENCE_S,
        place: str = "uplink",
    ) -> Done:
        """There, without a jail."""
        done = subprocess.run(
            self.enter(argv, place),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr.decode(errors="replace"))

    def run_jail(
        self, *words: str, stdin: bytes | None = None, timeout_s: float = PATIENCE_S
    ) -> Done:
        """``jail run WORDS…`` there."""
        return self.run(
            sys.executable, "-m", "jail", "run", *words, stdin=stdin, timeout_s=timeout_s
        )

    def visit(
        self,
        *words: str,
        jail: Sequence[str] | None = None,
        patience_s: float = 8,
        place: str = "uplink",
    ) -> Visit:
        """What ``client.py WORDS`` tells, in a jail with those options, or without one."""
        argv = ("env", f"TIMEOUT_S={patience_s}", PYTHON, CLIENT, *words)
        if jail is None:
            done = self.run(*argv, place=place)
        else:
            done = self.run_jail(*WITH_CLIENT, *jail, "--", *argv)
        assert done.status == 0 and done.stdout, done
        return Visit(**json.loads(done.stdout))

    @contextmanager
    def start_jail(self, *words: str) -> Iterator[subprocess.Popen[bytes]]:
        """``jail run WORDS…`` there, while it lives."""
        argv = self.enter([sys.executable, "-m", "jail", "run", *words])
        pipe = subprocess.PIPE
        with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe) as process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.kill()

    def script(self, name: str, *replies: Reply) -> None:
        """What the resolver says to the next queries for that name; the last one stays."""
        self._tell({"do": "script", "name": name, "replies": replies})

    def read_asked(self) -> list[dict[str, Any]]:
        """The queries that any resolver had: name, type, server, protocol."""
        asked: list[dict[str, Any]] = self._tell({"do": "asked"})
        return asked

    def read_seen(self) -> list[dict[str, Any]]:
        """What servers saw: connections, datagrams, and requests with their names."""
        seen: list[dict[str, Any]] = self._tell({"do": "seen"})
        return seen

    def forget(self) -> None:
        """Answers as on the map, nothing seen."""
        self._tell({"do": "forget"})

    def _tell(self, order: dict[str, Any]) -> Any:
        self._control.send(json.dumps(order).encode())
        return json.loads(self._control.recv(MAX_MESSAGE_BYTES))


@contextmanager
def open_world(kind: str, folder: Path) -> Iterator[World]:
    """Everything in it ends with the block, or with this process."""
    make_certificates(folder, CERTIFIED)
    (folder / "files").mkdir()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(PATIENCE_S)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MAX_MESSAGE_BYTES)
    ground = [sys.executable, "-m", "tests.network.ground", str(folder), str(theirs.fileno())]
    with ours, subprocess.Popen([*START, *ground], pass_fds=[theirs.fileno()]) as process:
        theirs.close()
        try:
            wait_for_namespace(process.pid)
            subids = map_ids(kind, process.pid)
            ours.send(json.dumps({"subids": subids}).encode())
            pids = json.loads(ours.recv(MAX_MESSAGE_BYTES))
            yield World(kind, folder, ours, pids)
        finally:
            ours.shutdown(socket.SHUT_RDWR)
            process.wait(PATIENCE_S)


def wait_for_namespace(pid: int) -> None:
    own, deadline = os.readlink("/proc/self/ns/user"), time.monotonic() + PATIENCE_S
    while os.readlink(f"/proc/{pid}/ns/user") == own:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def map_ids(kind: str, pid: int) -> str:
    """The user keeps his id. The contents of the world's /etc/subuid are returned."""
    uid, gid = os.getuid(), os.getgid()
    if kind == "single":
        for name, text in (("setgroups", "deny"), ("uid", uid), ("gid", gid)):
            where = name if name == "setgroups" else f"{name}_map"
            Path(f"/proc/{pid}/{where}").write_text(text if text == "deny" else f"{text} {text} 1")
        return ""
    facts = read_facts()
    for tool, own, ranges in (
        ("newuidmap", uid, facts.subuids),
        ("newgidmap", gid, facts.subgids),
    ):
        first, count = ranges[0].start, ranges[0].count
        above = [own + 1, first + own, count - own]
        numbers = [0, first, own, own, own, 1, *above]
        subprocess.run([tool, str(pid), *map(str, numbers)], check=True)
    return f"{uid}:{FIRST_SUBID}:{facts.subuids[0].count - FIRST_SUBID}\n"
