"""The policy that jails have by default, call by call.

Catalogue: SC-01, SC-03, SC-05, SC-11, NS-15.
"""

from __future__ import annotations

import errno
import itertools
import os
from typing import Final

import pytest

from jail.policy.load import Policy, load_policy
from tests import bpf
from tests.policy_reading import GARBAGE, MACHINES, compiled, names, number

pytestmark = pytest.mark.beside

DEFAULT: Final = load_policy("default")
ENOSYS: Final = bpf.ERRNO | errno.ENOSYS
EPERM: Final = bpf.ERRNO | errno.EPERM
EAFNOSUPPORT: Final = bpf.ERRNO | errno.EAFNOSUPPORT
EPROTONOSUPPORT: Final = bpf.ERRNO | errno.EPROTONOSUPPORT
ALLOW: Final = bpf.ALLOW

CLONE_NEW: Final = {
    "NEWNS": 0x00020000,
    "NEWCGROUP": 0x02000000,
    "NEWUTS": 0x04000000,
    "NEWIPC": 0x08000000,
    "NEWUSER": 0x10000000,
    "NEWPID": 0x20000000,
    "NEWNET": 0x40000000,
}
CLONE_NEWTIME: Final = 0x80


def decide(call: str, *args: int, machine: str = "x86_64", of: Policy = DEFAULT) -> int:
    """What the compiled policy answers to a call."""
    nr = number(call, machine)
    assert nr >= 0, f"{call} is no call of {machine}"
    return bpf.run_filter(compiled(of, machine), MACHINES[machine], nr, args)


# --- The shipped policy -------------------------------------------------------------------------


@pytest.mark.parametrize("machine", MACHINES)
def test_every_call_that_libseccomp_can_name_has_a_rule(machine: str) -> None:
    ruled = {call for rule in DEFAULT.rules for call in rule.calls}
    newest = {"statmount", "listmount", "mseal", *LATER}
    assert set(names(machine).values()) - ruled - newest == set()


LATER: Final = frozenset({"riscv_hwprobe", "riscv_flush_icache"})


@pytest.mark.parametrize("machine", MACHINES)
def test_unknown_numbers_do_not_exist_and_kill_nobody(machine: str) -> None:
    known = names(machine)
    program = compiled(DEFAULT, machine)
    numbers = [*range(1024), *range(1024, 1 << 16, 997), 0x3FFFFFFF, 1 << 31, bpf.M32, -1]
    for nr in set(numbers) - set(known):
        for args in ([0] * 6, [bpf.M64] * 6):
            assert bpf.run_filter(program, MACHINES[machine], nr, args) == ENOSYS, hex(nr)


def test_x32_calls_by_their_bare_numbers_do_not_exist() -> None:
    program = compiled(DEFAULT, "x86_64")
    for nr in range(512, 548):
        assert bpf.run_filter(program, bpf.X86_64, nr) == ENOSYS


