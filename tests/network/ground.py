"""The ground that the tests' internet stands on: its two networks, and the process of ``hosts``.

    python -m tests.network.ground FOLDER CONTROL_FD

Started in new user, mount, pid and network namespaces. Waits until its ids are mapped, makes the
networks, says where they are, and then does what it is told over the control socket until that
is closed. Then all ends: this is process 1 of its pid namespace.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import trio

from jail.kernel.mount import move_mount, open_filesystem, open_tree
from tests.network import place
from tests.network.hosts import Hosts

UPLINK: Final = ("unshare", "-n", sys.executable, "-m", "tests.network.uplink")
SETTINGS: Final = {
    # Who forwards says that a route is unreachable; else it is silent.
    "ipv4/ip_forward": "1",
    "ipv6/conf/all/forwarding": "1",
    # And says it each time, not once a second.
    "ipv4/icmp_ratelimit": "0",
    "ipv6/icmp/ratelimit": "0",
}
ID_TOOLS: Final = ("newuidmap", "newgidmap")
AT_FDCWD: Final = -100
MAX_MESSAGE_BYTES: Final = 1 << 20


def main() -> None:
    folder, control = Path(sys.argv[1]), socket.socket(fileno=int(sys.argv[2]))
    cover_files(folder, json.loads(control.recv(MAX_MESSAGE_BYTES))["subids"])
    with subprocess.Popen(UPLINK, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as uplink:
        assert uplink.stdin and uplink.stdout
        pid = int(uplink.stdout.readline())
        lay_cable(uplink.pid)
        uplink.stdin.write(b"go\n")
        uplink.stdin.flush()
        uplink.stdout.readline()
        trio.run(serve, folder, control, pid)
        os._exit(0)  # and with us everybody else here


def cover_files(folder: Path, subids: str) -> None:
    """A resolv.conf of our own, and subordinate ids that exist here (none, perhaps)."""
    cover("/etc/resolv.conf", folder / "resolv.conf", f"nameserver {place.DNS}\n")
    for name in ("subuid", "subgid"):
        cover(f"/etc/{name}", folder / name, subids)
    if subids:
        take_over_id_tools()


def cover(path: str, file: Path, text: str) -> None:
    file.write_text(text)
    file.chmod(0o644)
    bind(str(file), path)


def bind(source: str, path: str) -> None:
    """mount(8) would not do it for an id that is neither root nor the only one."""
    copied_fd = open_tree(AT_FDCWD, source)
    move_mount(copied_fd, AT_FDCWD, os.path.realpath(path))
    os.close(copied_fd)


def take_over_id_tools() -> None:
    """Set-user-ID root outside means nothing in here: root here is somebody else. On a tmpfs that
    this user namespace has mounted, it means root of here (``mnt_may_suid``).
    """
    made_fd = open_filesystem("tmpfs", {"mode": "755"}, 0)
    move_mount(made_fd, AT_FDCWD, "/mnt")
    os.close(made_fd)
    for name in ID_TOOLS:
        path, own = shutil.which(name) or name, f"/mnt/{name}"
        shutil.copy(path, own)
        os.chown(own, 0, 0)
        os.chmod(own, 0o4755)
        bind(own, path)


def lay_cable(uplink_pid: int) -> None:
    """From here to there; no address is tested for duplicates, which would take a second."""
    run_ip(
        "link set lo up",
        f"link add cable type veth peer name eth0 netns {uplink_pid}",
        "link set cable up",
        f"addr add {place.GATEWAY4}/24 dev cable",
        f"addr add {place.GATEWAY6}/64 dev cable nodad",
        *(f"addr add {each} dev lo {'nodad' * (':' in each)}" for each in place.ADDRESSES),
        *(f"route add {kind} {net}" for net, kind in place.ROUTES.items()),
    )
    for name, value in SETTINGS.items():
        Path("/proc/sys/net", name).write_text(value)


def run_ip(*lines: str) -> None:
    text = "\n".join(lines).encode()
    subprocess.run(["ip", "-batch", "-"], input=text, check=True, stdout=subprocess.DEVNULL)


async def serve(folder: Path, control: socket.socket, uplink_pid: int) -> None:
    """One answer to each message, in order."""
    hosts = Hosts(folder)
    own_pid = int(os.readlink("/proc/self"))
    told = trio.socket.from_stdlib_socket(control)
    async with trio.open_nursery() as nursery:
        await hosts.start(nursery)
        await told.send(json.dumps({"uplink": uplink_pid, "hosts": own_pid}).encode())
        while message := await told.recv(MAX_MESSAGE_BYTES):
            order: dict[str, Any] = json.loads(message)
            await told.send(json.dumps(hosts.obey(order)).encode())
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    main()
