"""What a network helper is attached to: the init of a jail that waits for its plan."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from jail.host import read_facts
from jail.idmap import make_single, make_slice
from jail.kernel import process
from jail.launcher import open_launcher
from tests.sight import wait_until

PROGRAM_IDS = (1000, 1000)
FLAGS = (
    process.CLONE_NEWUSER | process.CLONE_NEWNS | process.CLONE_NEWPID | process.CLONE_NEWNET
    | process.CLONE_NEWIPC | process.CLONE_NEWUTS
)  # fmt: skip


@asynccontextmanager
async def open_init(ids: str) -> AsyncGenerator[int, None]:
    """Its pid; it is a zygote's child, as a jail's is, with the ids of one."""
    facts = read_facts()
    async with open_launcher(facts, ids, ()) as launcher:
        single = make_single(facts.uid, facts.gid, PROGRAM_IDS)
        id_map = single if ids == "single" else make_slice(3, PROGRAM_IDS, None)
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                born = await launcher.clone(1, FLAGS, id_map, theirs)
            try:
                yield born.pid
            finally:
                os.close(born.pidfd)
                if born.leaf is not None:
                    born.leaf.close()


@asynccontextmanager
async def open_namespaces() -> AsyncGenerator[int, None]:
    """The pid of somebody in a user and network namespace of their own, without a zygote."""
    process = subprocess.Popen(["unshare", "-Urn", "sleep", "60"])
    link = f"/proc/{process.pid}/ns/net"
    try:
        own = os.readlink("/proc/self/ns/net")
        comm = Path(f"/proc/{process.pid}/comm")
        await wait_until(
            lambda: os.readlink(link) != own and comm.read_text() == "sleep\n", "a namespace"
        )
        yield process.pid
    finally:
        process.kill()
        process.wait()


def run_in(pid: int, *argv: str) -> str:
    """What a program says that runs in the network namespace of ``pid``."""
    enter = ["nsenter", f"--target={pid}", "--user", "--net", "--preserve-credentials"]
    done = subprocess.run([*enter, *argv], capture_output=True, text=True, timeout=20)
    return done.stdout + done.stderr


@contextmanager
def serve_in(pid: int, port: int) -> Iterator[None]:
    """An HTTP server there, on every address."""
    enter = ["nsenter", f"--target={pid}", "--user", "--net", "--preserve-credentials"]
    server = [sys.executable, "-m", "http.server", "--bind", "::", str(port)]
    process = subprocess.Popen(
        [*enter, *server],
        stderr=subprocess.DEVNULL,
        cwd="/var/empty" if os.path.isdir("/var/empty") else "/",
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()
