"""System calls in words: a report and a policy are read by people."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jail.policy.describe import STRING_ARGUMENTS, describe_call, name_mask, name_value
from jail.policy.describe.call import KINDS
from jail.policy.describe.kind import NAMES, make_open_flags
from jail.policy.libseccomp import UNKNOWN, read_binding, read_number
from jail.policy.number import call_name
from tests.part import require

pytestmark = pytest.mark.beside

AT_FDCWD = 2**64 - 100
NEWER = ("getxattrat", "listxattrat", "open_tree_attr", "removexattrat", "setxattrat")
"""than some libseccomp's names"""
CALLS: tuple[tuple[str, str, tuple[int, ...], dict[int, str]], ...] = (
    ("socket(AF_ALG, SOCK_SEQPACKET|SOCK_CLOEXEC, 0)", "socket", (38, 0o2000005, 0), {}),
    ("socket(AF_INET, SOCK_RAW, IPPROTO_ICMP)", "socket", (2, 3, 1), {}),
    ("socket(AF_NETLINK, SOCK_RAW, NETLINK_XFRM)", "socket", (16, 3, 6), {}),
    (
        'openat(AT_FDCWD, "/etc/shadow", O_RDONLY)',
        "openat",
        (AT_FDCWD, 9, 0, 0xDEAD),
        {1: "/etc/shadow"},
    ),
    (
        'openat(AT_FDCWD, "x", O_WRONLY|O_CREAT|O_EXCL, 04755)',
        "openat",
        (0xFFFFFF9C, 9, 0o301, 0o4755),
        {1: "x"},
    ),
    ("openat(3, …, O_RDWR|O_TMPFILE, 0600)", "openat", (3, 9, 0o20200002, 0o600), {}),
    ("open(NULL, O_WRONLY|O_SYNC)", "open", (0, 0o4010001), {}),
    ("clone(SIGCHLD|CLONE_NEWUSER, …)", "clone", (0x10000011,), {}),
    ("clone(CLONE_VM|CLONE_THREAD, …)", "clone", (0x10100,), {}),
    (
        'mount("none", "/mnt", "tmpfs", 0)',
        "mount",
        (1, 1, 1, 0),
        {0: "none", 1: "/mnt", 2: "tmpfs"},
    ),
    ("ioctl(0, TIOCSTI, …)", "ioctl", (0, 0xFF00000000005412), {}),
    ("prctl(PR_SET_MM, …)", "prctl", (35, 1), {}),
    ("prctl(PR_SET_VMA, …)", "prctl", (0x53564D41,), {}),
    ("kill(1, SIGKILL)", "kill", (1, 9), {}),
    ("kill(-1, SIGTERM)", "kill", (0xFFFFFFFF, 15), {}),
    ("unshare(CLONE_NEWTIME|CLONE_NEWNS)", "unshare", (0x20080,), {}),
    ("ptrace(PTRACE_ATTACH, 5)", "ptrace", (16, 5), {}),
    ("bpf(BPF_PROG_LOAD)", "bpf", (5, 99, 100), {}),
    ("personality(PER_LINUX|ADDR_NO_RANDOMIZE)", "personality", (0x40000,), {}),
    ("fcntl(3, F_SETLEASE, …)", "fcntl", (3, 1024, 1), {}),
    (
        "seccomp(SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER)",
        "seccomp",
        (1, 8, 77),
        {},
    ),
    ('chmod("/x", 04755)', "chmod", (1, 0o4755), {0: "/x"}),
    ('mknod("/x", S_IFCHR|0666, 1:3)', "mknod", (1, 0o20666, 0x103), {0: "/x"}),
    ("prlimit64(0, RLIMIT_NOFILE, …, NULL)", "prlimit64", (0, 7, 5, 0), {}),
    ('connect(3, "127.0.0.1:80", 16)', "connect", (3, 1, 16), {1: "127.0.0.1:80"}),
    ("keyctl(KEYCTL_READ, …)", "keyctl", (11,), {}),
    ("syslog(SYSLOG_ACTION_READ_ALL, …)", "syslog", (3,), {}),
    ("getppid()", "getppid", (7, 7, 7), {}),
    ("read(0, …, 4096)", "read", (0, 8, 4096), {}),
    ("read(-1, NULL, 18446744073709551615)", "read", (2**64 - 1, 0, 2**64 - 1), {}),
    ("frobnicate(0x1, 0x0, 0x3)", "frobnicate", (1, 0, 3, 0, 0, 0), {}),
    ("frobnicate(0x1, 0x2, 0x3, …)", "frobnicate", (1, 2, 3, 4, 0, 0), {}),
    ("frobnicate()", "frobnicate", (), {}),
)


