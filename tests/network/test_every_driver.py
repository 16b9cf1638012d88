"""One suite for every kind of network, under both ways to map ids."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from tests.network import place
from tests.network.option import allow
from tests.network.uplink import ABSTRACT, WORD
from tests.network.world import CLIENT, PYTHON, WITH_CLIENT, World
from tests.part import require
from tests.sight import find_children, find_marked

PATIENCE_S: Final = 20.0
PORT: Final = 8080


class Driver(NamedTuple):
    """What can be expected of it."""

    options: list[str]
    reaches: bool = True
    mtu: int | None = None
    helper: str | None = None


DRIVERS: Final = {
    "none": Driver(["--network", "none"], reaches=False),
    "slirp4netns": Driver(["--network", "slirp4netns"], mtu=65520, helper="slirp4netns"),
    "pasta": Driver(["--network", "pasta"], mtu=65520, helper="pasta"),
    "slirp": Driver(["--network", "slirp"], mtu=65520),
    "filtered": Driver(allow(place.SITE, place.SITE6, "site.test", "*.site.test")),
    "host": Driver(["--network", "host"]),
}
HELPED: Final = [name for name, each in DRIVERS.items() if each.helper]
COMM: Final = {"pasta": "passt", "slirp4netns": "slirp4netns"}
LOOPBACKS: Final = (
    *("127.0.0.1", "::1", "0.0.0.0", "::ffff:127.0.0.1"),
    # slirp4netns' ways to the host, and pasta's.
    *("10.0.2.2", "10.0.2.3", "fd00::2", "fd00::3", place.GATEWAY4, place.GATEWAY6),
)


@pytest.fixture(params=["auto", "single"])
def ids(request: pytest.FixtureRequest) -> list[str]:
    if request.param == "auto":
        require("subuid")
    return ["--userns", str(request.param)]


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> Driver:
    found = DRIVERS[request.param]
    require(*filter(None, [found.helper]))
    return found


@pytest.fixture
def options(driver: Driver, ids: list[str]) -> list[str]:
    return [*driver.options, *ids]


@pytest.fixture(params=HELPED)
def helped(request: pytest.FixtureRequest, ids: list[str]) -> list[str]:
    """Options of those that have a helper program."""
    require(request.param)
    return ["--network", request.param, *ids]


def test_lo_is_up(world: World, options: list[str]) -> None:
    for address in ("127.0.0.1", "::1"):
        assert world.visit("own", address, jail=options).said == "own"


def test_others_are_reached_or_there_is_no_network(
    world: World, driver: Driver, options: list[str]
) -> None:
    for words in (("tcp", place.SITE, "7", "hello"), ("tcp", "site.test", "7", "hello")):
        visit = world.visit(*words, jail=options)
        assert visit.said == ("hello" if driver.reaches else None), visit
    if not driver.reaches:
        assert world.visit("tcp", place.SITE, "7", jail=options).error == "ENETUNREACH"


def test_ipv6_works_where_the_host_has_it(world: World, driver: Driver, options: list[str]) -> None:
    """From the first moment, but for slirp4netns, whose address is one that the kernel tries."""
    word = "soon" if driver.helper == "slirp4netns" else "tcp"
    visit = world.visit(word, place.SITE6, "7", *(["hello"] * (word == "tcp")), jail=options)
    assert visit.said == ("hello" if driver.reaches else None), visit


def test_names_are_answered_by_both_protocols(
    world: World, driver: Driver, options: list[str]
) -> None:
    visit = world.visit("look", "site.test", jail=options)
    assert visit.said == (sorted([place.SITE, place.SITE6]) if driver.reaches else None)
    if driver.reaches:
        require("dig")
        done = world.run_jail(*options, "--", "dig", "+short", "+tcp", "only4.site.test")
        assert done.stdout == f"{place.SITE}\n".encode(), done


def test_the_host_s_own_resolver_can_be_named(world: World, helped: list[str]) -> None:
    visit = world.visit("look", "only4.site.test", jail=[*helped, "--dns", place.DNS])
    assert visit.said == [place.SITE], visit


def test_the_loopback_of_the_host_is_the_hosts(
    world: World, driver: Driver, options: list[str]
) -> None:
    is_host, words = driver is DRIVERS["host"], ("sweep", str(place.SENTINEL), *LOOPBACKS)
    outside = world.visit(*words, patience_s=0.3).said
    assert outside == {
        f"{protocol} {address}": WORD.decode()
        for address in LOOPBACKS[:4]
        for protocol in ("tcp", "udp")
    }
    inside = world.visit(*words, jail=options, patience_s=0.3).said
    assert inside == (outside if is_host else {})
    if not is_host:
        assert world.visit("abstract", ABSTRACT[1:], jail=options).said is None


def test_packets_may_be_large(world: World, driver: Driver, options: list[str]) -> None:
    if driver.mtu is None:
        return
    done = world.run_jail(*options, "--", "ip", "-json", "link")
    links: list[dict[str, Any]] = json.loads(done.stdout)
    assert [each["mtu"] for each in links if each["ifname"] != "lo"] == [driver.mtu]


def test_the_jail_knows_its_own_name(world: World, options: list[str]) -> None:
    script = "hostname; getent hosts $(hostname); getent hosts localhost"
    done = world.run_jail(*options, "--hostname", "here", "--", "sh", "-c", script)
    lines = done.stdout.decode().splitlines()
    if "host" not in options:
        assert lines[0] == "here" and len(lines) == 3, done


def test_the_result_names_the_driver(world: World, driver: Driver, options: list[str]) -> None:
    told = world.run_jail(*options, "--json", "-", "--", "true").json
    assert told["verdict"] == "OK"
    if driver is not DRIVERS["slirp"]:
        assert told["network"]["driver"] == driver.options[1]


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_published_port_leads_in(world: World, helped: list[str], protocol: str) -> None:
    """From other hosts; slirp4netns, its way to the host's loopback shut, sends no datagram there,
    and pasta none to the host's own address, which it has itself.
    """
    publish = ["-p", f"{place.HOST4}:{PORT}:9090/{protocol}"]
    words = (protocol, place.HOST4, str(PORT), "x")
    assert serve_until_said(world, [*helped, *publish], words, "hosts") == "from inside"


def test_a_port_can_be_published_for_this_host_alone(world: World, helped: list[str]) -> None:
    publish = ["-p", f"127.0.0.1:{PORT}:9090"]
    words = ("tcp", "127.0.0.1", str(PORT), "x")
    assert serve_until_said(world, [*helped, *publish], words, "uplink") == "from inside"


def serve_until_said(world: World, options: list[str], words: tuple[str, ...], where: str) -> Any:
    argv = (PYTHON, CLIENT, "serve", "9090", "from inside")
    deadline = time.monotonic() + PATIENCE_S
    with world.start_jail(*WITH_CLIENT, *options, "--", *argv) as process:
        while not (said := world.visit(*words, patience_s=0.5, place=where).said):
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                return process.communicate()
    return said


def test_a_port_that_is_taken_is_an_error_before_the_program_starts(
    world: World, helped: list[str], tmp_path: Path
) -> None:
    taken = f"127.0.0.1:{place.SENTINEL}:80"
    done = world.run_jail(*helped, "-p", taken, "-v", f"{tmp_path}:/out", "--", "touch", "/out/x")
    assert done.status == 125 and str(place.SENTINEL) in done.stderr
    assert len(done.stderr.splitlines()) <= 2, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_death_of_the_helper_is_a_failure_of_the_sandbox(
    world: World, helped: list[str], marker: str
) -> None:
    name = helped[1]
    script = f"sleep 100; : {marker}"
    with world.start_jail(*helped, "--json", "-", "--", "sh", "-c", script) as process:
        os.kill(wait_for_helper(process.pid, name, marker), signal.SIGKILL)
        out, error = process.communicate(timeout=PATIENCE_S)
    told = json.loads(out)
    assert process.returncode == 125
    assert told["verdict"] == "IE" and told["fault"] == "sandbox", (told, error)
    assert name in told["message"], told


@pytest.mark.parametrize("publish", [[], ["-p", f"127.0.0.1:{PORT}:80"]])
def test_slirp4netns_is_in_its_sandbox_and_the_jail_none_the_weaker(
    world: World, ids: list[str], publish: list[str], marker: str, tmp_path: Path
) -> None:
    require("slirp4netns")
    out = tmp_path / "out"
    out.mkdir()
    looks = "id -u; id -g; grep ^Seccomp: /proc/self/status; echo > /out/made"
    script = f"{looks}; until [ -e /out/seen ]; do sleep 0.05; done"
    options = ["--network", "slirp4netns", *ids, *publish, "-v", f"{out}:/out"]
    with world.start_jail(*options, "--", "sh", "-c", f"{script}; : {marker}") as process:
        helper = wait_for_helper(process.pid, "slirp4netns", marker)
        status = Path(f"/proc/{helper}/status").read_text()
        mounts = Path(f"/proc/{helper}/mountinfo").read_text().splitlines()
        (out / "seen").touch()
        said, error = process.communicate(timeout=PATIENCE_S)
    assert "Seccomp:\t2\n" in status
    assert {each.split()[4].split("/")[1] for each in mounts} == {"", "etc", "run"}, mounts
    assert any(" / / " in each and " - tmpfs " in each for each in mounts), mounts
    assert said.split() == [b"1000", b"1000", b"Seccomp:", b"2"], error
    made = (out / "made").stat()
    assert (made.st_uid, made.st_gid) == (os.getuid(), os.getgid())


def wait_for_helper(pid: int, name: str, marker: str) -> int:
    """Below ``pid``, once the program runs."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found = [each for each in find_below(pid) if read_name(each).startswith(COMM[name])]
        programs = [each for each in find_marked(marker) if read_name(each) == "sh"]
        if found and programs:
            return found[-1]
    raise AssertionError(f"no {name} below {pid}: {[read_name(each) for each in find_below(pid)]}")


def find_below(pid: int) -> list[int]:
    children = find_children(pid)
    return [*children, *(each for child in children for each in find_below(child))]


def read_name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
