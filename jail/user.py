"""Who the program is inside: ``--user`` and the passwd file it is looked up in. Pure."""

from __future__ import annotations

import re
from typing import NamedTuple

from jail.check import show
from jail.errors import SpecError
from jail.spec import DEFAULT_UID

MAX_ID = 2**32 - 2  # 4294967295 means “no change” to setresuid(2).
NAME = "jail"
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}\$?", re.ASCII)
"""what goes into the environment; the root filesystem's passwd may hold anything"""


class User(NamedTuple):
    """Ids inside the jail and the name that goes with them."""

    uid: int
    gid: int
    name: str


DEFAULT_USER = User(DEFAULT_UID, DEFAULT_UID, NAME)


def find_user(text: str | None, passwd: str, group: str) -> User:
    """``None``, ``name``, ``uid``, ``uid:gid`` or ``name:group`` → ids; SpecError if unknown.

    A uid alone takes its group from ``passwd``, else the same number: never 0 by accident.
    """
    if text is None:
        return DEFAULT_USER
    who, colon, where = text.partition(":")
    if not who or (colon and not where):
        raise SpecError(f"user: {show(text)}: write name, uid, uid:gid or name:group")
    user = _find_in_passwd(who, passwd)
    if colon:
        user = user._replace(gid=_find_group(where, group))
    return user


def _find_in_passwd(who: str, passwd: str) -> User:
    number = _parse_asked(who)
    for name, uid, gid in _parse_passwd(passwd):
        # A number is an id, whatever a hostile passwd calls by that name: CVE-2026-30892.
        if name == who if number is None else uid == number:
            return User(uid, gid, name if PLAIN_NAME.fullmatch(name) else NAME)
    if number is None:
        raise SpecError(
            f"user: there is no {show(who)} in the root filesystem's passwd; give a uid"
        )
    return User(number, number, NAME)


def _find_group(who: str, group: str) -> int:
    number = _parse_asked(who)
    if number is not None:
        return number
    for line in group.split("\n"):
        fields = line.split(":")
        if len(fields) >= 3 and fields[0] == who and (gid := _parse_id(fields[2])) is not None:
            return gid
    raise SpecError(f"user: there is no group {show(who)} in the root filesystem; give a gid")


def _parse_passwd(text: str) -> list[tuple[str, int, int]]:
    entries = []
    for line in text.split("\n"):
        fields = line.split(":")
        if len(fields) < 4:
            continue
        uid, gid = _parse_id(fields[2]), _parse_id(fields[3])
        if uid is not None and gid is not None:
            entries.append((fields[0], uid, gid))
    return entries


def _parse_asked(text: str) -> int | None:
    """What the caller wrote: a number that is no id is a mistake, not a name."""
    if re.fullmatch(r"[0-9]+", text, re.ASCII) and _parse_id(text) is None:
        raise SpecError(f"user: {show(text)} is above the highest id, {MAX_ID}")
    return _parse_id(text)


def _parse_id(text: str) -> int | None:
    """Strictly ASCII digits: “+1”, “ 1”, “0x0” and “١” are names, not numbers."""
    if not re.fullmatch(r"[0-9]{1,10}", text, re.ASCII):
        return None
    return int(text) if int(text) <= MAX_ID else None


def make_passwd(user: User, home: str) -> tuple[bytes, bytes]:
    """passwd and group for a root filesystem made of the host's /usr: root, nobody, the program."""
    home = "/" if ":" in home or not home.isprintable() else home
    users = {0: ("root", 0, "/root"), 65534: ("nobody", 65534, "/nonexistent")}
    users.setdefault(user.uid, (user.name, user.gid, home))
    groups = {0: "root", 65534: "nogroup"}
    groups.setdefault(user.gid, user.name)
    passwd = "".join(
        f"{name}:x:{uid}:{gid}::{where}:/bin/sh\n"
        for uid, (name, gid, where) in sorted(users.items())
    )
    group = "".join(f"{name}:x:{gid}:\n" for gid, name in sorted(groups.items()))
    return passwd.encode(), group.encode()


HOST_PASSWD, HOST_GROUP = (text.decode() for text in make_passwd(DEFAULT_USER, "/work"))
