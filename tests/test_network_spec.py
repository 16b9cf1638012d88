"""What is asked of the network: what goes together, what means nothing, and one line for it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from jail import HostError, JailSpec, SpecError, make_spec
from jail.explain import format_plan, format_plan_json
from jail.kernel import process
from jail.launchplan import Root
from jail.network.check import MAX_HOSTS, MAX_NAMESERVERS, NETWORKS, WITH_PORTS
from jail.network.publish import Publish
from jail.network.rule import MAX_RULES, Rule, parse_rule
from tests.test_plan import plan, see
from tests.test_spec import assert_clear

ALLOW = parse_rule("example.org:443", "allow")


def test_there_is_no_network_unless_it_is_asked_for() -> None:
    assert make_spec().network == make_spec(network=None).network == JailSpec().network == "none"


@pytest.mark.parametrize("network", NETWORKS)
def test_each_network_has_its_name(network: str) -> None:
    assert make_spec(network=network).network == network


@pytest.mark.parametrize(
    "words", [{"allow": ["a.org"]}, {"deny": ["a.org"]}, {"observe": True}], ids=str
)
def test_rules_ask_for_a_network_that_has_them(words: dict[str, Any]) -> None:
    assert make_spec(**words).network == "filtered"
    assert make_spec(**words, network="filtered").network == "filtered"
    for network in set(NETWORKS) - {"filtered"}:
        with pytest.raises(SpecError, match="filtered") as caught:
            make_spec(**words, network=network)
        assert_clear(caught.value, next(iter(words)))


def test_rules_are_texts_or_rules_and_none_counts_twice() -> None:
    spec = make_spec(allow=["Example.ORG:443", ALLOW, "10.0.0.0/8"], deny=("10.1.0.0/16",))
    assert spec.allow == (ALLOW, parse_rule("10.0.0.0/8", "allow"))
    assert spec.deny == (parse_rule("10.1.0.0/16", "deny"),)


def test_hosts_are_docker_s_or_a_mapping() -> None:
    texts = [
        "db:10.1.2.3",
        "v6.example.org.:2001:db8:0::1",
        "six:[::2]",
        "eq=10.1.2.4",
        "DB:10.1.2.3",
    ]
    assert make_spec(add_host=texts).add_hosts == (
        ("db", "10.1.2.3"),
        ("v6.example.org", "2001:db8::1"),
        ("six", "::2"),
        ("eq", "10.1.2.4"),
    )
    assert make_spec(add_host={"db": "10.1.2.3"}).add_hosts == (("db", "10.1.2.3"),)


@pytest.mark.parametrize("network", NETWORKS)
def test_hosts_go_with_every_network(network: str) -> None:
    assert make_spec(network=network, add_host=["a:1.2.3.4"]).network == network


def test_a_name_may_have_two_addresses() -> None:
    assert len(make_spec(add_host=["a:1.2.3.4", "a:2001:db8::1"]).add_hosts) == 2


def test_nameservers_are_asked_for_by_their_addresses() -> None:
    assert make_spec(network="pasta", dns=["1.1.1.1", "2001:DB8::1", "1.1.1.1"]).dns == (
        "1.1.1.1",
        "2001:db8::1",
    )


def test_a_nameserver_on_the_host_s_loopback_is_asked_by_the_host_alone() -> None:
    for network in ("host", "filtered"):
        assert make_spec(network=network, dns=["127.0.0.53"]).dns == ("127.0.0.53",)
    for network in ("slirp", "pasta", "slirp4netns"):
        with pytest.raises(SpecError, match="the jail itself"):
            make_spec(network=network, dns=["127.0.0.53"])


@pytest.mark.parametrize("network", WITH_PORTS)
def test_ports_are_docker_s_and_need_a_way_in(network: str) -> None:
    spec = make_spec(network=network, publish=["8080:80", Publish("127.0.0.1", 53, 53, "udp")])
    assert spec.publish == (Publish("", 8080, 80), Publish("127.0.0.1", 53, 53, "udp"))
    assert len(make_spec(network=network, publish=["8000-8010:9000-9010"]).publish) == 11
    for other in (None, *set(NETWORKS) - set(WITH_PORTS)):
        with pytest.raises(SpecError, match="no way in") as caught:
            make_spec(network=other, publish=["8080:80"])
        assert_clear(caught.value, "slirp, pasta, slirp4netns")


WRONG: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"allow": "a.org"}, ("allow", "list")),
    ({"allow": [5]}, ("allow", "no text")),
    ({"allow": [""]}, ("allow", "neither a name nor a network")),
    ({"allow": ["no name"]}, ("allow", "'no name'", "neither")),
    ({"allow": ["https://a.org"]}, ("allow",)),
    ({"allow": ["www.*.org"]}, ("allow", "at the front")),
    ({"allow": ["a*.org"]}, ("allow", "at the front")),
    ({"allow": ["*.*.org"]}, ("allow", "at the front")),
    ({"allow": ["a.org:99999"]}, ("allow", "65535")),
    ({"allow": ["a.org:http"]}, ("allow", "'http'")),
    ({"allow": ["10.1.2.3/16"]}, ("allow", "10.1.0.0/16")),
    ({"allow": ["10.1.2.3.4"]}, ("allow", "no address")),
    ({"allow": ["127.0.0.1:80"]}, ("allow", "loopback")),
    ({"allow": ["[::1]:80"]}, ("allow", "loopback")),
    ({"allow": ["localhost"]}, ("allow", "localhost")),
    ({"allow": [f"n{n}.org" for n in range(MAX_RULES + 1)]}, ("allow", str(MAX_RULES))),
    ({"allow": ["a.org:80"], "deny": ["a.org"]}, ("a.org:80", "nothing is left")),
    ({"allow": ["10.0.0.0/8"], "deny": ["10.0.0.0/8/tcp"]}, ("nothing is left",)),
    ({"deny": ["a.org:0"]}, ("deny", "65535")),
    ({"observe": 1}, ("observe", "neither True nor False")),
    ({"add_host": "db:10.1.2.3"}, ("add_host", "list")),
    ({"add_host": ["db"]}, ("add_host", "NAME:IP")),
    ({"add_host": ["db:"]}, ("db", "no IP address")),
    ({"add_host": [":10.1.2.3"]}, ("add_host", "no name")),
    ({"add_host": ["d b:10.1.2.3"]}, ("'d b'", "no name")),
    ({"add_host": ["a\nb:10.1.2.3"]}, ("no name",)),
    ({"add_host": ["10.1.2.3:10.1.2.4"]}, ("no name",)),
    ({"add_host": ["*.org:10.1.2.4"]}, ("no name",)),
    ({"add_host": ["db:10.1.2"]}, ("'10.1.2'", "no IP address")),
    ({"add_host": ["db:fe80::1%eth0"]}, ("names a link",)),
    ({"add_host": ["db:0.0.0.0"]}, ("nobody's",)),
    ({"add_host": ["localhost:10.1.2.3"]}, ("localhost", "the jail itself")),
    ({"add_host": ["db:host-gateway"]}, ("host-gateway",)),
    ({"add_host": {"db": 5}}, ("db", "no text")),
    ({"add_host": {5: "10.1.2.3"}}, ("add_host", "no text")),
    ({"add_host": [f"n{n}:10.1.2.3" for n in range(MAX_HOSTS + 1)]}, (str(MAX_HOSTS),)),
    ({"publish": "80:80", "network": "pasta"}, ("publish", "list")),
    ({"publish": ["80"], "network": "pasta"}, ("publish", "'80'")),
    ({"publish": [80], "network": "pasta"}, ("publish", "no text")),
    ({"publish": ["80:80", "80:81"], "network": "pasta"}, ("publish", "same port")),
    ({"publish": ["80:80", "1.2.3.4:80:81"], "network": "pasta"}, ("publish", "same port")),
    ({"publish": ["80-90:80-90", "85:1"], "network": "slirp"}, ("publish", "same port")),
    ({"dns": ["1.1.1.1"]}, ("dns", "none")),
    ({"dns": "1.1.1.1", "network": "pasta"}, ("dns", "list")),
    ({"dns": ["one.one"], "network": "pasta"}, ("dns", "'one.one'")),
    ({"dns": ["1.1.1.1:53"], "network": "pasta"}, ("dns", "no IP address")),
    ({"dns": ["224.0.0.1"], "network": "pasta"}, ("dns", "nobody's")),
    (
        {"dns": [f"1.1.1.{n}" for n in range(MAX_NAMESERVERS + 1)], "network": "host"},
        ("dns", str(MAX_NAMESERVERS)),
    ),
]


@pytest.mark.parametrize(("options", "words"), WRONG, ids=lambda each: str(each)[:50])
def test_what_can_t_be_meant_is_one_clear_line(
    options: dict[str, Any], words: tuple[str, ...]
) -> None:
    with pytest.raises(SpecError) as caught:
        make_spec(**options)
    for word in words:
        assert_clear(caught.value, word)


@pytest.mark.parametrize(
    "options",
    [
        {"allow": (ALLOW,)},
        {"network": "filtered", "allow": [ALLOW]},
        {"network": "filtered", "allow": ("example.org",)},
        {"network": "filtered", "allow": (Rule("example.org", "example.com"),)},
        {"network": "filtered", "allow": (Rule("example.org", "example.org", ports=(0, 0)),)},
        {"network": "filtered", "deny": (ALLOW,)},
        {"network": "filtered", "observe": None},
        {"add_hosts": {"a": "1.2.3.4"}},
        {"add_hosts": (("A", "1.2.3.4"),)},
        {"add_hosts": (("a", "1.2.3.4", "5"),)},
        {"add_hosts": ("ab",)},
        {"publish": (Publish("", 80, 80),)},
        {"network": "pasta", "publish": [Publish("", 80, 80)]},
        {"network": "pasta", "publish": ("80:80",)},
        {"network": "pasta", "publish": (Publish("", 0, 80),)},
        {"network": "pasta", "publish": (Publish("", 80, 70000),)},
        {"network": "pasta", "publish": (Publish("x", 80, 80),)},
        # What no type checker would let through, and a caller without one may give.
        {"network": "pasta", "publish": (Publish("", 80, 80, "sctp"),)},  # type: ignore[arg-type]
        {"network": "pasta", "publish": (Publish("", 80, 80), Publish("::", 80, 81))},
        {"network": "pasta", "dns": ["1.1.1.1"]},
        {"network": "pasta", "dns": ("2001:DB8::1",)},
        {"network": "pasta", "dns": (5,)},
    ],
    ids=str,
)
def test_a_spec_made_by_hand_is_held_to_the_same(options: dict[str, Any]) -> None:
    with pytest.raises(SpecError) as caught:
        JailSpec(**options)
    assert_clear(caught.value)


# -- the plan -------------------------------------------------------------------------------------

HELD = {
    "none": "namespace",
    "host": "none",
    "pasta": "namespace+pasta",
    "slirp4netns": "namespace+slirp4netns",
    "filtered": "namespace+filter",
}


@pytest.mark.parametrize("network", HELD)
def test_what_holds_a_network_is_named(network: str) -> None:
    made = plan(network=network)
    assert made.enforced_by["network"] == HELD[network]
    assert bool(made.clone_flags & process.CLONE_NEWNET) == (network != "host")
    for mechanism in ("namespace", "filter"):
        if mechanism in HELD[network].split("+"):
            plan(network=network, require={"network": mechanism})
        else:
            with pytest.raises(HostError, match=f"network={mechanism}"):
                plan(network=network, require={"network": mechanism})


def test_what_a_network_opens_is_noted() -> None:
    for network, words in {
        "none": (),
        "filtered": (),
        "host": ("loopback", "LAN"),
        "pasta": ("pasta", "LAN", "host's loopback"),
        "slirp4netns": ("slirp4netns", "LAN"),
    }.items():
        notes = [each for each in plan(network=network).notes if "network" in each]
        assert len(notes) == bool(words)
        for word in words:
            assert word in notes[0]
    assert any("observe" in each for each in plan(observe=True).notes)


def test_the_files_of_a_root_filesystem_are_its_own_only_with_a_network() -> None:
    dirs = frozenset({"proc", "dev", "tmp", "work", "etc"})

    def make_root(**options: Any) -> Root:
        return plan(rootfs=see("/r"), dirs=dirs, read_only=True, **options).launch.root

    for bare in (make_root(), make_root(network="none")):
        assert (bare.files, bare.overlay) == ((), False)
    for root in (
        make_root(network="host"),
        make_root(network="filtered"),
        make_root(add_host=["a:1.2.3.4"]),
    ):
        assert {"etc/hosts", "etc/hostname"} <= dict(root.files).keys()
        assert root.overlay
    assert plan(network="host").launch.root.files == ()


def test_explain_tells_the_rules_and_who_is_asked() -> None:
    made = plan(
        allow=["*.example.org:443", "10.1.0.0/16/udp"],
        deny=["bad.example.org"],
        dns=["1.1.1.1"],
        add_host=["db:10.1.2.3"],
    )
    text = format_plan(made)
    for line in (
        "filtered: only our own process is reached, which reaches what is allowed",
        "refuse bad.example.org by TCP and UDP",
        "allow *.example.org:443 by TCP",
        "allow 10.1.0.0/16 by UDP",
        "refuse all else at once",
        "db is 10.1.2.3",
        "names: asked of 10.0.2.3",
        "that is us, and we ask 1.1.1.1",
    ):
        assert f"  {line}\n" in text
    told = json.loads(format_plan_json(made))
    assert told["network"]["allow"] == ["*.example.org:443", "10.1.0.0/16/udp"]
    assert told["gate"] is True
    assert "none: lo alone" in format_plan(plan())
    served = plan(network="pasta", publish=["8080:80", "127.0.0.1:53:53/udp"])
    assert "  the host's port 127.0.0.1:53:53/udp leads in\n" in format_plan(served)
    notes = [each for each in served.notes if "published" in each]
    assert notes == ["published to whoever reaches this host: 8080:80/tcp"]
    assert "whom the host asks" in format_plan(plan(network="host"))
