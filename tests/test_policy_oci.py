"""Profiles of Docker, podman and the OCI: what they mean here, against a naive reading."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jail.policy import libseccomp
from jail.policy.number import read_names
from jail.policy.oci import FLAGS
from jail.policy.rule import Target
from tests import bpf
from tests.command import run_jail
from tests.oci import (
    ALLOW,
    ARM,
    CALLS,
    DEBIANS,
    ERRNO,
    TARGETS,
    X86,
    decide,
    make_arg,
    make_entry,
    make_profile,
    parse,
    patience,
    profiles,
    read_naively,
    telling_arguments,
    values,
)
from tests.part import require

pytestmark = pytest.mark.beside


@given(profiles, st.sampled_from(TARGETS), st.lists(values, min_size=6, max_size=6))
@settings(patience, max_examples=400)
def test_any_profile_decides_as_a_naive_reading(
    profile: dict[str, Any], target: Target, args: list[int]
) -> None:
    ruleset = parse(profile, target)
    for call in CALLS:
        tried = itertools.chain([args], itertools.islice(telling_arguments(profile, call), 150))
        for each in tried:
            expected = read_naively(profile, call, each, target)
            assert ruleset.decide(target, call, each).action == expected, (call, each)


plain_entries = st.fixed_dictionaries(
    {
        "names": st.just(["read"]),
        "args": st.just([])
        | st.lists(
            st.builds(make_arg, st.just(0), st.sampled_from(["EQ", "MASKED_EQ"]), values, values),
            min_size=1,
            max_size=1,
        ),
    }
)


@given(st.lists(plain_entries, max_size=4), st.sampled_from([1, 38]))
@settings(patience, max_examples=200)
def test_libseccomp_itself_decides_so_where_it_leaves_nothing_open(
    plain: list[dict[str, Any]], number: int
) -> None:
    """Rules of one action, as runc hands them over."""
    syscalls = [{**each, "action": ALLOW} for each in plain]
    profile = {"defaultAction": ERRNO, "defaultErrnoRet": number, "syscalls": syscalls}
    program = compile_as_runc(profile)
    ruleset = parse(profile)
    for args in itertools.islice(telling_arguments(profile, "read"), 200):
        expected = ruleset.decide(X86, "read", args).action
        answer = bpf.run_filter(program, bpf.X86_64, 0, args)
        assert answer == (bpf.ALLOW if expected == "allow" else bpf.ERRNO | number), args


def compile_as_runc(profile: dict[str, Any]) -> bytes:
    library = libseccomp.read_binding()
    filter_ = library.SyscallFilter(library.ERRNO(profile["defaultErrnoRet"]))
    for entry in profile["syscalls"]:
        args = [
            library.Arg(each["index"], library.MASKED_EQ, each["value"], each["valueTwo"])
            if each["op"] == "SCMP_CMP_MASKED_EQ"
            else library.Arg(each["index"], library.EQ, each["value"])
            for each in entry["args"]
        ]
        filter_.add_rule(library.ALLOW, entry["names"][0], *args)
    with os.fdopen(os.memfd_create("bpf"), "w+b") as file:
        filter_.export_bpf(file)
        file.seek(0)
        return file.read()


# --- One thing at a time -------------------------------------------------------------------------


def test_a_rule_that_says_what_the_default_says_hides_no_other() -> None:
    same = make_entry("read", action=ERRNO, errnoRet=38)
    conditional = make_entry("read", args=[make_arg(0, "EQ", 1)])
    assert decide(make_profile(same, conditional), "read", 1) == "allow"
    other = make_entry("read", action=ERRNO)
    assert decide(make_profile(other, conditional), "read", 1) == "EPERM"
    assert decide(make_profile(conditional, other), "read", 1) == "EPERM"


def test_an_argument_compared_twice_makes_alternatives() -> None:
    args = [make_arg(0, "EQ", 1), make_arg(0, "EQ", 2), make_arg(1, "EQ", 7)]
    profile = make_profile(make_entry("read", args=args))
    assert decide(profile, "read", 1, 0) == "allow"
    assert decide(profile, "read", 0, 7) == "allow"
    assert decide(profile, "read", 0, 0) == "ENOSYS"
    once = make_profile(make_entry("read", args=args[1:]))
    assert decide(once, "read", 2, 0) == "ENOSYS"
    assert decide(once, "read", 2, 7) == "allow"


def test_an_old_profile_has_one_name_a_rule() -> None:
    profile = {
        "defaultAction": ERRNO,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [{"name": "read", "action": ALLOW, "args": []}],
    }
    assert decide(profile, "read") == "allow"


def test_what_is_newer_than_the_profile_is_said_not_to_be_there() -> None:
    profile = {"defaultAction": ERRNO, "syscalls": [make_entry("read", "execve")]}
    assert decide(profile, "write") == "EPERM"
    assert decide(profile, "statx") == "ENOSYS"
    assert decide(profile, "no_such_call") == "ENOSYS"
    assert decide({"defaultAction": "SCMP_ACT_LOG", "syscalls": []}, "statx") == "log"


@pytest.mark.parametrize(
    ("action", "ours"),
    [
        ({"action": "SCMP_ACT_KILL"}, "kill"),
        ({"action": "SCMP_ACT_KILL_THREAD"}, "kill"),
        ({"action": "SCMP_ACT_KILL_PROCESS"}, "kill"),
        ({"action": "SCMP_ACT_TRAP"}, "trap"),
        ({"action": "SCMP_ACT_TRACE"}, "ENOSYS"),
        ({"action": "SCMP_ACT_LOG"}, "log"),
        ({"action": ERRNO}, "EPERM"),
        ({"action": ERRNO, "errnoRet": 13}, "EACCES"),
        ({"action": ERRNO, "errno": "EACCES"}, "EACCES"),
        ({"action": ERRNO, "errno": "13", "errnoRet": 1}, "EACCES"),
    ],
)
def test_actions_have_ours(action: dict[str, Any], ours: str) -> None:
    assert decide(make_profile(make_entry("read", **action)), "read") == ours


def test_a_reason_is_the_comment_or_says_that_the_profile_says_so() -> None:
    profile = make_profile(
        make_entry("read", comment="files\n  are read"), make_entry("write", action=ERRNO)
    )
    assert [rule.why for rule in parse(profile).rules] == [
        "files are read",
        "the profile refuses it",
    ]


def test_a_config_json_has_its_profile_in_it() -> None:
    profile = make_profile(make_entry("read"), architectures=["SCMP_ARCH_X86_64"])
    config = {"ociVersion": "1.0.2", "root": {}, "linux": {"seccomp": profile, "resources": {}}}
    assert parse(config) == parse(profile)


def test_every_flag_is_taken_and_none_changes_anything() -> None:
    profile = make_profile(make_entry("read"))
    assert parse({**profile, "flags": list(FLAGS)}) == parse(profile)


# --- Debian's ------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.machine)
def test_debians_profile_decides_as_a_naive_reading(target: Target) -> None:
    require("containers")
    text = DEBIANS.read_bytes()
    profile = json.loads(text)
    ruleset = parse(text, target)
    calls = {name for each in profile["syscalls"] for name in each["names"]}
    for call in {*calls, *read_names(target.machine).values(), "no_such_call"}:
        for args in telling_arguments(profile, call):
            expected = read_naively(profile, call, args, target)
            assert ruleset.decide(target, call, args).action == expected, (call, args)


def test_debians_profile_decides_as_its_authors_meant() -> None:
    require("containers")
    text = DEBIANS.read_bytes()
    assert decide(text, "socket", 16, 3, 0) == "allow"
    assert decide(text, "socket", 16, 3, 9) == "EINVAL"
    assert decide(text, "bpf") == "EPERM"
    assert decide(text, "io_uring_setup") == "ENOSYS"
    assert decide(text, "clone3") == "allow"
    assert decide(text, "kexec_load") == "EPERM"
    assert decide(text, "personality", 0x20008) == "allow"
    assert decide(text, "personality", 0x40000) == "ENOSYS"
    assert decide(text, "arch_prctl") == "allow"
    assert decide(text, "arch_prctl", target=ARM) == "ENOSYS"
    assert decide(text, "arm_fadvise64_64", target=ARM) == "allow"


# --- Programs under them -------------------------------------------------------------------------

PYTHON: Final = """
import os, socket, subprocess, threading
threads = [threading.Thread(target=os.getpid) for _ in range(4)]
[each.start() for each in threads]; [each.join() for each in threads]
here, there = socket.socketpair(); here.send(b"x"); assert there.recv(1) == b"x"
print(subprocess.run(["sort"], input=b"b\\na\\n", capture_output=True, check=True).stdout.split())
"""
PROGRAMS: Final = (
    ("/usr/bin/python3", "-c", PYTHON),
    ("/bin/sh", "-c", "cd /tmp && mkdir a && echo b >a/c && mv a d && cat d/c | tr b B"),
    ("/usr/bin/gcc", "-x", "c", "-o", "/tmp/out", "/usr/include/limits.h", "-fsyntax-only"),
    ("/usr/bin/env", "true"),
)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program[0])
def test_programs_run_under_debians_profile(program: tuple[str, ...]) -> None:
    require("containers", "gcc")
    done = run_jail("--seccomp", str(DEBIANS), "--", *program)
    assert done.status == 0, done.stderr


def test_debians_profile_refuses_in_a_jail_what_it_says() -> None:
    require("containers")
    asked = "import socket, ctypes; print(ctypes.CDLL(None).mount(0, 0, 0, 0, 0));"
    asked += "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 9)"
    done = run_jail("--seccomp", str(DEBIANS), "--", "/usr/bin/python3", "-c", asked)
    assert done.status == 1
    assert "[Errno 22] Invalid argument" in done.stderr


@pytest.mark.parametrize("program", PROGRAMS[:2], ids=lambda program: program[0])
def test_programs_run_under_an_exported_policy(tmp_path: Path, program: tuple[str, ...]) -> None:
    path = tmp_path / "default.json"
    assert run_jail("export", "-o", str(path), "default", command="policy").status == 0
    done = run_jail("--seccomp", str(path), "--", *program)
    assert done.status == 0, done.stderr


def test_what_is_wrong_with_a_profile_is_the_caller_s_fault(tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text('{"defaultAction": "SCMP_ACT_NOTIFY"}')
    done = run_jail("--seccomp", str(path), "--", "true")
    assert done.status == 125
    assert f"seccomp policy {path}: defaultAction: SCMP_ACT_NOTIFY needs" in done.stderr