DANGEROUS: Final = [
    "mount",
    "umount2",
    "pivot_root",
    "chroot",
    "fsopen",
    "fsconfig",
    "fsmount",
    "fspick",
    "move_mount",
    "open_tree",
    "mount_setattr",
    "setns",
    "ptrace",
    "process_vm_readv",
    "process_vm_writev",
    "process_madvise",
    "process_mrelease",
    "pidfd_getfd",
    "kcmp",
    "bpf",
    "perf_event_open",
    "userfaultfd",
    "fanotify_init",
    "fanotify_mark",
    "add_key",
    "request_key",
    "keyctl",
    "kexec_load",
    "kexec_file_load",
    "reboot",
    "init_module",
    "finit_module",
    "delete_module",
    "open_by_handle_at",
    "name_to_handle_at",
    "syslog",
    "acct",
    "swapon",
    "swapoff",
    "quotactl",
    "quotactl_fd",
    "sethostname",
    "setdomainname",
    "vhangup",
    "nfsservctl",
    "lookup_dcookie",
    "settimeofday",
    "clock_settime",
    "clock_adjtime",
    "adjtimex",
    "move_pages",
    "migrate_pages",
]
DANGEROUS_ON_X86: Final = ["create_module", "query_module", "iopl", "ioperm", "modify_ldt"]
PROBED: Final = [
    "clone3",
    "openat2",
    "io_uring_setup",
    "io_uring_enter",
    "io_uring_register",
    "memfd_secret",
]
NEEDED: Final = [
    "rseq",
    "set_robust_list",
    "prlimit64",
    "getrandom",
    "membarrier",
    "futex",
    "sigaltstack",
    "statx",
    "newfstatat",
    "close_range",
    "copy_file_range",
    "memfd_create",
    "execveat",
    "pidfd_open",
    "sched_getaffinity",
    "getcpu",
    "get_mempolicy",
    "set_mempolicy",
    "mbind",
    "eventfd2",
    "timerfd_create",
    "inotify_init1",
    "mremap",
    "wait4",
    "umask",
    "utimensat",
    "renameat",
    "renameat2",
    "linkat",
    "symlinkat",
    "sched_setaffinity",
    "mincore",
    "mmap",
    "epoll_create1",
    "epoll_pwait",
    "epoll_pwait2",
    "futex_waitv",
    "faccessat2",
    "pipe2",
    "tgkill",
    "mlock",
    "mlockall",
    "landlock_create_ruleset",
    "landlock_add_rule",
    "landlock_restrict_self",
    "sendmsg",
    "recvmsg",
    "ppoll",
    "signalfd4",
    "getdents64",
    "mkdirat",
    "fchmod",
    "ftruncate",
    "chdir",
    "kill",
]
NEEDED_ON_X86: Final = [
    "arch_prctl",
    "vfork",
    "fork",
    "poll",
    "epoll_wait",
    "open",
    "stat",
    "rename",
    "link",
    "symlink",
]


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    ("calls", "action"), [(DANGEROUS, EPERM), (PROBED, ENOSYS), (NEEDED, ALLOW)]
)
def test_dangerous_calls_are_refused_probed_ones_missing_needed_ones_there(
    calls: list[str], action: int, machine: str
) -> None:
    for call in calls:
        assert decide(call, machine=machine) == action, call


def test_what_only_x86_has_is_sorted_the_same_way() -> None:
    for call in DANGEROUS_ON_X86:
        assert decide(call) == EPERM, call
    for call in NEEDED_ON_X86:
        assert decide(call) == ALLOW, call
    for call in ("uselib", "_sysctl", "ustat", "sysfs", "vserver", "set_thread_area"):
        assert decide(call) == ENOSYS, call


@pytest.mark.parametrize("high", [0, GARBAGE, bpf.M32 << 32])
@pytest.mark.parametrize("low", [0, 17, 0x003D0F00, 0x00800000 | 0x4000 | 17])
@pytest.mark.parametrize("flag", CLONE_NEW)
def test_clone_makes_no_namespace_whatever_else_it_is_asked(flag: str, low: int, high: int) -> None:
    assert decide("clone", CLONE_NEW[flag] | low | high, bpf.M64) == EPERM


@pytest.mark.parametrize("flags", [0, 17, 0x003D0F00, 0x01200011, 0x4111, 0x80 | 17])
@pytest.mark.parametrize("high", [0, GARBAGE])
def test_clone_makes_processes_and_threads(flags: int, high: int) -> None:
    assert decide("clone", flags | high) == ALLOW


def test_all_pairs_of_namespace_flags_are_refused() -> None:
    for one, other in itertools.combinations(CLONE_NEW.values(), 2):
        assert decide("clone", one | other | 17) == EPERM


@pytest.mark.parametrize("flag", [*CLONE_NEW.values(), CLONE_NEWTIME, 0x00100000, 1 << 31, 1 << 32])
def test_unshare_makes_no_namespace_not_even_one_yet_to_come(flag: int) -> None:
    assert decide("unshare", flag) == EPERM
    assert decide("unshare", flag | 0x200) == EPERM


@pytest.mark.parametrize("flag", [0, 0x200, 0x400, 0x40000, 0x40600])
def test_unshare_gives_a_thread_its_own_files(flag: int) -> None:
    assert decide("unshare", flag) == ALLOW


SET_ID: Final = [0o4755, 0o2755, 0o6755, 0o4000, 0o2000, 0o104644, 0o7777]
PLAIN: Final = [0o755, 0o1777, 0, 0o100644, 0o010600]


