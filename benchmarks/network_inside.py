"""The half of :mod:`benchmarks.network` that runs on the host that runs jails; prints samples."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import (
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from typing import Any, Final

import trio

import jail
from tests.network.place import ECHO, SITE

MTU: Final = "65520"
OURS: Final = ("pasta", "slirp4netns", "filtered")
PASTA_CLOSED: Final = ("--no-map-gw", *(w for o in "tTuU" for w in (f"-{o}", "none")))
"""as our own mode has it: nothing of the host's loopback"""
IPERF_S: Final = "1"
CONNECTS: Final = 150
AT_ONCE: Final = 20
"""that are opened or used at the same time, of those that live"""
PYTHON: Final = "/usr/bin/python3"
CONNECT: Final = """
import json, socket, statistics, sys, time
where, count = (sys.argv[1], int(sys.argv[2])), int(sys.argv[3])
times, began = [], time.perf_counter()
for _ in range(count):
    a = time.perf_counter()
    with socket.create_connection(where) as connection:
        times.append(time.perf_counter() - a)
        connection.sendall(b"x")
        connection.recv(1)
print(json.dumps([statistics.median(times or [0]) * 1e6, count / (time.perf_counter() - began)]))
"""

Run = Callable[[list[str]], Awaitable[bytes]]
"""a program in one network, to its output"""
Samples = dict[str, dict[str, list[float]]]


def options_of(network: str) -> dict[str, Any]:
    rules = {"allow": [SITE]} if network == "filtered" else {}
    return {"network": network, **rules}


async def measure(rounds: int, jails: int, ours: list[str]) -> dict[str, Any]:
    samples: Samples = {}
    async with AsyncExitStack() as stack:
        supervisor = await stack.enter_async_context(jail.open_supervisor())
        async with open_networks(supervisor, ours) as networks:
            for index in range(rounds + 1):
                names = list(networks)
                turn = index % len(names)  # nobody is always the first, or behind the same one
                for name in names[turn:] + names[:turn]:
                    for measured, value in (await use(networks[name], name)).items():
                        note(samples, measured, name, value, index)
        for index in range(rounds + 1):
            for network in ("none", *ours):
                note(samples, "set-up", network, await time_jail(supervisor, network), index)
            for name, open_alone in HELPERS.items():
                note(samples, "start", name, time_start(open_alone), index)
        at_once = {each: await crowd(supervisor, each, jails) for each in ("none", *ours)}
    return {"samples": samples, "at once": at_once}


def note(samples: Samples, measured: str, name: str, value: float, index: int) -> None:
    """The first of each warms up."""
    values = samples.setdefault(measured, {}).setdefault(name, [])
    if index:
        values.append(value)


# -- bytes and connections ------------------------------------------------------------------------


async def use(run: Run, name: str) -> dict[str, float]:
    server = "127.0.0.1" if name == "loopback" else SITE
    found = {}
    for way, words in (("up", []), ("down", ["--reverse"])):
        out = await run(["iperf3", "-c", server, "-t", IPERF_S, "--json", *words])
        found[way] = json.loads(out)["end"]["sum_received"]["bits_per_second"] / 1e9
    port = ECHO if server == SITE else 7777
    out = await run([PYTHON, "-c", CONNECT, server, str(port), str(CONNECTS)])
    found["connect"], found["connections"] = json.loads(out)
    return found


@asynccontextmanager
async def open_networks(
    supervisor: jail.Supervisor, ours: list[str]
) -> AsyncIterator[dict[str, Run]]:
    """All of them at once, idle but for the one that is measured."""
    async with AsyncExitStack() as stack:
        networks: dict[str, Run] = {"loopback": run_bare, "veth": run_bare}
        for name, open_alone in HELPERS.items():
            networks[name] = stack.enter_context(open_alone())
        for name in ours:
            living = await stack.enter_async_context(supervisor.open_jail(**options_of(name)))
            networks[name] = run_in(living)
        yield networks


async def run_bare(argv: list[str]) -> bytes:
    done = await trio.run_process(argv, capture_stdout=True)
    return done.stdout


def run_in(living: jail.Jail) -> Run:
    async def run(argv: list[str]) -> bytes:
        return check(await living.run(argv)).stdout

    return run


