"""slirp4netns: how it is called, and that what it makes is a network with the host's side shut."""

from __future__ import annotations

import os
import socket
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from jail.errors import HelperError, HostError
from jail.host import read_facts
from jail.network.helper_program import Helper
from jail.network.precondition import parse_help
from jail.network.publish import Publish, parse_publishes
from jail.network.slirp4netns import (
    NEEDED,
    has_root,
    is_ready,
    make_command,
    make_way,
    make_way_from,
    open_slirp4netns,
    refuse_ipv6,
)
from jail.network.slirpapi import check_answer, make_request, make_socket_path
from jail.network.uplink import has_default_route6
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
from tests.part import require
from tests.sight import wait_until

PUBLISH = Publish("", 8080, 80)
# The help of 1.1 (2020) and what was added to it since.
HELP_1_1 = """Usage: slirp4netns [OPTION]... PID|PATH TAPNAME
-c, --configure          bring up the interface
-e, --exit-fd=FD         specify the FD for terminating slirp4netns
-r, --ready-fd=FD        specify the FD to write to when the network is configured
-m, --mtu=MTU            specify MTU (default=1500, max=65521)
-6, --enable-ipv6        enable IPv6 (experimental)
-a, --api-socket=PATH    specify API socket path
--cidr=CIDR              specify network address CIDR (default=10.0.2.0/24)
--disable-host-loopback  prohibit connecting to 127.0.0.1:* on the host namespace
--netns-type=TYPE 	 specify network namespace type ([path|pid], default=pid)
--userns-path=PATH	 specify user namespace path
--enable-sandbox         create a new mount namespace (and drop all caps except ...)
--enable-seccomp         enable seccomp to limit syscalls (experimental)
"""
HELP_0_3 = HELP_1_1.split("--netns-type", maxsplit=1)[0]
IDS = [pytest.param("root", id="single"), pytest.param("subuid", id="subuid")]


@pytest.fixture(params=IDS)
def ids(request: pytest.FixtureRequest) -> str:
    require("slirp4netns")
    if request.param == "subuid":
        require("subuid")
    return str(request.param)


# --- what is decided ----------------------------------------------------------------------------


def test_the_first_version_with_all_options_will_do() -> None:
    assert set(NEEDED) <= parse_help(HELP_1_1).options
    assert set(NEEDED) - parse_help(HELP_0_3).options == {
        "--enable-sandbox", "--enable-seccomp", "--netns-type"
    }  # fmt: skip


def test_nothing_but_options_is_read_from_a_help() -> None:
    text = "  -q, --quiet\tX\n--api-socket=PATH --[no-]x ---y a--b \x00--\xff --z9 'x --no-map-gw'"
    found = parse_help(text).options
    assert found == {"--quiet", "--api-socket", "--z9", "--no-map-gw"}


def test_the_hosts_side_is_shut_and_its_own_walls_are_up() -> None:
    command = make_command("/bin/slirp4netns", make_way(7), 9, ipv6=True)
    assert command == [
        "/bin/slirp4netns", "--configure", "--mtu=65520", "--disable-host-loopback",
        "--enable-seccomp", "--enable-sandbox", "--enable-ipv6", "--ready-fd=9", "--exit-fd=0", "7",
        "eth0",
    ]  # fmt: skip


def test_without_an_id_0_inside_it_has_to_be_that_of_the_namespace_around() -> None:
    assert not has_root("      1000          0          1\n")
    assert has_root("1000 1001 1\n 0 5 1\n")


def test_ports_are_told_over_a_socket_that_the_user_can_make(tmp_path: Path) -> None:
    way = make_way_from(5, 7, "/bin/nsenter")
    command = make_command("/bin/slirp4netns", way, 9, api=tmp_path / "s")
    assert command[:3] == ["/bin/nsenter", "--user=/proc/5/ns/user", "--preserve-credentials"]
    assert {"--enable-sandbox", f"--api-socket={tmp_path}/s"} <= set(command)
    assert command[-3:] == ["--netns-type=path", "/proc/7/ns/net", "eth0"]


@pytest.mark.parametrize("said", [b"", b"11", b"1\n", b"0", b"\xff"])
def test_only_a_1_means_ready(said: bytes) -> None:
    assert is_ready(b"1")
    assert not is_ready(said)


def test_ipv6_is_on_where_the_host_has_a_way_out_by_it() -> None:
    zero, gateway = "0" * 32, "fe800000000000000000000000000001"
    row = f"{zero} 00 {zero} 00 {gateway} 00000400 00000001 00000000 00000003     eth0\n"
    refusal = f"{zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200       lo\n"
    local = row.replace(f"{zero} 00", f"20010db8{'0' * 24} 40", 1)
    assert has_default_route6(refusal + row)
    assert not has_default_route6(refusal + local)
    assert not has_default_route6("")
    assert not has_default_route6("nonsense\n00 00\n")


def test_an_ipv6_address_is_not_published() -> None:
    with pytest.raises(HostError, match="IPv4 addresses only") as caught:
        refuse_ipv6((PUBLISH, Publish("::1", 8080, 80)))
    assert caught.value.remedy is not None
    refuse_ipv6((PUBLISH, Publish("127.0.0.1", 8081, 80)))


