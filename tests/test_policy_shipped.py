"""The shipped policies beside each other: what each allows more than the one it stands on."""

from __future__ import annotations

import errno
from typing import Final

import pytest

from jail.policy.load import Policy, list_policies, load_policy
from jail.policy.rule import Target
from tests import bpf
from tests.policy_reading import (
    GARBAGE,
    MACHINES,
    compiled,
    names,
    number,
    read_chain,
    spread_groups,
    telling_arguments,
)
from tests.test_policy import CLONE_NEW, DANGEROUS, DANGEROUS_ON_X86, PROBED, SET_ID

pytestmark = pytest.mark.beside

WIDER: Final = [
    ("strict", "plugin"),
    ("strict", "compute"),
    ("plugin", "compute"),
    ("compute", "default"),
    ("default", "build"),
    ("default", "network"),
]
POLICIES: Final = ["strict", "plugin", "compute", "default", "build", "network"]
OF_BUILD: Final = frozenset({"ptrace", "process_vm_readv", "process_vm_writev"})
ALLOW: Final = bpf.ALLOW
UNIX, INET, INET6, NETLINK = 1, 2, 10, 16
STREAM, DGRAM, RAW, SEQPACKET = 1, 2, 3, 5
THREAD, FORK, VFORK = 0x003D0F00, 0x01200011, 0x4111


def decide(policy: str, call: str, *args: int, machine: str = "x86_64") -> int:
    of: Policy = load_policy(policy)
    nr = number(call, machine)
    return bpf.run_filter(compiled(of, machine), MACHINES[machine], nr, args)


def refuse(name: str) -> int:
    return bpf.ERRNO | int(getattr(errno, name))


def test_these_are_all_there_are() -> None:
    assert sorted(POLICIES) == list_policies()


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(("narrow", "wide"), WIDER)
def test_whatever_a_policy_allows_the_wider_one_allows(
    narrow: str, wide: str, machine: str
) -> None:
    less, more = (compiled(load_policy(each), machine) for each in (narrow, wide))
    chain = spread_groups(read_chain(wide)) + spread_groups(read_chain(narrow))
    for nr, call in names(machine).items():
        for args in telling_arguments(chain, call):
            if bpf.run_filter(less, MACHINES[machine], nr, args) == ALLOW:
                found = bpf.run_filter(more, MACHINES[machine], nr, args)
                assert found == ALLOW, (call, [hex(each) for each in args])


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("policy", POLICIES)
def test_every_call_that_libseccomp_can_name_has_a_rule_in_each(policy: str, machine: str) -> None:
    chain = spread_groups(read_chain(policy))
    ruled = {call for each in chain for rule in each["rule"] for call in rule["calls"]}
    later = {"riscv_hwprobe", "riscv_flush_icache"}
    assert set(names(machine).values()) - ruled - later == set()


@pytest.mark.parametrize("policy", POLICIES)
def test_what_is_dangerous_is_refused_by_all_and_what_is_probed_is_missing(policy: str) -> None:
    allowed = OF_BUILD if policy == "build" else frozenset()
    for call in (*DANGEROUS, *DANGEROUS_ON_X86):
        assert decide(policy, call) == (ALLOW if call in allowed else refuse("EPERM")), call
    for call in PROBED:
        assert decide(policy, call) == refuse("ENOSYS"), call


@pytest.mark.parametrize("policy", POLICIES)
def test_no_policy_gives_namespaces_set_id_bits_or_the_agent_away(policy: str) -> None:
    for flag in CLONE_NEW.values():
        assert decide(policy, "clone", flag | FORK) == refuse("EPERM")
        assert decide(policy, "clone", flag | THREAD) == refuse("EPERM")
        assert decide(policy, "unshare", flag) == refuse("EPERM")
    for mode in SET_ID:
        assert decide(policy, "chmod", 0, mode) == refuse("EPERM")
        assert decide(policy, "openat", 0, 0, 0o100, mode) == refuse("EPERM")
    for high in (0, GARBAGE):
        assert decide(policy, "kill", 1 | high, 9) == refuse("EPERM")
        assert decide(policy, "tgkill", 1 | high, 1, 9) == refuse("EPERM")
        assert decide(policy, "ioctl", 0, 0x5412 | high) == refuse("EPERM")
        assert decide(policy, "prlimit64", 1 | high, 7, 1) == refuse("EPERM")
        assert decide(policy, "fcntl", 3, 1024 | high) == refuse("EPERM")
    for call in ("sched_setaffinity", "sched_setscheduler", "setpriority", "ioprio_set"):
        assert decide(policy, call, *((0, 1) if call == "setpriority" else (1, 1))) == refuse(
            "EPERM"
        ), call


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("machine", MACHINES)
def test_threads_are_everybodys_and_processes_are_not_for_the_judged(
    policy: str, machine: str
) -> None:
    more = ALLOW if policy not in ("strict", "plugin") else refuse("EPERM")
    for high in (0, GARBAGE):
        assert decide(policy, "clone", THREAD | high, machine=machine) == ALLOW
        assert decide(policy, "clone", FORK | high, machine=machine) == more
        assert decide(policy, "clone", VFORK | high, machine=machine) == more
    for call in ("wait4", "waitid", "execveat", "setsid", "pidfd_open", "setpgid"):
        assert decide(policy, call, machine=machine) == more, call
    for call in (
        "execve",
        "exit_group",
        "tgkill",
        "futex",
        "mmap",
        "openat",
        "read",
        "timer_create",
    ):
        assert decide(policy, call, machine=machine) == ALLOW, call


