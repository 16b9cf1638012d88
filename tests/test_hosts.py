"""The names that a jail knows: its own, those it was given, and whom it asks for others."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import jail
from jail import SpecError, Supervisor, make_spec
from jail.network.decide import NetworkPlan
from jail.network.hosts import make_hosts_file, make_name_files
from tests.conftest import OpenJail
from tests.test_bad_input import refuse_jail
from tests.test_root import ask, is_refused
from tests.tree import CANARY, hash_tree

HOST_CONF = "# of the host\nnameserver 127.0.0.53\n search a.example b.example\noptions edns0\n"
LOCAL = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"


def make_files(host_conf: str = HOST_CONF, **options: Any) -> dict[str, str]:
    spec = make_spec(**options)
    nameservers = {"filtered": ("10.0.2.3",), "slirp4netns": ("10.0.2.3",)}
    network = NetworkPlan(spec.network, nameservers.get(spec.network, ()))
    return {path: data.decode() for path, data in make_name_files(spec, network, host_conf)}


# -- the files ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hostname", "line"),
    [
        ("jail", "127.0.1.1 jail\n"),
        ("judge.example.org", "127.0.1.1 judge.example.org judge\n"),
        ("localhost", ""),
        ("localhost.example", "127.0.1.1 localhost.example\n"),
    ],
)
def test_a_jail_knows_itself_by_its_whole_name_first(hostname: str, line: str) -> None:
    assert make_files(hostname=hostname) == {
        "etc/hosts": LOCAL + line,
        "etc/hostname": f"{hostname}\n",
    }


def test_its_own_address_is_the_network_s() -> None:
    assert "10.0.2.100 jail\n" in make_hosts_file("jail", "10.0.2.100", ())


def test_names_that_were_given_come_last_and_beat_its_own() -> None:
    files = make_files(hostname="db.example.org", add_host=["DB:10.1.2.3", "db:2001:db8::1"])
    assert files["etc/hosts"] == (f"{LOCAL}127.0.1.1 db.example.org\n10.1.2.3 db\n2001:db8::1 db\n")
    files = make_files(hostname="Judge", add_host=["judge:10.1.2.3"])
    assert files["etc/hosts"] == f"{LOCAL}10.1.2.3 judge\n"


def test_who_has_no_network_has_nobody_to_ask() -> None:
    assert "etc/resolv.conf" not in make_files(add_host=["a:1.2.3.4"])


def test_the_host_s_network_has_the_host_s_nameservers_as_they_are() -> None:
    assert make_files(network="host")["etc/resolv.conf"] == HOST_CONF
    assert make_files("", network="host")["etc/resolv.conf"] == ""


def test_nameservers_that_were_given_keep_the_host_s_search_list() -> None:
    kept = "search a.example b.example\noptions edns0\n"
    for network in ("host", "pasta"):
        files = make_files(network=network, dns=["1.1.1.1", "::2"])
        assert files["etc/resolv.conf"] == f"nameserver 1.1.1.1\nnameserver ::2\n{kept}"
    assert make_files(network="slirp4netns")["etc/resolv.conf"] == f"nameserver 10.0.2.3\n{kept}"


def test_an_allow_list_s_only_nameserver_is_ours() -> None:
    for dns in ([], ["1.1.1.1"]):
        files = make_files(network="filtered", dns=dns)
        assert files["etc/resolv.conf"] == "nameserver 10.0.2.3\n"


# -- inside ---------------------------------------------------------------------------------------


def read_host_conf() -> str:
    try:
        return Path("/etc/resolv.conf").read_text().strip()
    except OSError:
        return ""


async def test_a_jail_finds_itself_and_whom_it_was_told_of(open_jail: OpenJail) -> None:
    add_host = ["db.example.org:10.1.2.3", "six:2001:db8::1"]
    async with open_jail(hostname="judge.example.org", add_host=add_host) as j:
        assert (await ask(j, "hostname; cat /etc/hostname")).split() == ["judge.example.org"] * 2
        assert (await ask(j, "getent hosts judge")).split()[0] == "127.0.1.1"
        assert (await ask(j, "getent hosts 127.0.1.1")).split()[1] == "judge.example.org"
        assert (await ask(j, "getent hosts DB.example.org")).split()[0] == "10.1.2.3"
        assert (await ask(j, "getent hosts six")).split()[0] == "2001:db8::1"
        assert (await ask(j, "getent hosts 127.0.0.1")).split()[1] == "localhost"
        await is_refused(j, "cat /etc/resolv.conf", "No such file")


async def test_the_host_s_nameservers_are_shown_with_its_network(open_jail: OpenJail) -> None:
    async with open_jail(network="host") as j:
        assert await ask(j, "cat /etc/resolv.conf") == read_host_conf()
        await is_refused(j, "echo x >>/etc/resolv.conf", "Read-only", "Permission denied")


async def test_a_file_that_is_shown_there_takes_their_place(
    open_jail: OpenJail, tmp_path: Path
) -> None:
    (tmp_path / "conf").write_text("nameserver 10.9.9.9\n")
    async with open_jail(network="host", volumes=[f"{tmp_path}/conf:/etc/resolv.conf:ro"]) as j:
        assert await ask(j, "cat /etc/resolv.conf") == "nameserver 10.9.9.9"


def spoil(root: Path, kind: str, outside: Path) -> None:
    """What an image may have in these places."""
    for name in ("hosts", "resolv.conf", "hostname"):
        place = root / "etc" / name
        if kind == "file":
            place.write_text("of the image\n")
            place.chmod(0o600)
        elif kind == "directory":
            place.mkdir()
        elif kind == "fifo":
            os.mkfifo(place)
        elif kind == "dangling":
            place.symlink_to("../run/systemd/resolve/stub-resolv.conf")
        elif kind == "outside":
            place.symlink_to(outside)
        elif kind == "loop":
            place.symlink_to(name)


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize(
    "kind", ["nothing", "file", "directory", "fifo", "dangling", "outside", "loop"]
)
async def test_a_root_filesystem_s_own_files_give_way_whatever_they_are(
    open_jail: OpenJail, own_rootfs: Path, tmp_path: Path, kind: str, read_only: bool
) -> None:
    outside = tmp_path / "canary"
    outside.write_bytes(CANARY)
    spoil(own_rootfs, kind, outside)
    before = hash_tree(own_rootfs)
    options = {"rootfs": own_rootfs, "read_only": read_only, "network": "host"}
    async with open_jail(**options, hostname="judge", add_host=["db:10.1.2.3"]) as j:
        assert await ask(j, "cat /etc/hostname") == "judge"
        assert await ask(j, "cat /etc/hosts") == f"{LOCAL}127.0.1.1 judge\n10.1.2.3 db"
        assert await ask(j, "cat /etc/resolv.conf") == read_host_conf()
        assert await ask(j, "stat -c %a /etc /etc/hosts") == "755\n644"
        assert "passwd" in await ask(j, "ls /etc")
        if read_only:
            await is_refused(j, "echo x >/etc/hosts", "Read-only", "Permission denied")
    assert hash_tree(own_rootfs) == before
    assert outside.read_bytes() == CANARY


async def test_a_root_filesystem_without_network_is_left_as_it_is(
    open_jail: OpenJail, own_rootfs: Path
) -> None:
    spoil(own_rootfs, "dangling", own_rootfs)
    async with open_jail(rootfs=own_rootfs) as j:
        assert j.plan.launch.root.files == ()
        assert (await ask(j, "readlink /etc/hosts")).startswith("../run")


async def test_a_root_filesystem_without_etc_gets_one(
    open_jail: OpenJail, own_rootfs: Path
) -> None:
    for name in ("passwd", "group"):
        (own_rootfs / "etc" / name).unlink()
    (own_rootfs / "etc").rmdir()
    async with open_jail(rootfs=own_rootfs, read_only=True, add_host=["db:10.1.2.3"]) as j:
        assert (await ask(j, "ls /etc")).split() == ["hostname", "hosts"]
    assert not (own_rootfs / "etc").exists()


@pytest.mark.parametrize("kind", ["link", "dangling", "file"])
async def test_a_root_filesystem_whose_etc_is_something_else_is_refused(
    supervisor: Supervisor, own_rootfs: Path, tmp_path: Path, kind: str
) -> None:
    (own_rootfs / "etc").rename(tmp_path / "etc")
    before = hash_tree(tmp_path / "etc")
    if kind == "file":
        (own_rootfs / "etc").write_text("")
    else:
        (own_rootfs / "etc").symlink_to("/no/where" if kind == "dangling" else tmp_path / "etc")
    options = {"rootfs": own_rootfs, "network": "host"}
    await refuse_jail(supervisor, ("rootfs", "/etc"), options, SpecError)
    assert hash_tree(tmp_path / "etc") == before


async def test_volumes_lie_over_them(open_jail: OpenJail, own_rootfs: Path, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("10.9.9.9 mine\n")
    volumes = [f"{tmp_path}/hosts:/etc/hosts:ro"]
    async with open_jail(rootfs=own_rootfs, volumes=volumes, network="host") as j:
        assert await ask(j, "cat /etc/hosts") == "10.9.9.9 mine"
        assert await ask(j, "cat /etc/hostname") == "jail"


@pytest.mark.parametrize("on_host", [True, False])
async def test_a_strict_umask_hides_none_of_them(
    own_rootfs: Path, userns: str, on_host: bool
) -> None:
    old = os.umask(0o077)
    try:
        rootfs = "host" if on_host else own_rootfs
        async with jail.open_jail(rootfs=rootfs, userns=userns, network="host") as j:
            assert await ask(j, "cat /etc/hosts /etc/hostname /etc/resolv.conf /etc/passwd")
            assert await ask(j, "umask") == "0077", "the program's is the invoking user's"
    finally:
        os.umask(old)