@pytest.mark.parametrize(("text", "call", "args", "strings"), CALLS)
def test_a_call_is_told_as_one_writes_it(
    text: str, call: str, args: tuple[int, ...], strings: dict[int, str]
) -> None:
    assert describe_call(call, args, strings, machine="x86_64") == text


def test_open_has_other_numbers_on_arm() -> None:
    flags = 0o40000 | 0o2000000
    assert describe_call("openat", (3, 1, flags), machine="aarch64") == (
        "openat(3, …, O_RDONLY|O_CLOEXEC|O_DIRECTORY)"
    )
    assert "O_DIRECT" not in describe_call("open", (1, flags), machine="aarch64").split("|")


@pytest.mark.parametrize(
    ("shown", "call", "index", "value", "mask"),
    [
        ("AF_UNIX", "socket", 0, 1, 0xFFFFFFFF),
        ("SOCK_DGRAM", "socket", 1, 2, 0xF),
        ("CLONE_NEWUSER", "clone", 0, 0x10000000, 0x10000000),
        ("0", "clone", 0, 0, 0x10000000),
        ("04000", "chmod", 1, 0o4000, 0o4000),
        ("O_CREAT", "openat", 2, 0o100, 0o100),
        ("0", "openat", 2, 0, 0o100),
        ("O_RDONLY", "openat", 2, 0, 3),
        ("NULL", "prlimit64", 2, 0, None),
        ("TIOCSTI", "ioctl", 1, 0x5412, 0xFFFFFFFF),
        ("0xffffffff", "personality", 0, 0xFFFFFFFF, 0xFFFFFFFF),
        ("PER_LINUX", "personality", 0, 0, 0xFFFFFFFF),
        ("PER_LINUX32|UNAME26", "personality", 0, 0x20008, 0xFFFFFFFF),
        ("1", "kill", 0, 1, 0xFFFFFFFF),
        ("IPPROTO_TCP", "socket", 2, 6, 0xFFFFFFFF),
        ("0x7", "frobnicate", 5, 7, None),
    ],
)
def test_a_policy_s_number_has_its_name(
    shown: str, call: str, index: int, value: int, mask: int | None
) -> None:
    assert name_value(call, index, value, mask) == shown


def test_a_protocol_is_named_by_its_family() -> None:
    assert name_value("socket", 2, 9, before=(16, 3)) == "NETLINK_AUDIT"


def test_a_mask_is_told_by_the_bits_that_matter() -> None:
    assert name_mask("clone", 0, 0x30000000) == "CLONE_NEWUSER|CLONE_NEWPID"
    assert name_mask("unshare", 0, 0xFFFFFFFFFFFBF9FF) == "~(CLONE_FS|CLONE_FILES|CLONE_SYSVSEM)"
    assert name_mask("chmod", 1, 0o6000) == "06000"
    assert name_mask("ioctl", 1, 0xFFFFFFFF) == "0xffffffff"


@given(st.text(max_size=300) | st.binary(max_size=300).map(os.fsdecode))
def test_what_a_program_wrote_stays_on_its_line_and_within_its_quotes(text: str) -> None:
    shown = describe_call("chdir", (1,), {0: text})
    assert shown.isprintable()
    assert shown.startswith('chdir("') and shown.endswith(('")', '"…)'))
    assert len(shown) <= len('chdir(""…)') + 120
    inner = shown[len('chdir("') : shown.rindex('"')]
    assert '"' not in inner.replace("\\\\", "").replace('\\"', "")


def test_escapes_are_those_of_python() -> None:
    assert describe_call("chdir", (1,), {0: 'a"\\\n\x1b[2J\udcff\u202e'}) == (
        'chdir("a\\"\\\\\\n\\x1b[2J\\xff\\u202e")'
    )