def test_which_sockets_there_can_be() -> None:
    for policy in POLICIES:
        for family, kind, protocol, wanted in (
            (UNIX, STREAM, 0, ("compute", "default", "build", "network")),
            (UNIX, DGRAM, 0, ("compute", "default", "build", "network")),
            (INET, STREAM, 6, ("default", "build", "network")),
            (INET6, DGRAM, 0, ("default", "build", "network")),
            (NETLINK, RAW, 0, ("default", "build", "network")),
            (NETLINK, RAW, 4, ("network",)),
            (INET, STREAM, 262, ("network",)),
            (INET6, DGRAM, 136, ("network",)),
            (INET, STREAM, 132, ()),
            (INET, RAW, 1, ()),
            (NETLINK, RAW, 16, ()),
            (17, RAW, 0, ()),
            (38, SEQPACKET, 0, ()),
            (40, STREAM, 0, ()),
        ):
            found = decide(policy, "socket", family, kind, protocol)
            assert (found == ALLOW) == (policy in wanted), (policy, family, kind, protocol)


@pytest.mark.parametrize("policy", ["strict", "plugin"])
def test_ends_of_a_pair_reach_nobody_else(policy: str) -> None:
    assert decide(policy, "socketpair", UNIX, STREAM | 0o2000000) == ALLOW
    assert decide(policy, "socketpair", UNIX, DGRAM) != ALLOW
    assert decide(policy, "sendto", 3, 1, 1, 0, 0, 0) == ALLOW
    for address in (1, 1 << 32, bpf.M64):
        assert decide(policy, "sendto", 3, 1, 1, 0, address, 16) == refuse("EACCES")
    for call in ("connect", "bind", "listen", "accept4"):
        assert decide(policy, call) == refuse("EACCES")


def test_plugins_take_descriptors_and_the_judged_do_not() -> None:
    for call in ("sendmsg", "recvmsg", "sendmmsg", "recvmmsg", "setsockopt"):
        assert decide("plugin", call) == ALLOW
        assert decide("strict", call) == refuse("EACCES")


def test_the_judged_ask_little_of_an_open_file_and_of_the_kernel() -> None:
    for high in (0, GARBAGE):
        for request in (0x5401, 0x5413, 0x541B, 0x5421):
            assert decide("strict", "ioctl", 0, request | high) == ALLOW
        for request in (0, 0x40049409, 0x5422, 0xC0045878):
            assert decide("strict", "ioctl", 0, request | high) == refuse("ENOTTY")
            assert decide("default", "ioctl", 0, request | high) == ALLOW
        assert decide("strict", "prctl", 15 | high) == ALLOW
        assert decide("strict", "prctl", 35 | high) == refuse("EINVAL")
        assert decide("strict", "personality", 0xFFFFFFFF | high) == ALLOW
        assert decide("strict", "personality", 8 | high) == refuse("EPERM")


def test_builders_trace_where_a_traced_call_meets_the_filter_again() -> None:
    build = load_policy("build")
    for kernel, passes in (((4, 7), False), ((4, 8), True), ((6, 12), True)):
        target = Target("x86_64", kernel)
        assert build.read_rules(target).decide(target, "ptrace", (0,) * 6).passes == passes
    assert decide("build", "personality", 0x40000) == ALLOW
    assert decide("build", "personality", 0x400000) == refuse("EPERM")
