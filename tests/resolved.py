"""``python -m tests.resolved COMMAND…``: runs it where our resolver is the only name server.

In namespaces of its own (``unshare -Urnm``), with an allow-list of ``*.example.org`` and a name
server behind it that knows a few names, at a link-local address as routers announce them. Prints
what came of it, as JSON.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
import time
from typing import Any, Final

import trio

from tests.desk import Desk, open_desk
from tests.name_server import NameServer, make_zone, open_name_server

ZONE: Final = make_zone(
    www_example_org="A 198.51.100.7; AAAA 2001:470::7",
    inside_example_org="A 198.51.100.8; AAAA fd00::8",
    many_example_org=";".join(f"A 198.51.100.{n}" for n in range(60)),
)
OUTSIDE: Final = "fe80::1%lo"
HERE: Final = ("127.0.0.1", 53)


async def main(argv: list[str]) -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["ip", "address", "add", "fe80::1/64", "dev", "lo"], check=True)
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
        file.write("nameserver 127.0.0.1\n")
        file.flush()
        subprocess.run(["mount", "--bind", file.name, "/etc/resolv.conf"], check=True)
        async with open_name_server(ZONE, host=OUTSIDE) as server, trio.open_nursery() as nursery:
            desk = open_desk(server.address, allow=["*.example.org"])
            await nursery.start(serve_datagrams, desk)
            listeners = await trio.open_tcp_listeners(HERE[1], host=HERE[0])
            nursery.start_soon(trio.serve_listeners, desk.resolver.serve_stream, listeners)
            print(json.dumps(await run(argv, desk, server)))
            nursery.cancel_scope.cancel()


async def serve_datagrams(desk: Desk, task_status: trio.TaskStatus[None]) -> None:
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        await sock.bind(HERE)
        task_status.started()
        while True:
            packet, source = await sock.recvfrom(65535)
            if (reply := await desk.resolver.answer(packet)) is not None:
                await sock.sendto(reply, source)


async def run(argv: list[str], desk: Desk, server: NameServer) -> dict[str, Any]:
    before = time.monotonic()
    done = await trio.run_process(argv, capture_stdout=True, capture_stderr=True, check=False)
    return {
        "status": done.returncode,
        "stdout": done.stdout.decode(),
        "stderr": done.stderr.decode(),
        "wall_time_s": time.monotonic() - before,
        "told": [[each.name, each.type, each.allowed] for each in desk.told],
        "asked": server.asked,
    }


if __name__ == "__main__":
    trio.run(main, sys.argv[1:])
