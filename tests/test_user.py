"""Who the program is: ``--user`` is read strictly, and never 0 by accident."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jail import SpecError
from jail.user import DEFAULT_USER, HOST_GROUP, HOST_PASSWD, User, find_user, make_passwd

pytestmark = pytest.mark.beside

PASSWD = """\
root:x:0:0:root:/root:/bin/sh
daemon:x:2:3::/:/bin/false
alice:x:1234:100:Alice:/home/alice:/bin/sh
twin:x:1234:0::/:/bin/sh
"""
GROUP = "root:x:0:\nusers:x:100:alice\nstaff:x:50:\n"


def find(text: str | None, passwd: str = PASSWD, group: str = GROUP) -> User:
    return find_user(text, passwd, group)


@pytest.mark.parametrize(
    ("text", "user"),
    [
        (None, DEFAULT_USER),
        ("root", User(0, 0, "root")),
        ("0", User(0, 0, "root")),
        ("daemon", User(2, 3, "daemon")),
        ("2", User(2, 3, "daemon")),
        ("alice", User(1234, 100, "alice")),
        ("1234", User(1234, 100, "alice")),
        ("alice:staff", User(1234, 50, "alice")),
        ("alice:7", User(1234, 7, "alice")),
        ("5:users", User(5, 100, "jail")),
        ("5", User(5, 5, "jail")),
        ("1:0", User(1, 0, "jail")),
        ("4294967294", User(4294967294, 4294967294, "jail")),
        ("007", User(7, 7, "jail")),
    ],
)
def test_a_user_is_found_by_name_or_by_number(text: str | None, user: User) -> None:
    assert find(text) == user


NO_USERS = (
    "", ":", ":0", "0:", "root:", "nobody-here", "-1", "+1", " 1", "1 ", "0x0", "0o0", "1e0", "1.0",
    "4294967295", "4294967296", "99999999999", "1:4294967295", "1:-1", "1: 1", "1:0x0", "1:nogroup",
    "1:1:1", "\u0660", "\u0661", "１", "root\n", "root ", "Root", "x", "0\0", "1:\u0661",
)  # fmt: skip


@pytest.mark.parametrize("text", NO_USERS)
def test_what_is_no_user_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="user") as caught:
        find(text)
    assert str(caught.value).isprintable()


HOSTILE = """\
:x:0:0::/:/bin/sh
1:x:0:0::/:/bin/sh
1000:x:0:0::/:/bin/sh
 1:x:0:0::/:/bin/sh
-1:x:0:0::/:/bin/sh
0x0:x:0:0::/:/bin/sh
big:x:4294967295:0::/:/bin/sh
short:x:0
odd:x:0x0:0::/:/bin/sh
blank:x: 0:0::/:/bin/sh
half:x:0:0x0::/:/bin/sh
page\x0cbreak\u2028root2:x:0:0::/:/bin/sh
"""
HOSTILE_GROUP = ":x:0:\n5:x:0:\nbig:x:4294967295:\nodd:x:0x0:\n"


def test_a_number_is_that_id_whatever_the_root_s_passwd_calls_so() -> None:
    """CVE-2026-30892: ``-u 1`` became root."""
    for text in ("1", "1000", "77"):
        assert find(text, HOSTILE, HOSTILE_GROUP) == User(int(text), int(text), "jail")
    assert find("1:5", HOSTILE, HOSTILE_GROUP) == User(1, 5, "jail")


@pytest.mark.parametrize(
    "text", ["", ":", ":5", "5:", "big", "short", "odd", "blank", "half", "root2", "5:big", "5:odd"]
)
def test_a_broken_line_of_the_root_s_passwd_is_nobody(text: str) -> None:
    with pytest.raises(SpecError):
        find(text, HOSTILE, HOSTILE_GROUP)


@pytest.mark.parametrize("name", ["a\0b", "a\x1b[2J", "-rf", "x" * 5000, "a b", "ä", "$(id)", ""])
def test_an_odd_name_never_gets_into_the_environment(name: str) -> None:
    passwd = f"{name}:x:1000:1000::/:/bin/sh\n"
    assert find("1000", passwd, "") == User(1000, 1000, "jail")


lines = st.lists(
    st.builds(
        "{}:x:{}:{}::/:/bin/sh".format,
        st.one_of(st.text(max_size=4), st.sampled_from(["root", "0", "1", "1000", ""])),
        st.one_of(st.integers(0, 2**33), st.sampled_from(["0x0", "", " 0", "٠"])),
        st.one_of(st.integers(0, 2**33), st.text(max_size=3)),
    ),
    max_size=5,
).map("\n".join)


@given(st.one_of(st.text(), st.integers().map(str)), lines, lines)
@example("1", "1:x:0:0:", "")
def test_no_string_is_0_by_accident(text: str, passwd: str, group: str) -> None:
    try:
        user = find_user(text, passwd, group)
    except SpecError:
        return
    assert 0 <= user.uid < 2**32 - 1
    assert 0 <= user.gid < 2**32 - 1
    who = text.partition(":")[0]
    if who.isascii() and who.isdigit():
        assert user.uid == int(who)
    else:
        assert f"{who}:x:{user.uid}:" in passwd


def read_names(text: bytes) -> dict[str, int]:
    rows = [line.split(":") for line in text.decode().splitlines()]
    return {row[0]: int(row[2]) for row in rows}


@pytest.mark.parametrize(
    ("user", "names"),
    [
        (DEFAULT_USER, {"root": 0, "jail": 1000, "nobody": 65534}),
        (User(0, 0, "root"), {"root": 0, "nobody": 65534}),
        (User(65534, 65534, "nobody"), {"root": 0, "nobody": 65534}),
        (User(5, 0, "jail"), {"root": 0, "jail": 5, "nobody": 65534}),
    ],
)
def test_a_made_passwd_has_root_nobody_and_the_program(user: User, names: dict[str, int]) -> None:
    passwd, group = make_passwd(user, "/work")
    assert read_names(passwd) == names
    assert sorted(read_names(group).values()) == sorted({0, user.gid, 65534})
    assert find_user(str(user.uid), passwd.decode(), group.decode())[:2] == user[:2]


@pytest.mark.parametrize("home", ["/a:b", "/a\nevil:x:0:0::/:/bin/sh"])
def test_a_home_can_t_write_lines_of_a_made_passwd(home: str) -> None:
    passwd, _ = make_passwd(DEFAULT_USER, home)
    assert set(read_names(passwd)) == {"root", "jail", "nobody"}
    assert all(line.count(":") == 6 for line in passwd.decode().splitlines())


def test_the_default_user_is_no_root_and_has_a_name() -> None:
    assert DEFAULT_USER.uid != 0
    assert find_user(DEFAULT_USER.name, HOST_PASSWD, HOST_GROUP) == DEFAULT_USER