@pytest.mark.parametrize("high", [0, GARBAGE])
@pytest.mark.parametrize(
    ("call", "before"),
    [
        ("chmod", 1),
        ("fchmod", 1),
        ("fchmodat", 2),
        ("creat", 1),
        ("mkdir", 1),
        ("mknod", 1),
        ("mkdirat", 2),
        ("mknodat", 2),
    ],
)
def test_set_id_bits_are_refused(call: str, before: int, high: int) -> None:
    args = [bpf.M64] * before
    assert {decide(call, *args, mode | high) for mode in SET_ID} == {EPERM}
    assert {decide(call, *args, mode | high) for mode in PLAIN} == {ALLOW}


def test_fchmodat2_refuses_set_id_bits_or_is_missing() -> None:
    if number("fchmodat2") < 0:
        assert bpf.run_filter(compiled(DEFAULT, "x86_64"), bpf.X86_64, 452) == ENOSYS
        return
    assert {decide("fchmodat2", 3, 0, mode, 0x100) for mode in SET_ID} == {EPERM}
    assert {decide("fchmodat2", 3, 0, mode, 0x100) for mode in PLAIN} == {ALLOW}


O_TMPFILE: Final = 0o20200000
CREATING: Final = [os.O_CREAT, os.O_CREAT | os.O_RDWR | os.O_EXCL, O_TMPFILE, O_TMPFILE | 2]
READING: Final = [0, os.O_RDWR, os.O_DIRECTORY | os.O_CLOEXEC, os.O_PATH, os.O_TRUNC | 1]


@pytest.mark.parametrize("high", [0, GARBAGE])
@pytest.mark.parametrize(("call", "before"), [("open", 1), ("openat", 2)])
def test_set_id_bits_are_refused_when_a_file_is_born_and_else_the_mode_is_garbage(
    call: str, before: int, high: int
) -> None:
    args = [bpf.M64] * before
    for flags in CREATING:
        assert {decide(call, *args, flags | high, mode | high) for mode in SET_ID} == {EPERM}
        assert {decide(call, *args, flags | high, mode | high) for mode in PLAIN} == {ALLOW}
    for flags in READING:
        for mode in (*SET_ID, *PLAIN, bpf.M64):
            assert decide(call, *args, flags | high, mode | high) == ALLOW


UNIX, INET, INET6, NETLINK = 1, 2, 10, 16
STREAM, DGRAM, RAW, SEQPACKET = 1, 2, 3, 5
TYPE_BITS: Final = [0, 0o2000000, 0o4000, 0o2004000, GARBAGE]


@pytest.mark.parametrize("bits", TYPE_BITS)
@pytest.mark.parametrize(
    ("family", "kind", "protocol"),
    [
        (UNIX, STREAM, 0),
        (UNIX, DGRAM, 0),
        (UNIX, SEQPACKET, 0),
        (INET, STREAM, 0),
        (INET, STREAM, 6),
        (INET, DGRAM, 17),
        (INET6, STREAM, 0),
        (INET6, DGRAM, 0),
        (NETLINK, RAW, 0),
        (NETLINK, DGRAM, 0),
    ],
)
def test_sockets_that_programs_need_can_be_made(
    family: int, kind: int, protocol: int, bits: int
) -> None:
    assert decide("socket", family | GARBAGE, kind | bits, protocol | GARBAGE) == ALLOW


@pytest.mark.parametrize("family", [0, *range(3, 10), *range(11, 16), *range(17, 64), 255, 1 << 31])
def test_no_socket_of_another_family_alg_and_vsock_among_them(family: int) -> None:
    for high, kind, protocol in itertools.product([0, GARBAGE], range(16), [0, 1, 6]):
        assert decide("socket", family | high, kind, protocol) == EAFNOSUPPORT
        assert decide("socketpair", family | high, kind, protocol) == EAFNOSUPPORT


@pytest.mark.parametrize("protocol", [*range(1, 32), 255, 1 << 31])
def test_netlink_is_for_routes_only(protocol: int) -> None:
    for high, kind in itertools.product([0, GARBAGE], [DGRAM, RAW]):
        assert decide("socket", NETLINK, kind, protocol | high) == EPROTONOSUPPORT


