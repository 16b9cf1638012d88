"""System calls against the running kernel: what the filter refuses is refused, exactly so.

What no host of ours has (x32, other machines, every number) is simulated in tests/test_policy.py;
here the calls are really made, from the jail's first program and from later ones.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import trio
import trio.lowlevel

from jail import Jail, Supervisor, Verdict
from jail.agent.kernel import ARCH
from jail.policy.load import load_policy
from tests.conftest import OpenJail
from tests.part import not_exercised
from tests.probe import REFUSALS, Call, Probe, make_call

CLONE_NEW: Final = {
    "NEWNS": 0x00020000,
    "NEWCGROUP": 0x02000000,
    "NEWUTS": 0x04000000,
    "NEWIPC": 0x08000000,
    "NEWUSER": 0x10000000,
    "NEWPID": 0x20000000,
    "NEWNET": 0x40000000,
}
SIGCHLD: Final = 17
GARBAGE: Final = 0xDEADBEEF << 32
SEIZE: Final = 0x4206
ARGUMENTS: Final[dict[str, tuple[int | str, ...]]] = {
    # Where a closed descriptor or a bad address wouldn't be harmless to whoever may do it.
    "ptrace": (SEIZE, 0),
    "kcmp": (0, 0, 0),
    "reboot": (0, 0, 0),
    "migrate_pages": (0, 0, 0, 0),
    "move_pages": (0, 1, 16, 16, 16),
    "syslog": (3, 16, 16),
    "vhangup": (),
    "sethostname": (16, 4),
    "setdomainname": (16, 4),
}


def list_refused() -> dict[Call, str]:
    """Every call that the shipped policy refuses whatever it is asked → the errno's name."""
    table: dict[Call, str] = {}
    decided: set[str] = set()
    for rule in load_policy("default").rules:
        for name in rule.calls:
            if name in decided:
                continue
            decided.add(name)
            call = make_call(name, *ARGUMENTS.get(name, (16,) * 6))
            refused = rule.is_always() and rule.action not in ("allow", "kill")
            if refused and call.number >= 0:
                table[call] = rule.action
    return table


CONDITIONAL: Final = {
    make_call("unshare", flag, label=f"unshare_{name}"): "EPERM" for name, flag in CLONE_NEW.items()
} | {
    make_call("clone", flag | high | SIGCHLD, 0, 0, 0, 0, label=f"clone_{name}_{high:x}"): "EPERM"
    for name, flag in CLONE_NEW.items()
    for high in (0, GARBAGE)
} | {
    make_call("clone3", f"clone:{flag}", 64, label=f"clone3_{flag:x}"): "ENOSYS"
    for flag in (0, *CLONE_NEW.values())
} | {
    make_call("setns", f"ns:{name}", 0, label=f"setns_{name}"): "EPERM"
    for name in ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")
} | {
    make_call("ioctl", 0, request | high, 16, label=f"ioctl_{request:x}_{high:x}"): "EPERM"
    for request in (0x5412, 0x541C, 0x541D, 0x5423)
    for high in (0, 1 << 32, GARBAGE)
} | {
    make_call("socket", family, kind, protocol, label=f"socket_{family}_{kind}_{protocol}"): errno
    for family, kind, protocol, errno in (
        (38, 5, 0, "EAFNOSUPPORT"),  # AF_ALG
        (40, 1, 0, "EAFNOSUPPORT"),  # AF_VSOCK
        (17, 3, 0x300, "EAFNOSUPPORT"),  # AF_PACKET
        (33, 2, 0, "EAFNOSUPPORT"),  # AF_RXRPC
        (31, 3, 1, "EAFNOSUPPORT"),  # AF_BLUETOOTH
        (29, 3, 1, "EAFNOSUPPORT"),  # AF_CAN
        (30, 1, 0, "EAFNOSUPPORT"),  # AF_TIPC
        (2, 3, 1, "EPROTONOSUPPORT"),  # raw ICMP
        (2, 1, 262, "EPROTONOSUPPORT"),  # MPTCP
        (2, 0o2000005, 132, "EPROTONOSUPPORT"),  # SCTP
        (16, 3, 6, "EPROTONOSUPPORT"),  # NETLINK_XFRM
        (16, 0o2000003, 12, "EPROTONOSUPPORT"),  # NETLINK_NETFILTER
        (16, 3, 9, "EPROTONOSUPPORT"),  # NETLINK_AUDIT
    )
} | {
    make_call("personality", value, label=f"personality_{value:x}"): "EPERM"
    for value in (0x0040000, 0x0400000, 0x0100000, 0x0040000 | GARBAGE)
} | {
    make_call("chmod", "text:/tmp/own", mode, label=f"chmod_{mode:o}"): "EPERM"
    for mode in (0o4755, 0o2755, 0o6777)
}  # fmt: skip
ALLOWED: Final = {
    make_call("clone", SIGCHLD, 0, 0, 0, 0, label="clone"): "OK",
    make_call("clone", SIGCHLD | GARBAGE, 0, 0, 0, 0, label="clone_with_garbage"): "OK",
    make_call("unshare", 0x400, label="unshare_files"): "OK",
    make_call("personality", 0xFFFFFFFF, label="personality_asked"): "OK",
    make_call("socket", 1, 1, 0, label="socket_unix"): "OK",
    make_call("socket", 2, 0o2004001, 6, label="socket_tcp"): "OK",
    make_call("socket", 16, 3, 0, label="socket_route"): "OK",
    make_call("chmod", "text:/tmp/own", 0o755, label="chmod_plain"): "OK",
    make_call("read", 77, "buf", 1): "EBADF",
    make_call("write", 1, "bad", 1): "EFAULT",
    make_call("memfd_create", "bad", 0): "EFAULT",
    make_call("seccomp", 1, 0, "bad", label="a_further_filter"): "EFAULT",
}
if ARCH == "x86_64":
    ALLOWED[make_call("fork")] = "OK"