@given(
    st.sampled_from([*KINDS, "frobnicate"]),
    st.lists(st.integers(0, 2**64 - 1) | st.sampled_from([0, 2**64 - 1, 2**31]), max_size=6),
    st.sampled_from(["x86_64", "aarch64"]),
)
def test_whatever_is_in_the_registers_there_is_one_short_line(
    call: str, args: list[int], machine: str
) -> None:
    shown = describe_call(call, args, machine=machine)
    assert shown.startswith(f"{call}(") and shown.endswith(")")
    assert shown.isprintable() and len(shown) < 600
    for index, value in enumerate(args):
        assert name_value(call, index, value).isprintable()
        assert name_mask(call, index, value).isprintable()


def test_the_arguments_that_are_texts_are_known() -> None:
    assert STRING_ARGUMENTS["openat"] == (1,)
    assert STRING_ARGUMENTS["mount"] == (0, 1, 2)
    assert STRING_ARGUMENTS["symlinkat"] == (0, 2)
    assert "read" not in STRING_ARGUMENTS


def test_every_call_in_the_table_is_one() -> None:
    library = read_binding()
    for call in KINDS:
        numbers = [read_number(library, call, each) for each in ("x86_64", "aarch64")]
        assert any(each != UNKNOWN for each in numbers) or call in NEWER, call


def test_every_call_that_the_policies_name_is_in_the_table() -> None:
    """Or takes nothing that would be told."""
    from jail.policy.load import list_policies, load_policy

    for policy in list_policies():
        for rule in load_policy(policy).rules:
            for conditions in rule.alternatives:
                for call in rule.calls if conditions else ():
                    kinds = KINDS[call]
                    assert all(each.arg < len(kinds) for each in conditions), call


def test_a_number_has_its_call_s_name() -> None:
    assert call_name(257, "x86_64") == call_name(56, "aarch64") == "openat"
    assert call_name(463, "x86_64") is None or call_name(463, "x86_64") == "setxattrat"
    assert call_name(-1, "x86_64") is None
    assert call_name(2**31, "x86_64") is None


HEADERS = """
asm/ioctls fcntl linux/bpf linux/close_range linux/falloc linux/fs linux/futex linux/keyctl
linux/memfd linux/mempolicy linux/mount linux/netlink linux/prctl linux/personality linux/ptrace
linux/random linux/reboot linux/sched linux/seccomp linux/userfaultfd linux/if_tun linux/in
linux/membarrier linux/sched/types net/if sys/epoll sys/eventfd sys/inotify sys/mman sys/mount
sys/resource sys/socket sys/timerfd sys/wait sys/xattr time signal
"""
INCOMPLETE = ("O_LARGEFILE", "O_TMPFILE", "__O_TMPFILE", "FS_IOC_FIEMAP", "TCGETS2", "TCSETS2")
"""other to libc than to the kernel; of structures that no header here tells"""


def test_the_names_are_the_headers_own(tmp_path: Path) -> None:
    """Every name that is a macro in the C library's or the kernel's headers has that number."""
    require("gcc")
    names = dict(_read_names())
    lines = ["#define _GNU_SOURCE", "#include <stdio.h>"]
    lines += [f"#if __has_include(<{h}.h>)\n#include <{h}.h>\n#endif" for h in HEADERS.split()]
    lines.append("int main(void) {")
    for name in names:
        text = f'printf("%s %llu\\n", "{name}", (unsigned long long)(unsigned)({name}));'
        lines.append(f"#ifdef {name}\n{text}\n#endif")
    source = tmp_path / "names.c"
    source.write_text("\n".join([*lines, "return 0; }"]))
    subprocess.run(["gcc", "-w", "-o", tmp_path / "names", source], check=True, timeout=50)
    done = subprocess.run([tmp_path / "names"], capture_output=True, text=True, check=True)
    told = {line.split()[0]: int(line.split()[1]) for line in done.stdout.splitlines()}
    assert len(told) > 300
    assert {name: names[name] for name in told} == told


def _read_names() -> dict[str, int]:
    tables = [*NAMES.values(), make_open_flags(platform.machine())]
    pairs = [pair for each in tables for pair in (*each.choices.items(), *each.flags.items())]
    return {
        name: number & 0xFFFFFFFF
        for number, name in pairs
        if name.isidentifier() and name not in INCOMPLETE
    }
