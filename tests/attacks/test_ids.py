"""Ids: who a program is, who owns what it makes, and helpers that don't help."""

from __future__ import annotations

import dataclasses
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

import jail
from jail import HelperError, HostError, SpecError, mapping
from jail.host import HELPER_PATH, HELPERS, HostFacts, read_facts
from jail.user import HOST_GROUP, HOST_PASSWD, MAX_ID, find_user
from tests.attacks.payload import run_inside
from tests.conftest import OpenJail
from tests.part import require

# -- names and numbers ----------------------------------------------------------------------------

NO_IDS: Final = (
    "", " ", "-1", "+1", " 1", "1 ", "1\n", "0x0", "0o0", "1e3", "1_0", "1.0", "4294967295",
    "4294967296", "99999999999", "\u0660", "\u00b2", "1:", "1:-1", "1: 0", "1:0x0", "1:4294967295",
    ":", ":0", "0:0:0", "1:1:1", "nobody ", "no\0body",
)  # fmt: skip


@pytest.mark.parametrize("text", NO_IDS)
def test_what_is_no_id_is_refused(text: str) -> None:
    """UM-03, CVE-2026-30892."""
    with pytest.raises(SpecError):
        find_user(text, HOST_PASSWD, HOST_GROUP)


@given(st.one_of(st.text(max_size=12), st.from_regex(r"[-+ 0-9x_:]{1,12}", fullmatch=True)))
def test_nobody_is_root_by_accident(text: str) -> None:
    """UM-03. Id 0 is what was written as zeros, or as a name that the passwd file gives it to."""
    try:
        user = find_user(text, HOST_PASSWD, HOST_GROUP)
    except SpecError:
        return
    who, colon, where = text.partition(":")
    assert user.uid == (
        int(who) if who.isdigit() and who.isascii() else {"root": 0}.get(who, user.uid)
    )
    assert (user.uid == 0) == (who == "root" or set(who) == {"0"})
    if colon:
        assert (user.gid == 0) == (where == "root" or set(where) == {"0"})
    assert 0 <= user.uid <= MAX_ID
    assert 0 <= user.gid <= MAX_ID


@given(st.text(), st.integers(0, MAX_ID))
def test_no_passwd_file_makes_a_number_another_one(passwd: str, uid: int) -> None:
    """UM-03. The root filesystem's passwd is hostile: it may name a number, not change it."""
    try:
        assert find_user(str(uid), passwd, "").uid == uid
    except SpecError:
        return


WHO: Final = {
    "1": "1 1", "1:0": "1 0", "65534": "65534 65534", "4294967294": "4294967294 4294967294",
    "daemon": "2 2", "daemon:staff": "2 50",
}  # fmt: skip


@pytest.mark.parametrize(("user", "ids"), WHO.items())
async def test_a_program_is_who_was_asked_for(
    open_jail: OpenJail, rootfs: Path, user: str, ids: str
) -> None:
    """UM-03. Real, effective and saved."""
    async with open_jail(rootfs=rootfs, user=user) as j:
        result = await j.run(["grep", "-E", "^(Uid|Gid):", "/proc/self/status"])
    uids, gids = (line.split()[1:] for line in result.stdout.decode().splitlines())
    assert [set(uids), set(gids)] == [{number} for number in ids.split()]


# -- helpers that don't help ----------------------------------------------------------------------

FAKES: Final = {
    "fails": 'echo "of course not" >&2; exit 1',
    "fails silently": "exit 77",
    "is killed": "kill -9 $$",
    "babbles": "head -c 100000 /dev/urandom; head -c 100000 /dev/urandom >&2",
    "does nothing": "exit 0",
    "maps one id": 'exec {real} "$1" 0 "$3" 1',
    "maps nobody's ids": 'exec {real} "$1" 0 0 1',
    "closes everything": "exec <&- >&- 2>&-; exit 3",
}
SLOW: Final = {"is slow": "exec sleep 600", "stops": "kill -STOP $$"}


def make_fake(folder: Path, name: str, body: str) -> Path:
    fake = folder / name
    fake.write_text(f"#!/bin/sh\n{body.replace('{real}', str(read_facts().helpers[name]))}\n")
    fake.chmod(0o755)
    return fake