def expect(*tables: dict[Call, str]) -> dict[str, str]:
    return {call.label: answer for table in tables for call, answer in table.items()}


async def open_own_file(j: Jail) -> None:
    await j.put("/tmp/own", "x")


# -- SC-01, SC-05 ---------------------------------------------------------------------------------


async def test_every_refused_call_is_refused_with_its_own_errno(
    open_jail: OpenJail, probe: Probe, tmp_path: Path
) -> None:
    """SC-01: the whole table, from the first program and from one that joins it."""
    table = list_refused()
    exercised = probe.find_exercised(tmp_path, table)
    async with open_jail() as j, j.start(["sleep", "60"]):
        for _ in range(2):
            assert await probe.try_calls(j, table) == expect(table)
    assert len(exercised) >= len(table) // 2, "outside most of them do something"


async def test_without_the_filter_the_same_calls_answer_otherwise(
    open_jail: OpenJail, probe: Probe
) -> None:
    """SC-01, its control: it is the filter that refuses, not the lack of rights alone."""
    table = list_refused()
    async with open_jail(seccomp="unconfined") as j:
        found = await probe.try_calls(j, table)
    others = {label for label, answer in found.items() if answer != expect(table)[label]}
    assert len(others) >= 25, sorted(others)


async def test_what_depends_on_arguments_is_refused_by_them_alone(
    open_jail: OpenJail, probe: Probe, tmp_path: Path
) -> None:
    """SC-05: CLONE_NEW* with anything in the upper half; NS-03, NS-15 and TY-03 beside it."""
    exercised = probe.find_exercised(tmp_path, CONDITIONAL)
    async with open_jail() as j:
        await open_own_file(j)
        found = await probe.try_calls(j, {**CONDITIONAL, **ALLOWED})
    assert found == expect(CONDITIONAL, ALLOWED)
    assert {f"clone_{name}_0" for name in CLONE_NEW} & exercised, "somebody may make namespaces"


# -- SC-02 ----------------------------------------------------------------------------------------

