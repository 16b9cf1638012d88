"""pasta: how it is called, and that what it makes is a network with the host's side shut."""

from __future__ import annotations

import os
import socket
from contextlib import AbstractAsyncContextManager
from itertools import pairwise
from pathlib import Path

import pytest

from jail.errors import HostError
from jail.host import read_facts
from jail.network.helper_program import Helper
from jail.network.nameserver import choose_nameservers, find_direct
from jail.network.pasta import (
    NEEDED,
    blame_uplink,
    is_ready,
    make_command,
    make_forwards,
    open_pasta,
)
from jail.network.precondition import check_ports, parse_help
from jail.network.publish import Publish, parse_publishes
from jail.network.uplink import has_default_route, read_uplink
from tests.network_init import (
    answers,
    curl_in,
    find_port,
    open_and_be_killed,
    open_init,
    read_status,
    run_in,
    serve_in,
)
from tests.part import not_exercised, require
from tests.sight import wait_until

# Debian 12's, of March 2023, on a host without a syslog; then what 2025's tells.
HELP_2023 = """Failed to send 51 bytes to syslog
Usage: pasta [OPTION]... [COMMAND] [ARGS]...
  -f, --foreground	Don't run in background
Failed to send 59 bytes to syslog
  -I, --ns-ifname NAME	namespace interface name
  -P, --pid FILE	Write own PID to the given file
  -m, --mtu MTU	Assign MTU via DHCP/NDP
  --dns-forward ADDR	Forward DNS queries sent to ADDR
  --no-map-gw		Don't map gateway address to host
  -t, --tcp-ports SPEC	TCP port forwarding to namespace
  -u, --udp-ports SPEC	UDP port forwarding to namespace
  -T, --tcp-ns SPEC	TCP port forwarding to init namespace
  -U, --udp-ns SPEC	UDP port forwarding to init namespace
  --config-net		Configure tap interface in namespace
"""
HELP_2025 = f"""{HELP_2023}
  --host-lo-to-ns-lo	Translate host-loopback forwards to
  --map-host-loopback ADDR	Translate ADDR to refer to host
  --map-guest-addr ADDR	Translate ADDR to guest's address
  --dns-host ADDR	Host nameserver to direct queries to
"""
HELP_2022 = HELP_2023.replace("--config-net", "").replace("--dns-forward", "")
IDS = ["single", "subuid"]


@pytest.fixture(params=IDS)
def ids(request: pytest.FixtureRequest) -> str:
    require("pasta")
    if request.param == "subuid":
        require("subuid")
    if not read_uplink():
        not_exercised("no interface here has a default route, which pasta would copy")
    return str(request.param)


# --- what is decided ----------------------------------------------------------------------------


@pytest.mark.parametrize("text", [HELP_2023, HELP_2025])
def test_versions_since_march_2023_will_do(text: str) -> None:
    assert set(NEEDED) <= parse_help(text).options


def test_an_older_one_lacks_something() -> None:
    assert set(NEEDED) - parse_help(HELP_2022).options == {"--config-net", "--dns-forward"}


def test_everything_that_leads_to_the_host_is_shut() -> None:
    command = make_command("/bin/pasta", 7, (), 1)
    assert command[0] == "/bin/pasta"
    assert command[-1] == "7"
    assert "--no-map-gw" in command
    for option in ("--tcp-ports", "--udp-ports", "--tcp-ns", "--udp-ns"):
        assert [b for a, b in pairwise(command) if a == option] == ["none"]


def test_a_published_port_opens_itself_alone() -> None:
    publishes = parse_publishes(["8080:80", "127.0.0.1:8081:80", "[::1]:8082:80"])
    assert make_forwards(publishes) == [
        "--tcp-ports", "8080:80", "--tcp-ports", "127.0.0.1/8081:80", "--tcp-ports", "::1/8082:80",
        "--udp-ports", "none",
    ]  # fmt: skip
    assert make_forwards((Publish("", 53, 5353, "udp"),)) == [
        "--tcp-ports", "none", "--udp-ports", "53:5353"
    ]  # fmt: skip


@pytest.mark.parametrize("said", [b"", b"1", b"\n", b"x\n", b"12\xff\n", b"Usage: pasta\n"])
def test_only_its_own_number_means_ready(said: bytes) -> None:
    assert is_ready(b"4711\n")
    assert not is_ready(said)


@pytest.mark.parametrize(
    ("resolv_conf", "chosen"),
    [
        ("nameserver 127.0.0.53\n", ("4",)),
        ("nameserver ::1\nnameserver 1.1.1.1\nnameserver 8.8.8.8\n", ("6", "4")),
        ("nameserver fe80::1%eth0\n", ("6",)),
        ("# nameserver ::1\n;nameserver ::1\nnameserver\nnameserver x\n", ("4",)),
        ("", ("4",)),
    ],
)
def test_the_jail_asks_whom_the_host_can_ask(resolv_conf: str, chosen: tuple[str, ...]) -> None:
    assert choose_nameservers(resolv_conf, "4", "6") == chosen