def replace_helper(name: str, path: Path) -> HostFacts:
    facts = read_facts()
    return dataclasses.replace(facts, helpers={**facts.helpers, name: str(path)})


async def assert_no_jail(facts: HostFacts, name: str) -> None:
    """Nor at the second try, by the same supervisor."""
    async with jail.open_supervisor(facts) as supervisor:
        for _ in range(2):
            with pytest.raises((HostError, HelperError)) as caught:
                async with supervisor.open_jail(userns="auto"):
                    pytest.fail("a program could have run")
            assert name in str(caught.value), "whose fault it is"


@pytest.mark.parametrize("name", ["newuidmap", "newgidmap"])
@pytest.mark.parametrize("kind", FAKES)
async def test_a_helper_that_fails_means_no_jail(tmp_path: Path, name: str, kind: str) -> None:
    """UM-04. And no half-mapped one."""
    require("subuid")
    await assert_no_jail(replace_helper(name, make_fake(tmp_path, name, FAKES[kind])), name)


@pytest.mark.parametrize("name", ["newuidmap", "newgidmap"])
async def test_a_helper_that_has_gone_means_no_jail(tmp_path: Path, name: str) -> None:
    """UM-04. Since it was looked for, that is."""
    require("subuid")
    fake = make_fake(tmp_path, name, "exit 0")
    for spoil in (lambda: fake.chmod(0o644), lambda: fake.write_text(""), fake.unlink):
        spoil()
        await assert_no_jail(replace_helper(name, fake), name)


