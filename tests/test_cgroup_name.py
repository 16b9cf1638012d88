"""Names of our cgroups: made, read back, and never taken for a stranger's."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jail.cgroup.name import (
    Name,
    Owner,
    make_host_name,
    make_name,
    make_prefix,
    parse_name,
)
from jail.cgroup.owner import has_ended, read_owner

pytestmark = pytest.mark.beside

NUMBERS = st.integers(0, 2**64 - 1)
OWNERS = st.builds(
    Owner, st.text("0123456789abcdef", min_size=8, max_size=8), NUMBERS, NUMBERS, NUMBERS
)
NAMES = st.one_of(st.builds(Name, OWNERS), st.builds(Name, OWNERS, NUMBERS, NUMBERS))
OWNER = Owner("0123abcd", 4026531836, 4711, 123456)


@given(NAMES)
def test_a_name_reads_back_as_what_it_was_made_of(name: Name) -> None:
    text = make_name(name)
    assert parse_name(text) == name
    assert len(text) < 255
    assert "/" not in text and text.isascii() and text.isprintable()


@given(OWNERS, NUMBERS, NUMBERS)
def test_a_jail_is_a_prefix_and_a_number(owner: Owner, serial: int, number: int) -> None:
    name = parse_name(f"{make_prefix(owner, serial)}{number}")
    assert name == Name(owner, serial, number)
    assert not make_host_name(owner).startswith(make_prefix(owner, serial))


@given(OWNERS, st.integers(0, 30), st.integers(0, 30))
def test_no_zygote_takes_another_ones_jails_for_its_own(
    owner: Owner, serial: int, other: int
) -> None:
    jail = make_name(Name(owner, other, 7))
    assert jail.startswith(make_prefix(owner, serial)) == (serial == other)


@given(st.text())
def test_whatever_a_name_is_only_its_own_spelling_is_ours(text: str) -> None:
    name = parse_name(text)
    assert name is None or make_name(name) == text


@given(NAMES, st.data())
def test_a_changed_name_is_a_strangers_or_another_ones(name: Name, data: st.DataObject) -> None:
    text = make_name(name)
    place = data.draw(st.integers(0, len(text) - 1))
    letter = data.draw(st.characters().filter(lambda c: c != text[place]))
    assert parse_name(text[:place] + letter + text[place + 1 :]) != name


@pytest.mark.parametrize(
    "text",
    [
        "", "jail", "jail-", "jail-host", "jail-1", "jail-doctor-7", "session-1.scope",
        "jail-4711-1.scope", "jail-0123abcd.1.2.3-", "jail-0123abcd.1.2.3-4",
        "jail-0123abcd.1.2.03-host", "jail-0123abcd.1.2.3-host\n", "jail-0123ABCD.1.2.3-host",
        "jail-0123abcd.1.2.3-4.5.6", "jail-0123abcd.1.2.3-٣.1", "xjail-0123abcd.1.2.3-host",
        "jail-0123abcd.1.2.3-hosts", "jail-0123abcd.-1.2.3-host",
    ],
)  # fmt: skip
def test_strangers_names_are_not_ours(text: str) -> None:
    assert parse_name(text) is None


def test_this_process_lives() -> None:
    here = read_owner()
    assert (here.pid, len(here.boot)) == (os.getpid(), 8)
    assert here.start > 0 and here.pid_ns > 0
    assert not has_ended(here, here)


def test_a_pid_that_was_given_out_anew_is_another_process() -> None:
    here = read_owner()
    before = Owner(here.boot, here.pid_ns, here.pid, here.start - 1)
    assert has_ended(before, here)


def test_another_boots_processes_are_dead_and_another_pid_namespaces_can_t_be_told() -> None:
    here = read_owner()
    assert has_ended(Owner("00000000", here.pid_ns, here.pid, here.start), here)
    assert not has_ended(Owner(here.boot, here.pid_ns + 1, 4_194_305, 7), here)


def test_a_process_has_ended_before_it_is_reaped_and_after() -> None:
    here = read_owner()
    script = "from jail.cgroup.owner import read_owner as r; print(r()); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None and child.stdout is not None
        owner = eval(child.stdout.readline(), {"Owner": Owner})
        assert owner.pid == child.pid and owner.boot == here.boot
        assert not has_ended(owner, here)
        child.stdin.close()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert has_ended(owner, here), "a zombie"
    assert has_ended(owner, here)