CALLS_32: Final = [
    Call("getpid", 20),
    Call("socketcall", 102, (1, "buf")),
    Call("mount", 21, ("bad", "bad", "bad", 0, 0)),
    Call("ptrace", 26, (SEIZE, 0, 0, 0)),
    Call("execve", 11, ("bad", 0, 0)),
    Call("unshare", 310, (0x10000000,)),
    Call("nothing", 9999),
]


def require_32_bit_calls(probe: Probe, folder: Path) -> None:
    if ARCH != "x86_64":
        not_exercised("this machine has no 32-bit door in 64-bit programs")
    if probe.try_calls_outside(folder, CALLS_32[:1], door="calls32")["getpid"] != "OK":
        not_exercised("this kernel was built without the 32-bit calls")


async def test_no_call_goes_through_the_32_bit_door(
    open_jail: OpenJail, probe: Probe, tmp_path: Path
) -> None:
    """SC-02: CVE-2026-112917's class. socketcall hides the family, numbers mean other calls."""
    require_32_bit_calls(probe, tmp_path)
    async with open_jail() as j:
        found = await probe.try_calls(j, CALLS_32, door="calls32")
    assert found == {call.label: "SIGSYS" for call in CALLS_32}


async def test_whoever_goes_through_the_32_bit_door_is_a_violator(
    open_jail: OpenJail, probe: Probe, tmp_path: Path
) -> None:
    """SC-02."""
    require_32_bit_calls(probe, tmp_path)
    source = (
        "import ctypes,mmap\n"
        "m = mmap.mmap(-1, 4096, prot=7)\n"
        "m.write(bytes.fromhex('b814000000cd80c3'))  # mov eax, 20; int 0x80; ret\n"
        "f = ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(m)))\n"
        "print('calling', flush=True); print(f())\n"
    )
    async with open_jail() as j:
        result = await j.run(["python3", "-c", source])
        assert (result.verdict, result.limit, result.signal) == (
            Verdict.SV,
            "seccomp",
            signal.SIGSYS,
        )
        assert result.stdout == b"calling\n"
        assert (await j.run(["true"])).ok


# -- SC-08 ----------------------------------------------------------------------------------------

IO_URING: Final = {
    make_call("io_uring_setup", 8, "buf"): "ENOSYS",
    make_call("io_uring_enter", 77, 1, 1, 0, 0, 0): "ENOSYS",
    make_call("io_uring_register", 77, 0, "bad", 1): "ENOSYS",
}


async def test_io_uring_is_not_there_and_asking_kills_nobody(
    open_jail: OpenJail, probe: Probe, tmp_path: Path
) -> None:
    """SC-08: node's start is in tests/test_honest.py."""
    outside = probe.try_calls_outside(tmp_path, IO_URING)
    if set(outside.values()) <= set(REFUSALS):
        not_exercised("this host has switched io_uring off")
    async with open_jail() as j:
        assert await probe.try_calls(j, IO_URING) == expect(IO_URING)


# -- SC-09 ----------------------------------------------------------------------------------------

LOOSEN: Final = """
import ctypes, errno, json, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
allow = ctypes.create_string_buffer(struct.pack('=HBBI', 0x06, 0, 0, 0x7fff0000), 8)
prog = ctypes.create_string_buffer(struct.pack('=H6xQ', 1, ctypes.addressof(allow)), 16)
found = {}
def tried(name, *args):
    answer = libc.syscall(*args)
    found[name] = errno.errorcode[ctypes.get_errno()] if answer < 0 else 'OK'
tried('no_new_privs off', PRCTL, 38, 0, 0, 0, 0)
tried('mode off', PRCTL, 22, 0, 0, 0, 0)
tried('allow all, prctl', PRCTL, 22, 2, prog, 0, 0)
tried('allow all', SECCOMP, 1, 0, prog)
tried('allow all, every thread', SECCOMP, 1, 1, prog)
tried('listener', SECCOMP, 1, 8, prog)
tried('listener, killable', SECCOMP, 1, 0x28, prog)
tried('strict mode', SECCOMP, 0, 1, 0)
print(json.dumps(found), flush=True)
if len(sys.argv) > 1: os.execv(sys.argv[1], sys.argv[1:])
""".replace("PRCTL", "157" if ARCH == "x86_64" else "167").replace(
    "SECCOMP", "317" if ARCH == "x86_64" else "277"
)
LOOSENED: Final = {
    "no_new_privs off": "EINVAL",
    "mode off": "EINVAL",
    "allow all, prctl": "OK",
    "allow all": "OK",
    "allow all, every thread": "OK",
    "listener": "EPERM",
    "listener, killable": "EPERM",
    "strict mode": "EINVAL",
}


