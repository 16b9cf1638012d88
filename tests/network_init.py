"""What a network helper is attached to: the init of a jail that waits for its plan."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import trio

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
    """Its pid; it is a zygote's child, as a jail's is, with the ids of one. With those of ``root``
    there is a user namespace around it where the user is 0.
    """
    facts = read_facts()
    async with open_launcher(facts, ids, ()) as launcher:
        own = (0, 0) if ids == "root" else (facts.uid, facts.gid)
        single = make_single(*own, PROGRAM_IDS)
        id_map = make_slice(3, PROGRAM_IDS, None) if ids == "subuid" else single
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
    server = [sys.executable, "-m", "http.server", "--directory", "/var/empty", "--bind", "::"]
    process = subprocess.Popen([*enter, *server, str(port)], stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def find_port() -> int:
    """One that nobody has."""
    with socket.create_server(("0.0.0.0", 0)) as server:
        return int(server.getsockname()[1])


def answers(port: int, host: str = "127.0.0.1") -> bool:
    """Whether somebody speaks HTTP there."""
    try:
        with socket.create_connection((host, port), timeout=2) as stream:
            stream.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return stream.recv(8) == b"HTTP/1.0"
    except OSError:
        return False


async def curl_in(pid: int, url: str) -> str:
    """The status of an answer, 000 for none."""
    words = ("curl", "-s", "-g", "-m", "2", "-o", "/dev/null", "-w", "%{http_code}", url)
    return await trio.to_thread.run_sync(lambda: run_in(pid, *words))


async def open_and_be_killed(opening: str, pid: int) -> None:
    """A supervisor of its own evaluates ``opening``, an ``open_…(…, pid, …)``, and is killed while
    its helper has stopped; until that is dead, too.
    """
    code = f"""
import os, signal, sys, trio
from pathlib import Path
from jail.network.pasta import open_pasta
from jail.network.slirp4netns import open_slirp4netns
async def main():
    pid = int(sys.argv[1])
    async with {opening} as helper:
        os.kill(helper.pid, signal.SIGSTOP)
        print(helper.pid, flush=True)
        await trio.sleep_forever()
trio.run(main)
"""
    child = subprocess.Popen([sys.executable, "-c", code, str(pid)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    try:
        helper = int(await trio.to_thread.run_sync(child.stdout.readline))
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    await wait_until(lambda: is_dead(helper), "the helper's end")


def is_dead(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def read_status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)
