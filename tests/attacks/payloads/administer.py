"""What the administrator of a network namespace may do: name → OK or an errno's name."""

import errno
import fcntl
import json
import os
import socket
import struct
import sys
from collections.abc import Callable

SIOCSIFFLAGS, SIOCSIFADDR, SIOCADDRT = 0x8914, 0x8916, 0x890B
TUNSETIFF = 0x400454CA
RTM_NEWLINK, RTM_NEWADDR, RTM_NEWROUTE, RTM_NEWQDISC = 16, 20, 24, 36
NLM_F_REQUEST_ACK_CREATE = 0x1 | 0x4 | 0x400
NETLINK_XFRM, NETLINK_NETFILTER = 6, 12


def configure(request: int, argument: bytes) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, request, argument)


def ask_routes(kind: int, body: bytes) -> None:
    """One rtnetlink(7) request; the kernel's answer is an error, 0 for none."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
        head = struct.pack("=IHHII", 16 + len(body), kind, NLM_F_REQUEST_ACK_CREATE, 1, 0)
        sock.send(head + body)
        (code,) = struct.unpack_from("=i", sock.recv(4096), 16)
        if code:
            raise OSError(-code, "")


def attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def add_link(kind: bytes) -> None:
    info = attribute(18, attribute(1, kind))  # IFLA_LINKINFO, IFLA_INFO_KIND
    ask_routes(RTM_NEWLINK, struct.pack("=BxHiII", 0, 0, 0, 0, 0) + info)


def add_address() -> None:
    head = struct.pack("=BBBBi", socket.AF_INET, 8, 0, 254, socket.if_nametoindex("lo"))
    address = socket.inet_aton("127.9.9.9")
    ask_routes(RTM_NEWADDR, head + attribute(2, address) + attribute(1, address))


def add_qdisc() -> None:
    """The door of CVE-2023-31436 and its kin."""
    head = struct.pack("=BxxxiIII", 0, socket.if_nametoindex("lo"), 0, 0xFFFFFFFF, 0)
    ask_routes(RTM_NEWQDISC, head + attribute(1, b"pfifo\0"))


def open_netlink(protocol: int) -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as sock:
        sock.bind((0, 0))


def make_tunnel() -> None:
    with open("/dev/net/tun", "rb+", buffering=0) as tun:
        fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", b"", 0x1002))


ATTEMPTS: dict[str, Callable[[], object]] = {
    "lo_down": lambda: configure(SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", 0)),
    "lo_address": lambda: configure(
        SIOCSIFADDR, struct.pack("16sHH4s16x", b"lo", socket.AF_INET, 0, bytes([127, 8, 8, 8]))
    ),
    "new_address": add_address,
    "dummy_link": lambda: add_link(b"dummy"),
    "veth_link": lambda: add_link(b"veth"),
    "qdisc": add_qdisc,
    "xfrm": lambda: open_netlink(NETLINK_XFRM),
    "netfilter": lambda: open_netlink(NETLINK_NETFILTER),
    "packet": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close(),
    "raw": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close(),
    "tun": make_tunnel,
}

with open("/proc/self/uid_map") as own_map:
    is_initial = own_map.read().split() == ["0", "0", "4294967295"]
if is_initial and os.geteuid() == 0:
    sys.exit("not as root of the host: this would take its network down")
answers = {}
for name, attempt in ATTEMPTS.items():
    try:
        attempt()
        answers[name] = "OK"
    except OSError as error:
        answers[name] = errno.errorcode.get(error.errno or 0, str(error))
print(json.dumps(answers))