async def test_a_filter_of_one_s_own_loosens_nothing(open_jail: OpenJail, probe: Probe) -> None:
    """SC-09: allow everything, three times over, then execute: the same table again."""
    table = {**list_refused(), **CONDITIONAL}
    async with open_jail() as j:
        await open_own_file(j)
        before = await probe.try_calls(j, table)
        command = ["python3", "-c", LOOSEN, "/tmp/try", "calls", "/tmp/table"]
        result = await j.run(command, timeout=20)
        first, _, rest = result.stdout.partition(b"\n")
        assert json.loads(first) == LOOSENED
        assert rest.decode().split() == lines_of(before)
        assert await probe.try_calls(j, table) == before, "nor for whoever comes after"


def lines_of(answers: dict[str, str]) -> list[str]:
    """As the probe prints them."""
    import errno

    words: list[str] = []
    for label, answer in answers.items():
        words += [label, str(getattr(errno, answer))]
    return words


async def test_outside_the_first_listener_is_anybody_s() -> None:
    """SC-09, its control: where no_new_privs is on, filters and listeners may be made."""
    source = f"import ctypes; ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)\n{LOOSEN}"
    done = await trio.run_process([sys.executable, "-c", source], capture_stdout=True)
    found = json.loads(done.stdout)
    if found["listener"] != "OK":
        not_exercised(f"this kernel gives no listener: {found['listener']}")
    assert found["allow all"] == "OK"


# -- SC-10 ----------------------------------------------------------------------------------------

MEDDLE: Final = """
import ctypes, errno, json, os, struct, sys, time
numbers = json.loads(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
secret = ctypes.create_string_buffer(b'secret')
ready, tell = os.pipe()
child = os.fork()
if child == 0:
    os.write(tell, b'x')
    time.sleep(60)
os.read(ready, 1)
own = ctypes.create_string_buffer(6)
local = ctypes.create_string_buffer(struct.pack('QQ', ctypes.addressof(own), 6), 16)
remote = ctypes.create_string_buffer(struct.pack('QQ', ctypes.addressof(secret), 6), 16)
pidfd = os.pidfd_open(child)
found = {}
def tried(name, *args):
    words = (numbers[name.split()[0]], *args)
    answer = libc.syscall(*[ctypes.c_long(w) if isinstance(w, int) else w for w in words])
    found[name] = errno.errorcode[ctypes.get_errno()] if answer < 0 else 'OK'
tried('process_vm_readv', child, local, 1, remote, 1, 0)
tried('process_vm_writev', child, local, 1, remote, 1, 0)
tried('pidfd_getfd', pidfd, 1, 0)
tried('kcmp', os.getpid(), child, 0, 1, 1)
tried('process_madvise', pidfd, remote, 1, 20, 0)
tried('ptrace seize', 0x4206, child, 0, 0)
tried('ptrace attach', 16, child, 0, 0)
os.kill(child, 9)
found['the memory'] = own.raw.decode('latin-1')
print(json.dumps(found))
"""


async def test_no_program_has_its_hands_in_another_not_even_in_its_child(
    open_jail: OpenJail,
) -> None:
    """SC-10."""
    calls = (
        "process_vm_readv",
        "process_vm_writev",
        "pidfd_getfd",
        "kcmp",
        "process_madvise",
        "ptrace",
    )
    numbers = json.dumps({name: make_call(name).number for name in calls})
    done = await trio.run_process([sys.executable, "-c", MEDDLE, numbers], capture_stdout=True)
    outside = json.loads(done.stdout)
    exercised = {name for name, answer in outside.items() if answer == "OK"}
    if not {"process_vm_readv", "ptrace seize"} <= exercised:
        not_exercised(f"nobody here may trace his own child: {outside}")
    async with open_jail() as j:
        found = json.loads((await j.run(["python3", "-c", MEDDLE, numbers])).stdout)
    assert found.pop("the memory") == "\0" * 6
    assert outside["the memory"] == "secret"
    assert set(found.values()) == {"EPERM"}


