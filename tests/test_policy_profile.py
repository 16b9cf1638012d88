"""Profiles of Docker, podman and the OCI that are not well written: what is said of them."""

from __future__ import annotations

from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jail.errors import SpecError
from jail.policy.profile import ARGUMENT_KEYS, ENTRY_KEYS, FILTER_KEYS, PROFILE_KEYS
from tests.oci import (
    ACTIONS,
    ALLOW,
    ERRNO,
    make_arg,
    make_entry,
    make_profile,
    parse,
    patience,
)

pytestmark = pytest.mark.beside

ENTRY: Final = make_entry("read")
DEEP: Final = b'{"defaultAction": ' + b"[" * 200_000


@pytest.mark.parametrize(
    ("profile", "said"),
    [
        (b"\xff{}", "a.json: not UTF-8 at byte 0"),
        (b"", "not JSON"),
        (b"{", "line 1 column 2"),
        (b"[]", "the profile: must be an object"),
        (b'{"defaultAction": NaN}', "NaN is not a whole number"),
        (b'{"defaultAction": 1.5}', "1.5 is not a whole number"),
        (b'{"syscalls": [], "syscalls": []}', "'syscalls' is there twice"),
        (b" " * ((1 << 20) + 1), "larger than 1048576 bytes"),
        (DEEP, "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
        ({}, "defaultAction: missing"),
        ({"ociVersion": "1"}, "linux.seccomp: a config.json without a profile"),
        ({"linux": {"seccomp": 1}}, "linux.seccomp: must be an object, not 1"),
        ({"defaultAction": "SCMP_ACT_FOO"}, "defaultAction: no action 'SCMP_ACT_FOO'"),
        ({"DefaultAction": ERRNO}, 'unknown key "DefaultAction"'),
        ({"defaultAction": "SCMP_ACT_NOTIFY"}, "SCMP_ACT_NOTIFY needs a program that answers"),
        (make_profile(listenerPath="/run/x"), "listenerPath: "),
        (make_profile(listenerMetadata="x"), "listenerMetadata: "),
        (make_profile(flags=["SECCOMP_FILTER_FLAG_NEW_LISTENER"]), "unknown flag"),
        (make_profile(architectures=["x86_64"]), "'x86_64' is not an architecture"),
        (
            make_profile(architectures=["SCMP_ARCH_ARM", "SCMP_ARCH_AARCH64"]),
            "is for SCMP_ARCH_ARM, SCMP_ARCH_AARCH64, not for this machine (SCMP_ARCH_X86_64)",
        ),
        (make_profile(archMap=[{"architecture": "SCMP_ARCH_S390X"}]), "not for this machine"),
        (make_profile(archMap=[{}]), "archMap[0].architecture: missing"),
        (
            make_profile(
                architectures=["SCMP_ARCH_X86_64"], archMap=[{"architecture": "SCMP_ARCH_X86_64"}]
            ),
            "one of them, not both",
        ),
        (make_profile({"action": ALLOW}), "syscalls[0].names: missing"),
        (make_profile({**ENTRY, "name": "write"}), "syscalls[0]: name or names, not both"),
        (make_profile({**ENTRY, "names": "read"}), 'names: must be a list, not "read"'),
        (make_profile({**ENTRY, "names": ["read", 3]}), "names[1]: must be a string, not 3"),
        (make_profile({**ENTRY, "names": ["r d"]}), "'r d' is not the name of a system call"),
        (make_profile({**ENTRY, "exludes": {}}), 'unknown key "exludes"'),
        (make_profile({"names": ["read"]}), "syscalls[0].action: missing"),
        (make_profile({**ENTRY, "action": "allow"}), "syscalls[0]: no action 'allow'"),
        (make_profile({**ENTRY, "action": "SCMP_ACT_NOTIFY"}), "syscalls[0]: SCMP_ACT_NOTIFY"),
        (make_profile({**ENTRY, "action": ERRNO, "errnoRet": 0}), "errno 0 would make"),
        (make_profile({**ENTRY, "action": ERRNO, "errnoRet": 5000}), "no errno 5000"),
        (make_profile({**ENTRY, "action": ERRNO, "errnoRet": -1}), "errnoRet: must be from 0"),
        (make_profile({**ENTRY, "action": ERRNO, "errno": "EFOO"}), "no errno 'EFOO'"),
        (make_profile({**ENTRY, "action": ERRNO, "errnoRet": True}), "must be a number, not true"),
        (make_profile({**ENTRY, "args": [7]}), "syscalls[0].args[0]: must be an object"),
        (make_profile({**ENTRY, "args": [{"index": 0}]}), "syscalls[0].args[0].op: missing"),
        (make_profile({**ENTRY, "args": [make_arg(6, "EQ", 0)]}), "index: must be from 0 to 5"),
        (make_profile({**ENTRY, "args": [make_arg(0, "IN", 0)]}), "no operator 'SCMP_CMP_IN'"),
        (make_profile({**ENTRY, "args": [make_arg(0, "EQ", 2**64)]}), "value: must be from 0"),
        (make_profile({**ENTRY, "args": [make_arg(0, "EQ", -1)]}), "value: must be from 0"),
        (make_profile({**ENTRY, "includes": {"arches": ["x86_64"]}}), "no architecture 'x86_64'"),
        (make_profile({**ENTRY, "includes": {"minKernel": "4"}}), 'must be like "5.8"'),
        (make_profile({**ENTRY, "excludes": {"cap": []}}), 'unknown key "cap"'),
    ],
)
def test_what_is_wrong_is_said_with_its_place(profile: Any, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse(profile)
    assert str(caught.value).startswith("seccomp policy a.json: ")
    assert said in str(caught.value)


@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(ACTIONS),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from([*PROFILE_KEYS, *ENTRY_KEYS, *ARGUMENT_KEYS, *FILTER_KEYS]),
                inner,
                max_size=4,
            )
        ),
        max_leaves=20,
    )
)
@settings(patience, max_examples=300)
def test_whatever_is_in_the_file_it_is_a_profile_or_a_spec_error(document: Any) -> None:
    try:
        parse(document)
    except SpecError as error:
        assert len(str(error)) < 2000