@pytest.mark.parametrize("kind", SLOW)
async def test_a_helper_that_hangs_is_ended(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """UM-04. Within its time; a stopped one, too."""
    require("subuid")
    monkeypatch.setattr(mapping, "HELPER_TIMEOUT_S", 0.2)
    facts = replace_helper("newuidmap", make_fake(tmp_path, "newuidmap", SLOW[kind]))
    async with jail.open_supervisor(facts) as supervisor:
        with pytest.raises(HelperError, match="newuidmap: no answer within"):
            async with supervisor.open_jail(userns="auto"):
                pytest.fail("a program could have run")


async def test_without_a_helper_there_is_one_id_and_it_is_said(supervisor: jail.Supervisor) -> None:
    """UM-04. ``auto`` says which it was; ``require`` refuses the weaker."""
    helpers = {name: path for name, path in read_facts().helpers.items() if name != "newgidmap"}
    facts = dataclasses.replace(read_facts(), helpers=helpers)
    async with jail.open_supervisor(facts) as poor:
        async with poor.open_jail(userns="auto") as j:
            assert j.enforced_by["ids"] == "single"
            assert any("one id only" in note for note in j.plan.warnings)
        with pytest.raises(HostError, match="require ids=subuid"):
            async with poor.open_jail(require={"ids": "subuid"}):
                pytest.fail("a program could have run")


RUN_AUTO: Final = "import jail; print(jail.run(['id', '-u']).enforced_by['ids'])"


def test_no_helper_is_taken_from_the_path(tmp_path: Path) -> None:
    """UM-04. What a stranger put first there is never run."""
    require("subuid")
    for name in (*HELPERS, "sh", "python3", "id"):
        trap = tmp_path / name
        trap.write_text(f"#!/bin/sh\necho {name} >> {tmp_path}/sprung\nexit 1\n")
        trap.chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    control = subprocess.run(["env", "newuidmap"], env=env, timeout=10, check=False)
    assert (control.returncode, (tmp_path / "sprung").read_text()) == (1, "newuidmap\n")
    done = subprocess.run(
        [sys.executable, "-c", RUN_AUTO], env=env, capture_output=True, timeout=30, check=True
    )
    assert done.stdout == b"subuid\n"
    assert (tmp_path / "sprung").read_text() == "newuidmap\n"
    assert all(folder.startswith("/") for folder in HELPER_PATH)


# -- who owns what --------------------------------------------------------------------------------


@pytest.mark.parametrize("user", [None, "0", "4242:77"])
async def test_what_a_program_leaves_in_a_volume_is_the_user_s_and_never_set_id(
    open_jail: OpenJail, tmp_path: Path, user: str | None
) -> None:
    """UM-06, FS-10. By every call that can give a mode, an owner or an attribute."""
    folder = tmp_path / "volume"
    folder.mkdir()
    old = folder / "old"
    old.write_text("a set-id file of the user's own")
    old.chmod(0o4755)
    async with open_jail(volumes=[f"{folder}:/data"], user=user) as j:
        answers = await run_inside(j, "leave", "/data")
    assert answers["made"] >= 8
    assert answers["set_id"] == [], "none of these calls was taken"
    for where, folders, files in os.walk(folder):
        for path in (Path(where, name) for name in (*folders, *files)):
            assert_tidy(path)


def assert_tidy(path: Path) -> None:
    found = path.lstat()
    assert (found.st_uid, found.st_gid) == (os.getuid(), os.getgid()), path
    assert not found.st_mode & (stat.S_ISUID | stat.S_ISGID), path
    assert not stat.S_ISBLK(found.st_mode), path
    attributes = os.listxattr(path, follow_symlinks=False)
    assert not [name for name in attributes if not name.startswith("user.")], path
    if stat.S_ISREG(found.st_mode) and path.name.startswith("plain"):
        assert not found.st_mode & 0o022, path


@pytest.fixture
def private_file() -> Iterator[Path]:
    """In the home directory, for nobody else."""
    with tempfile.NamedTemporaryFile(dir=Path.home(), prefix=".private-") as file:
        yield Path(file.name)


TOP: Final = {"bin", "dev", "etc", "lib", "lib32", "lib64", "libx32", "proc", "sbin", "tmp", "usr"}


@pytest.mark.parametrize("user", [None, "0"])
async def test_nothing_of_the_home_directory_is_there_by_default(
    open_jail: OpenJail, user: str | None, private_file: Path
) -> None:
    """UM-08. Nor is it anywhere else; a program has what it needs to start, and its own."""
    find = ["find", "/", "(", "-path", "/proc", "-o", "-path", "/usr", ")", "-prune", "-o"]
    async with open_jail(user=user) as j:
        listed = await j.run(["ls", "/"])
        await j.put(private_file.name, "one of the jail's own is found")
        found = await j.run([*find, "-name", private_file.name, "-print"])
        direct = await j.run(["cat", private_file])
    assert {"tmp", "usr", "work"} <= set(listed.stdout.decode().split()) <= TOP | {"work"}
    assert found.stdout.decode() == f"/work/{private_file.name}\n"
    assert b"No such file" in direct.stderr


READ: Final = ("sh", "-c", "cat /data/private || :")


def write_private(folder: Path) -> None:
    private = folder / "private"
    private.write_text("only mine")
    private.chmod(0o600)
    folder.chmod(0o755)


@pytest.mark.parametrize("user", [None, "0"])
async def test_who_reads_a_private_file_of_a_read_only_volume_is_as_documented(
    open_jail: OpenJail, userns: str, rootfs: Path, tmp_path: Path, user: str | None
) -> None:
    """UM-08. With ids of its own: no program, root neither. With one id: every program."""
    write_private(tmp_path)
    volume = f"{tmp_path}:/data:ro"
    async with open_jail(volumes=[volume], user=user) as j:
        on_host = (await j.run(READ)).stdout
    async with open_jail(volumes=[volume], user=user, rootfs=rootfs) as j:
        in_own_root = (await j.run(READ)).stdout
    async with open_jail(volumes=[volume, f"{tmp_path}:/more:rw"], user=user) as j:
        beside_writable = (await j.run(READ)).stdout
    single = userns == "single"
    assert (on_host == b"only mine") == single
    assert (in_own_root == b"only mine") == (single or user == "0"), "root owns the user's tree"
    assert beside_writable == b"only mine", "that program is the user"


async def test_a_stranger_s_private_file_stays_shut_to_root_inside(open_jail: OpenJail) -> None:
    """UM-08. bubblewrap's "cannot read /etc/shadow", even where all of /etc is given."""
    require("subuid")
    for user in (None, "0"):
        async with open_jail(volumes=["/etc:/hostetc:ro"], user=user) as j:
            result = await j.run(["cat", "/hostetc/shadow"])
            passwd = await j.run(["cat", "/hostetc/passwd"])
        assert passwd.ok, "the control"
        assert result.stdout == b""
        assert b"Permission denied" in result.stderr