# -- SC-11 ----------------------------------------------------------------------------------------


async def test_unknown_numbers_are_not_there_and_kill_nobody(
    open_jail: OpenJail, probe: Probe
) -> None:
    """SC-11: those of kernels to come, and those that never will be."""
    known = {make_call(name).number for rule in load_policy("default").rules for name in rule.calls}
    numbers = [*range(463, 1024), 1 << 16, (1 << 31) - 1 & ~0x40000000, 1 << 31, (1 << 32) - 1]
    table = [Call(f"nr_{nr}", nr, (16,) * 6) for nr in numbers if nr not in known]
    assert len(table) > 500
    async with open_jail() as j:
        found = await probe.try_calls(j, table)
    assert set(found.values()) == {"ENOSYS"}


# -- SC-12 ----------------------------------------------------------------------------------------

BUSY: Final = """
import os, subprocess, threading
def spin():
    for _ in range(20): subprocess.run(['true'])
threads = [threading.Thread(target=spin) for _ in range(3)]
for t in threads: t.start()
for _ in range(20):
    if os.fork() == 0:
        if os.fork() == 0: os._exit(0)
        os._exit(0)
    os.wait()
for t in threads: t.join()
"""
STATUS: Final = {
    "Seccomp": "2",
    "NoNewPrivs": "1",
    "CapInh": "0" * 16,
    "CapPrm": "0" * 16,
    "CapEff": "0" * 16,
    "CapBnd": "0" * 16,
    "CapAmb": "0" * 16,
}


async def test_no_task_of_a_jail_is_ever_without_the_filter(open_jail: OpenJail) -> None:
    """SC-12: seen from outside, all the time: agent, first program, later ones, their threads."""
    async with open_jail() as j, trio.open_nursery() as nursery:
        seen: set[tuple[str, ...]] = set()
        names: set[str] = set()
        running = 3

        async def work() -> None:
            nonlocal running
            assert (await j.run(["python3", "-c", BUSY])).ok
            running -= 1

        for _ in range(running):
            nursery.start_soon(work)
        while running:
            for name, status in read_tasks(j.init_pid):
                names.add(name)
                seen.add(status)
            await trio.lowlevel.checkpoint()
    assert seen == {tuple(STATUS.values())}
    assert {"jail:agent", "python3", "true"} <= names


def read_tasks(pid: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(name, the fields of STATUS) of every thread of a process and of all below it."""
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except (FileNotFoundError, ProcessLookupError):
        return
    for task in tasks:
        try:
            text = Path(f"/proc/{pid}/task/{task}/status").read_text(errors="replace")
            children = Path(f"/proc/{pid}/task/{task}/children").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        fields = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
        if not fields["State"].startswith(("Z", "X")):
            yield fields["Name"], tuple(fields[name].strip() for name in STATUS)
        for child in children.split():
            yield from read_tasks(int(child))


async def test_nobody_inside_can_reach_the_filter_s_file(supervisor: Supervisor) -> None:
    """SC-12: it is compiled outside and handed over; neither source nor cache is in the jail."""
    places: list[Any] = [supervisor.facts.cache_dir, Path(load_policy.__code__.co_filename).parent]
    script = "for place; do [ -e $place ] && echo $place; done; true"
    async with supervisor.open_jail() as j:
        result = await j.run(["sh", "-c", script, "sh", *map(str, places)])
    assert (result.stdout, result.verdict) == (b"", Verdict.OK)


@pytest.mark.parametrize("name", ["default"])
def test_the_shipped_policy_refuses_enough_to_be_worth_the_name(name: str) -> None:
    refused = {call.label for call in list_refused()}
    assert {"mount", "ptrace", "bpf", "keyctl", "userfaultfd", "open_by_handle_at"} <= refused