def test_a_port_is_asked_for_in_json() -> None:
    assert make_request(PUBLISH) == (
        b'{"execute": "add_hostfwd", "arguments": {"proto": "tcp", "host_addr": "0.0.0.0", '
        b'"host_port": 8080, "guest_port": 80}}'
    )


def test_its_answer_is_read_with_care() -> None:
    check_answer(PUBLISH, b'{"return": {"id": 1}}\n')
    for nonsense in (b"", b"\xff", b"[]", b"1", b"{}", b"[" * 5000, b'{"retur'):
        with pytest.raises(HelperError, match="slirp4netns answers"):
            check_answer(PUBLISH, nonsense)
    for refusal in (b'{"error": {"desc": "bad request: \\u001b[1m"}}', b'{"error": 5}'):
        with pytest.raises(HostError, match=r"8080:80/tcp: slirp4netns: ") as caught:
            check_answer(PUBLISH, refusal)
        assert str(caught.value).isprintable()


def test_a_path_that_no_socket_can_have_is_refused(tmp_path: Path) -> None:
    assert make_socket_path(tmp_path, 7) == tmp_path / "slirp-7.sock"
    with pytest.raises(HostError, match="too long"):
        make_socket_path(tmp_path / ("x" * 100), 7)


# --- the real one -------------------------------------------------------------------------------


async def test_a_jail_has_a_device_an_address_and_a_route(ids: str, tmp_path: Path) -> None:
    async with open_init(ids) as pid, open_slirp(pid, tmp_path):
        device = run_in(pid, "ip", "-brief", "address", "show", "eth0")
        assert "10.0.2.100/24" in device
        assert "mtu 65520" in run_in(pid, "ip", "link", "show", "eth0")
        assert "default via 10.0.2.2" in run_in(pid, "ip", "route")


async def test_it_is_in_its_sandbox_with_no_right_but_to_bind(ids: str, tmp_path: Path) -> None:
    """A file system of its own with next to nothing in it, whether ports are published or not."""
    publishes = parse_publishes([f"127.0.0.1:{find_port()}:80"])
    for ports in ((), publishes):
        async with (
            open_init(ids) as pid,
            open_slirp4netns(slirp(), pid, ports, fail, tmp_path) as helper,
        ):
            status = read_status(helper.pid)
            mounts = Path(f"/proc/{helper.pid}/mountinfo").read_text().splitlines()
        assert "- tmpfs " in next(each for each in mounts if each.split()[4] == "/")
        assert {each.split()[4] for each in mounts} <= {"/", "/etc", "/run"}, mounts
        assert status["Seccomp"] == "2"
        assert status["Uid"].split()[0] == str(os.getuid())
        assert int(status["CapEff"], 16) & ~(1 << 10) == 0  # CAP_NET_BIND_SERVICE
        assert int(status["CapBnd"], 16) == 1 << 10


async def test_the_hosts_loopback_is_out_of_reach(ids: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sentinel:
        port = sentinel.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            sentinel.accept()[0].close()  # the control
        async with open_init(ids) as pid, open_slirp(pid, tmp_path):
            for host in ("127.0.0.1", "10.0.2.2", "10.0.2.3"):
                said = await curl_in(pid, f"http://{host}:{port}/")
                assert said.startswith("000"), (host, said)
        sentinel.settimeout(0)
        with pytest.raises(BlockingIOError):
            sentinel.accept()


async def test_a_published_port_leads_into_the_jail(ids: str, tmp_path: Path) -> None:
    tcp, other = find_port(), find_port()
    publishes = parse_publishes([f"127.0.0.1:{tcp}:8000", f"{other}:8000"])
    async with open_init(ids) as pid:
        async with open_slirp4netns(slirp(), pid, publishes, fail, tmp_path):
            assert not list(tmp_path.iterdir()), "nobody would take it away after a SIGKILL"
            with serve_in(pid, 8000):
                await wait_until(lambda: answers(tcp) and answers(other), "the jail's answers")
        assert not answers(tcp)
        assert not list(tmp_path.glob("*.sock"))


async def test_a_port_that_is_taken_is_told_before_anything_is_started(tmp_path: Path) -> None:
    require("slirp4netns")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for text in (f"127.0.0.1:{port}:80", f"0.0.0.0:{port}:80", f"{port}:80"):
            with pytest.raises(HostError, match=f"port {port}/tcp.*: it is taken") as caught:
                async with open_slirp4netns(
                    "/nonexistent", 1, parse_publishes([text]), fail, tmp_path
                ):
                    pass
            assert caught.value.step == "publish"


async def test_it_dies_with_a_killed_supervisor_even_stopped(ids: str, tmp_path: Path) -> None:
    opening = f"open_slirp4netns({slirp()!r}, pid, (), print, Path({str(tmp_path)!r}))"
    async with open_init(ids) as pid:
        await open_and_be_killed(opening, pid)


def slirp() -> str:
    return read_facts().helpers["slirp4netns"]


def open_slirp(pid: int, directory: Path) -> AbstractAsyncContextManager[Helper]:
    return open_slirp4netns(slirp(), pid, (), fail, directory)


def fail(message: str) -> None:
    raise AssertionError(message)
