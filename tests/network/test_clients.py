"""Programs as everybody has them, in a jail that opens some names: they work, or fail at once."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.command import Done
from tests.network import place
from tests.network.option import allow, at
from tests.network.world import World
from tests.part import require

CA: Final = "/authority.pem"
URLLIB: Final = """
import ssl, sys, urllib.request
context = ssl.create_default_context(cafile="/authority.pem")
sys.stdout.buffer.write(urllib.request.urlopen(sys.argv[1], context=context, timeout=20).read())
"""
HTTPX: Final = """
import httpx, ssl, sys
with httpx.Client(verify=ssl.create_default_context(cafile="/authority.pem"), timeout=20) as client:
    for _ in range(3):
        got = client.get(sys.argv[1])
print(got.text, end="")
"""
FETCH: Final = """
fetch(process.argv[1]).then(async r => process.stdout.write(await r.text()),
                            e => { console.error(e.cause ?? e); process.exit(1) })
"""
CURL: Final = ("curl", "-sS", "--max-time", "20", "--cacert", CA)
CLIENTS: Final = {
    "curl": CURL,
    "urllib": ("/usr/bin/python3", "-c", URLLIB),
    "httpx": ("/usr/bin/python3", "-c", HTTPX),
    "node": ("node", "-e", FETCH),
}
AUTHORITY_OF_NODE: Final = ("-e", f"NODE_EXTRA_CA_CERTS={CA}")


@pytest.fixture
def options(world: World, clients: list[str]) -> list[str]:
    return [*clients, "-v", f"{world.authority}:{CA}:ro", *AUTHORITY_OF_NODE]


def run(world: World, options: list[str], rules: list[str], *argv: str) -> Done:
    require(argv[0])
    return world.run_jail(*options, *rules, "--memory", "2g", "--", *argv)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("client", CLIENTS)
def test_an_allowed_name_answers_and_no_other(
    world: World, options: list[str], client: str, scheme: str
) -> None:
    rules = allow("site.test")
    done = run(world, options, rules, *CLIENTS[client], f"{scheme}://site.test/x")
    assert done.status == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["host"], told["target"]) == ("site.test", "/x")
    assert told["address"] in (place.SITE, place.SITE6)
    assert told.get("sni", "site.test") == "site.test"
    world.forget()
    refused = run(world, options, rules, *CLIENTS[client], f"{scheme}://other.test/x")
    assert refused.status not in (0, 28, 124, 125), refused
    assert at(world.read_seen(), place.OTHER, place.OTHER6) == []
    assert world.read_asked() == []


@pytest.mark.parametrize("path", ["chunked", "bytes?n=3000000"])
def test_curl_gets_what_is_long_or_comes_in_pieces(
    world: World, options: list[str], path: str
) -> None:
    for scheme in ("http", "https"):
        argv = (*CURL, f"{scheme}://site.test/{path}")
        inside = run(world, options, allow("site.test"), *argv)
        assert inside.stdout == world.run(*CURL[:-2], "-k", argv[-1]).stdout != b""


def test_curl_posts_with_expect_continue_and_keeps_the_connection(
    world: World, options: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "data"
    file.write_bytes(b"x" * 2_000_000)
    url, data = "http://site.test/sum", ("--data-binary", f"@{file}")
    argv = ("curl", "-sS", "--max-time", "20", *data, url, url)
    inside = run(world, [*options, "-v", f"{file}:{file}:ro"], allow("site.test"), *argv)
    assert len(inside.stdout) == 128 and inside.stdout == world.run(*argv).stdout
    connections = [e for e in at(world.read_seen(), place.SITE, place.SITE6) if "host" not in e]
    assert len(connections) == 2  # one from each


def test_a_redirect_to_a_denied_host_ends_there(world: World, options: list[str]) -> None:
    for target in (
        "http://other.test/",
        "https://other.test/",
        "http://10.1.2.3/",
        "http://[::1]/",
    ):
        argv = (*CURL, "-L", f"http://site.test/to?url={target}")
        done = run(world, options, allow("site.test"), *argv)
        assert done.status in (6, 7), (target, done)
    assert {e["address"] for e in world.read_seen()} <= {place.SITE, place.SITE6}
    followed = world.run(*argv[:-1], "http://site.test/to?url=http://10.1.2.3/")
    assert followed.json["address"] == "10.1.2.3"


def test_git_clones_over_http(world: World, options: list[str]) -> None:
    make_repository(world)
    clone = "git clone -q http://{}/files/repo.git /tmp/repo && cat /tmp/repo/file"
    done = run(world, options, allow("site.test"), "sh", "-c", clone.format("site.test"))
    assert (done.status, done.stdout) == (0, b"content\n"), done.stderr
    refused = run(world, options, allow("site.test"), "sh", "-c", clone.format("other.test"))
    assert refused.status == 128 and "Could not resolve host" in refused.stderr


def make_repository(world: World) -> None:
    """As files, which is all that git's dumb protocol wants."""
    script = """
    git init -q work; cd work; git config user.name me; git config user.email me@here
    echo content > file; git add file; git commit -qm one
    cd ..; git clone -q --bare work repo.git; git -C repo.git update-server-info
    """
    require("git")
    subprocess.run(["sh", "-euc", script], cwd=world.files, check=True, capture_output=True)


def test_dig_is_answered_whomever_it_asks(world: World, options: list[str]) -> None:
    for words in ((), ("@8.8.8.8",), ("+tcp",), ("@8.8.8.8", "+tcp"), (f"@{place.DNS6}",)):
        argv = ("dig", "+short", "+tries=1", *words, "site.test")
        done = run(world, options, allow("site.test"), *argv)
        assert done.stdout == f"{place.SITE}\n".encode(), (words, done)
        refused = run(world, options, allow("site.test"), *argv[:-1], "other.test")
        assert (refused.status, refused.stdout) == (0, b""), (words, refused)
    assert {each["server"] for each in world.read_asked()} == {place.DNS}
    assert {each["name"] for each in world.read_asked()} == {"site.test"}


def test_happy_eyeballs_survive_a_silent_ipv6(world: World, options: list[str]) -> None:
    for client in ("curl", "node"):
        argv = (*CLIENTS[client], "http://dual.test/")
        done = run(world, options, allow("dual.test"), *argv)
        assert done.status == 0, done.stderr
        assert json.loads(done.stdout)["address"] == place.SITE


def test_one_of_twenty_addresses_is_enough(world: World, options: list[str]) -> None:
    done = run(world, options, allow("many.test"), *CURL, "https://many.test/")
    assert done.status == 0, done.stderr
    assert done.json["address"] in place.MANY_ALIVE