def check(result: jail.Result) -> jail.Result:
    """A benchmark of failures measures nothing."""
    if not result.ok:
        raise SystemExit(f"{result.verdict}: {result.message} {result.stderr!r}")
    return result


# -- the helpers by themselves --------------------------------------------------------------------


@contextmanager
def open_namespace() -> Iterator[int]:
    """The pid of somebody in a new user and network namespace."""
    argv = ["unshare", "-Urn", "sh", "-c", "echo; exec sleep 100000"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        holder.stdout.readline()
        try:
            yield holder.pid
        finally:
            holder.kill()


@contextmanager
def open_pasta() -> Iterator[Run]:
    """It writes its pid when it is ready."""
    with tempfile.TemporaryDirectory(prefix="jail-network-") as folder, open_namespace() as pid:
        os.mkfifo(f"{folder}/pid")
        told_fd = os.open(f"{folder}/pid", os.O_RDWR)
        argv = ["pasta", "--config-net", "--quiet", "--foreground", "--mtu", MTU, *PASTA_CLOSED]
        argv += ["--pid", f"{folder}/pid", str(pid)]
        with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as helper:
            yield from until_left(helper, pid, told_fd)


@contextmanager
def open_slirp() -> Iterator[Run]:
    told_fd, tell_fd = os.pipe()
    argv = ["slirp4netns", "--configure", "--mtu", MTU, "--disable-host-loopback", "--enable-ipv6"]
    argv += ["--enable-sandbox", "--enable-seccomp", "--ready-fd", str(tell_fd)]
    with open_namespace() as pid:
        null = subprocess.DEVNULL
        argv += [str(pid), "tap0"]
        with subprocess.Popen(argv, pass_fds=[tell_fd], stdout=null, stderr=null) as helper:
            os.close(tell_fd)
            yield from until_left(helper, pid, told_fd)


def until_left(helper: subprocess.Popen[bytes], pid: int, told_fd: int) -> Iterator[Run]:
    """From when it says that it is ready."""
    enter = ["nsenter", "-t", str(pid), "-U", "-n", "--preserve-credentials"]

    async def run(argv: list[str]) -> bytes:
        return await run_bare([*enter, *argv])

    try:
        if not os.read(told_fd, 32):
            raise SystemExit(f"{helper.args!r} does not start")
        os.close(told_fd)
        yield run
    finally:
        helper.kill()


HELPERS: Final = {"pasta alone": open_pasta, "slirp4netns alone": open_slirp}


# -- set-up ---------------------------------------------------------------------------------------


async def time_jail(supervisor: jail.Supervisor, network: str) -> float:
    """Milliseconds from request to a program's result, the end of the jail left out."""
    began = time.perf_counter()
    async with supervisor.open_jail(**options_of(network)) as living:
        check(await living.run(["/bin/true"]))
        return (time.perf_counter() - began) * 1000


def time_start(open_alone: Callable[[], AbstractContextManager[Run]]) -> float:
    """Milliseconds until it is ready, the making of the namespace left out."""
    with open_namespace():
        pass
    began = time.perf_counter()
    with open_namespace():
        bare = time.perf_counter() - began
    began = time.perf_counter()
    with open_alone():
        whole = time.perf_counter() - began
    return (whole - bare) * 1000


async def crowd(supervisor: jail.Supervisor, network: str, count: int) -> dict[str, float]:
    """So many jails; nobody leaves before the last has been served."""
    began, served = time.perf_counter(), trio.Event()
    left, limit = [count], trio.CapacityLimiter(AT_ONCE)
    connects = "1" if network != "none" else "0"
    argv = [PYTHON, "-c", CONNECT, SITE, str(ECHO), connects]

    async def live() -> None:
        async with AsyncExitStack() as stack:
            async with limit:
                opening = supervisor.open_jail(**options_of(network))
                living = await stack.enter_async_context(opening)
                check(await living.run(argv))
            left[0] -= 1
            if not left[0]:
                served.set()
            await served.wait()

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(live)
    return {"jails": count, "s": time.perf_counter() - began}


def main() -> None:
    rounds, jails, *networks = sys.argv[1:]
    print(json.dumps(trio.run(measure, int(rounds), int(jails), networks or list(OURS))))


if __name__ == "__main__":
    main()