def test_resolvers_elsewhere_are_asked_without_the_helper() -> None:
    text = "nameserver 127.0.0.53\nnameserver fe80::1%eth0\nnameserver 10.0.0.1\nnameserver ::1\n"
    assert find_direct(f"{text}nameserver 2001:db8::1\nnameserver 10.0.0.1\n") == (
        "10.0.0.1",
        "2001:db8::1",
    )


def test_a_default_route_is_seen_in_the_kernels_table() -> None:
    head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
    net = "eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
    default = "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
    assert has_default_route(head + net + default)
    assert not has_default_route(head + net)
    assert not has_default_route("")


def test_a_host_without_uplink_is_told_so() -> None:
    error = blame_uplink(HostError("pasta exited with 1: External interface not usable"))
    assert error.step == "pasta uplink"
    assert "default route" in str(error)
    assert "External interface" in str(error)


# --- which ports can be had ---------------------------------------------------------------------


def test_a_udp_port_that_is_taken_is_told() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(HostError, match=f"port {port}/udp of 127.0.0.1: it is taken"):
            check_ports([Publish("127.0.0.1", port, 1, "udp")])
        check_ports([Publish("127.0.0.1", port, 1, "tcp")])


def test_a_port_that_only_root_may_take_is_told() -> None:
    first = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    if first <= 1:
        not_exercised("every port may be taken here")
    with pytest.raises(HostError, match=f"ports below {first} are not yours") as caught:
        check_ports([Publish("127.0.0.1", 1, 1)])
    assert "sysctl -w net.ipv4.ip_unprivileged_port_start=1" in (caught.value.remedy or "")


def test_an_address_that_this_host_lacks_is_told() -> None:
    for ip in ("198.51.100.7", "2001:db8:ffff::7"):
        with pytest.raises(HostError, match="this host has no such address"):
            check_ports([Publish(ip, 18_080, 1)])


# --- the real one -------------------------------------------------------------------------------


async def test_a_jail_has_the_hosts_address_and_a_route(ids: str) -> None:
    async with open_init(ids) as pid, open_(pid):
        assert "mtu 65520" in run_in(pid, "ip", "link", "show", "eth0")
        assert "default" in run_in(pid, "ip", "route") + run_in(pid, "ip", "-6", "route")


async def test_it_is_filtered_and_the_invoking_users(ids: str) -> None:
    async with open_init(ids) as pid, open_(pid) as helper:
        # A moment after it has said that it is ready, and before it reads a packet.
        await wait_until(lambda: read_status(helper.pid)["Seccomp"] == "2", "its filter")
        status = read_status(helper.pid)
    assert set(status["Uid"].split()) == {str(os.getuid())}


async def test_the_hosts_loopback_is_out_of_reach(ids: str) -> None:
    with socket.create_server(("0.0.0.0", 0)) as sentinel:
        port = sentinel.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            sentinel.accept()[0].close()  # the control
        async with open_init(ids) as pid, open_(pid):
            routes = run_in(pid, "ip", "route", "show", "default").split()
            gateway = routes[2] if "via" in routes else "127.0.0.2"
            for host in ("127.0.0.1", "localhost", gateway, "169.254.1.1"):
                said = await curl_in(pid, f"http://{host}:{port}/")
                assert said.startswith("000"), (host, said)
        sentinel.settimeout(0)
        with pytest.raises(BlockingIOError):
            sentinel.accept()


async def test_a_published_port_leads_into_the_jail(ids: str) -> None:
    tcp, other = find_port(), find_port()
    publishes = parse_publishes([f"127.0.0.1:{tcp}:8000", f"{other}:8000"])
    async with open_init(ids) as pid:
        async with open_(pid, publishes):
            with serve_in(pid, 8000):
                await wait_until(lambda: answers(tcp) and answers(other), "the jail's answers")
        assert not answers(tcp)


async def test_a_port_that_nobody_published_leads_nowhere(ids: str) -> None:
    port = find_port()
    async with open_init(ids) as pid, open_(pid):
        with serve_in(pid, port):
            inside = f"http://127.0.0.1:{port}/"
            for _ in range(50):
                if await curl_in(pid, inside) != "000":
                    break
            assert await curl_in(pid, inside) != "000"
            assert not answers(port)


async def test_it_dies_with_a_killed_supervisor_even_stopped(ids: str) -> None:
    async with open_init(ids) as pid:
        await open_and_be_killed(f"open_pasta({pasta()!r}, pid, (), print)", pid)


def pasta() -> str:
    return read_facts().helpers["pasta"]


def open_(pid: int, publishes: tuple[Publish, ...] = ()) -> AbstractAsyncContextManager[Helper]:
    return open_pasta(pasta(), pid, publishes, fail)


def fail(message: str) -> None:
    raise AssertionError(message)
