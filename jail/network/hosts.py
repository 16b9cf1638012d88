"""Which names a jail knows: /etc/hosts, /etc/hostname and /etc/resolv.conf as it has them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from jail.network.check import Pair
    from jail.network.decide import NetworkPlan
    from jail.spec import JailSpec

Files = tuple[tuple[str, bytes], ...]

OWN_ADDRESS: Final = "127.0.1.1"
"""of a jail that has no other: a name of its own, beside localhost, leads back to itself"""
LOCALHOST: Final = ("127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback")
KEPT_LINES: Final = ("search", "domain", "options")
"""of the host's resolv.conf, where its names are those of the jail"""


def wants_names(spec: JailSpec) -> bool:
    """Whether a root filesystem's own files would say what is wrong here."""
    return spec.network != "none" or bool(spec.add_hosts)


def make_name_files(spec: JailSpec, network: NetworkPlan, host_conf: str) -> Files:
    """(path inside, content). ``host_conf`` is the host's own resolv.conf."""
    files = [
        ("etc/hosts", make_hosts_file(spec.hostname, network.address, spec.add_hosts)),
        ("etc/hostname", f"{spec.hostname}\n"),
    ]
    if spec.network != "none":
        files.append(("etc/resolv.conf", choose_resolv_conf(spec, network, host_conf)))
    return tuple((path, text.encode()) for path, text in files)


def make_hosts_file(hostname: str, address: str, more: Iterable[Pair]) -> str:
    """hosts(5). What was asked for takes the place of the jail's own name."""
    given = [(name, where) for name, where in more]
    own = list(_name_itself(hostname, {name for name, _ in given}))
    lines = [*LOCALHOST, *([" ".join((address, *own))] if own else ())]
    lines += [f"{where} {name}" for name, where in given]
    return "".join(f"{line}\n" for line in lines)


def _name_itself(hostname: str, taken: set[str]) -> Iterator[str]:
    """Its whole name first: that is the canonical one."""
    for name in dict.fromkeys((hostname, hostname.partition(".")[0])):
        if name.lower() not in {*taken, "localhost"}:
            yield name


def choose_resolv_conf(spec: JailSpec, network: NetworkPlan, host_conf: str) -> str:
    """resolv.conf(5). The host's network has the host's, but for ``--dns``.

    In a network of the jail's own the host's search list is kept, for its names are reached by it.
    Not where an allow-list decides: there each of them would be one more question to refuse.
    """
    nameservers = find_nameservers(spec, network)
    if spec.network == "host" and not nameservers:
        return host_conf
    kept = () if spec.network == "filtered" else _keep_lines(host_conf)
    lines = [*(f"nameserver {each}" for each in nameservers), *kept]
    return "".join(f"{line}\n" for line in lines)


def find_nameservers(spec: JailSpec, network: NetworkPlan) -> tuple[str, ...]:
    """Those that are asked from inside; where an allow-list decides, it is we who ask the others.
    None are the host's own.
    """
    if spec.network == "filtered":
        return network.nameservers
    return spec.dns or network.nameservers


def _keep_lines(host_conf: str) -> Iterator[str]:
    for line in host_conf.splitlines():
        if line.split(None, 1)[:1] in ([word] for word in KEPT_LINES):
            yield line.strip()