@pytest.mark.parametrize("family", [INET, INET6])
def test_no_raw_socket_and_no_exotic_transport(family: int) -> None:
    for kind, protocol in itertools.product(range(16), [*range(300), 1 << 16]):
        plain = (kind == STREAM and protocol in (0, 6)) or (
            kind == DGRAM and protocol in (0, 1, 17, 58)
        )
        expected = ALLOW if plain else EPROTONOSUPPORT
        assert decide("socket", family, kind, protocol) == expected, (kind, protocol)


def test_pairs_are_unix_only() -> None:
    assert decide("socketpair", UNIX, STREAM | 0o2000000) == ALLOW
    assert decide("socketpair", INET, STREAM) == EAFNOSUPPORT
    assert decide("socketpair", UNIX, RAW) == EAFNOSUPPORT


@pytest.mark.parametrize("high", [0, GARBAGE, bpf.M32 << 32])
def test_typing_into_a_terminal_is_refused_whatever_the_upper_half_says(high: int) -> None:
    for request in (0x5412, 0x541C, 0x541D, 0x5423):
        assert decide("ioctl", 0, request | high) == EPERM
    for request in (0, 0x5401, 0x5411, 0x5413, 0x541B, 0x541E, 0x5422, 0x80045430, 0x5412 << 16):
        assert decide("ioctl", 0, request | high) == ALLOW


def test_personality_takes_five_values() -> None:
    harmless = [0, 8, 0x20000, 0x20008, 0xFFFFFFFF]
    for value in (*harmless, *range(1, 8), 0x0040000, 0x0400000, 0x0100000, 0x20001, 0xFFFFFFFE):
        expected = ALLOW if value in harmless else EPERM
        assert decide("personality", value) == expected
        assert decide("personality", value | GARBAGE) == expected


def test_no_listener_but_the_supervisors_and_any_further_filter() -> None:
    for flags in (8, 9, 0x1F, 8 | GARBAGE):
        assert decide("seccomp", 1, flags) == EPERM
        assert decide("seccomp", 1 | GARBAGE, flags) == EPERM
    for operation, flags in ((1, 0), (1, 1), (0, 0), (2, 0), (3, 0), (1, 0x10)):
        assert decide("seccomp", operation, flags) == ALLOW
    assert decide("prctl", 22, 2) == ALLOW


def test_limits_are_ones_own() -> None:
    assert decide("prlimit64", 0, 7, 0x7F0000000000) == ALLOW
    assert decide("prlimit64", GARBAGE, 7, 0x7F0000000000) == ALLOW
    assert decide("prlimit64", 1, 7, 0) == ALLOW
    assert decide("prlimit64", 1, 7, 0x7F0000000000) == EPERM
    assert decide("prlimit64", 1 | GARBAGE, 7, 1 << 32) == EPERM
    assert decide("prlimit64", 4711, 7, 1) == EPERM


@pytest.mark.parametrize("high", [0, GARBAGE])
def test_nobody_touches_process_1(high: int) -> None:
    for call in ("kill", "tkill", "rt_sigqueueinfo", "sched_setaffinity", "sched_setattr"):
        assert decide(call, 1 | high, 9) == EPERM, call
        assert decide(call, 2 | high, 1) == ALLOW, call
        assert decide(call, 0 | high, 1) == ALLOW, call
    for call in ("tgkill", "rt_tgsigqueueinfo"):
        assert decide(call, 1 | high, 5, 9) == EPERM
        assert decide(call, 5, 1 | high, 9) == EPERM
        assert decide(call, 5 | high, 6 | high, 1) == ALLOW
    assert decide("kill", bpf.M32, 9) == ALLOW  # -1: the kernel leaves process 1 out
    for call, kinds in (("setpriority", (0, 1, 2)), ("ioprio_set", (1, 2, 3))):
        process, group, user = kinds
        assert decide(call, process | high, 1 | high, 19) == EPERM
        assert decide(call, group | high, 1 | high, 19) == EPERM
        assert decide(call, user | high, 0, 19) == EPERM
        assert decide(call, process | high, 0, 19) == ALLOW
