"""What a jail sees: the host's root or a directory's, volumes, /dev, names, environment."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import trio

from jail import Jail, Supervisor, Verdict
from jail.source import ETC_NAMES, MERGED_USR
from tests.conftest import OpenJail
from tests.part import require
from tests.tree import hash_tree

pytestmark = pytest.mark.beside

MiB = 1024 * 1024
OWN_ETC = {"passwd", "group", "hosts", "hostname", "nsswitch.conf"}
DEVICES = {"null", "zero", "full", "random", "urandom", "tty"}


async def ask(j: Jail, script: str, **options: Any) -> str:
    """What a shell inside says; it must do all of it."""
    result = await j.run(["sh", "-ec", script], timeout=15, **options)
    assert result.ok, (result.verdict, result.exit_code, result.stderr)
    return result.stdout.decode("utf-8", "surrogateescape").strip()


async def list_dir(j: Jail, path: str) -> set[str]:
    return set((await ask(j, f"ls -A {path}")).split())


async def is_refused(j: Jail, script: str, *words: str) -> None:
    """It ends with an error, and with one of these in what it says."""
    result = await j.run(["sh", "-c", script], timeout=15)
    assert result.verdict in (Verdict.RE, Verdict.DLE), (script, result.verdict, result.stdout)
    said = result.stderr.decode()
    assert any(word in said for word in words), said


# -- the host's root ------------------------------------------------------------------------------


def read_links() -> dict[str, str]:
    """The merged-usr names of this host; "" for one that is a directory."""
    names = [name for name in MERGED_USR if os.path.lexists(f"/{name}")]
    return {n: os.readlink(f"/{n}") if os.path.islink(f"/{n}") else "" for n in names}


async def test_the_host_s_root_has_usr_and_what_is_made_for_it(open_jail: OpenJail) -> None:
    links = read_links()
    async with open_jail() as j:
        assert await list_dir(j, "/") == {"usr", "etc", "proc", "dev", "tmp", "work", *links}
        for gone in ("home", "root", "var", "run", "sys", "mnt", "media", "srv", "boot", "opt"):
            await is_refused(j, f"ls /{gone}", "No such file")
        for name, target in links.items():
            assert await ask(j, f"readlink /{name} || true") == target
        assert await list_dir(j, "/usr/bin") == set(os.listdir("/usr/bin"))


async def test_the_host_s_etc_is_the_few_files_that_programs_need(open_jail: OpenJail) -> None:
    top = {name.split("/")[0] for name in ETC_NAMES}
    async with open_jail() as j:
        shown = await list_dir(j, "/etc")
        assert shown >= OWN_ETC
        assert all(n in OWN_ETC | top | {"perl"} or n.startswith("java-") for n in shown)
        passwd = await ask(j, "cat /etc/passwd /etc/group")
        assert await ask(j, "cat /etc/hostname") == "jail"
        assert "127.0.1.1 jail" in (await ask(j, "cat /etc/hosts")).splitlines()
        assert await ask(j, "id -un; id -gn; whoami") == "jail\njail\njail"
    assert {line.split(":")[0] for line in passwd.splitlines()} == {
        "root", "jail", "nobody", "nogroup",
    }  # fmt: skip


async def test_nothing_of_the_user_s_is_to_be_seen(open_jail: OpenJail, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.write_text("secret")
    places = {canary, Path.home(), Path.cwd(), Path("/tmp/.X11-unix"), Path("/run/user")}
    async with open_jail() as j:
        for place in places:
            await is_refused(j, f"ls '{place}'", "No such file")
        assert await list_dir(j, "/tmp") == await list_dir(j, "/work") == set()
        seen = await ask(j, "cat /proc/self/mountinfo /proc/1/mountinfo 2>&1 || true")
    for word in (str(tmp_path), str(Path.home()), "overlay-upper"):
        assert word not in seen


WRITES = (
    "touch /usr/x", "touch /usr/local/x", "touch /usr/bin/sh", "touch /etc/x", "echo >>/etc/passwd",
    "mkdir /x", "rm /etc/hosts", "touch /dev/x", "rmdir /tmp", "mkdir /usr/share/x",
    "ln -s /x /usr/lib/x", "mv /usr/bin/env /usr/bin/vne", "touch /bin/x",
)  # fmt: skip


@pytest.mark.parametrize("user", [None, "0"])
async def test_the_host_s_root_can_t_be_written_by_anybody(
    open_jail: OpenJail, user: str | None
) -> None:
    async with open_jail(user=user) as j:
        for write in WRITES:
            await is_refused(j, write, "Read-only", "Permission denied", "busy", "not permitted")


@pytest.mark.parametrize("place", ["/tmp", "/work", "/dev/shm"])
async def test_what_can_be_written_is_capped(open_jail: OpenJail, place: str) -> None:
    async with open_jail(disk="4m") as j:
        assert await ask(j, f"cd {place}; echo x >f; mkdir d; mv f d; cat d/f; rm -r d") == "x"
        result = await j.run(["sh", "-c", f"exec head -c 8000000 /dev/zero >{place}/f"])
        assert result.verdict is Verdict.DLE
        assert int(await ask(j, f"stat -c %s {place}/f; rm {place}/f")) <= 4 * MiB


def parse_mounts(text: str) -> dict[str, tuple[set[str], str]]:
    """mount point → (its flags, type); the last one that was mounted there."""
    rows = [line.split() for line in text.splitlines()]
    return {row[4]: (set(row[5].split(",")), row[row.index("-") + 1]) for row in rows}


@pytest.mark.parametrize("root", ["host", "directory"])
async def test_no_mount_honours_set_id_files_or_devices(
    open_jail: OpenJail, own_rootfs: Path, tmp_path: Path, root: str
) -> None:
    options: dict[str, Any] = {} if root == "host" else {"rootfs": own_rootfs}
    (tmp_path / "v").mkdir()
    volumes = [f"{tmp_path}/v:/v", f"{tmp_path}/v:/r:ro"]
    async with open_jail(volumes=volumes, tmpfs=["/t"], **options) as j:
        mounts = parse_mounts(await ask(j, "cat /proc/self/mountinfo"))
    for point in ("/", "/v", "/r", "/t", "/tmp", "/work", "/dev", "/dev/shm", "/dev/pts", "/proc"):
        assert "nosuid" in mounts[point][0], point
    devices = {f"/dev/{name}" for name in DEVICES} | {"/dev/pts"}
    for point, (flags, kind) in mounts.items():
        covered = point.startswith("/proc/")  # /dev/null lies over what is hidden there
        assert "nodev" in flags or covered or point in devices, (point, kind)
    assert "ro" in mounts["/r"][0]
    assert {"/usr", "/etc"} - set(mounts) or "ro" in mounts["/usr"][0]


# -- /dev, names, environment ---------------------------------------------------------------------


async def test_dev_is_minimal_and_works(open_jail: OpenJail) -> None:
    async with open_jail() as j:
        assert await list_dir(j, "/dev") == DEVICES | {
            "fd", "stdin", "stdout", "stderr", "ptmx", "pts", "shm", "mqueue",
        }  # fmt: skip
        assert await ask(j, "ls -A /dev/shm /dev/pts | grep -v :; cat /dev/null") == "ptmx"
        assert await ask(j, "head -c 3 /dev/zero | od -An -tx1") == "00 00 00"
        assert len(await ask(j, "head -c 64 /dev/urandom | od -An -tx1")) > 100
        await is_refused(j, "exec dd if=/dev/zero of=/dev/full count=1", "No space left")
        kinds = await ask(j, "cd /dev; stat -c '%n %F %t:%T' null zero full random urandom tty")
        assert kinds.count("character special file") == len(DEVICES)
        assert "null character special file 1:3" in kinds


async def test_the_hostname_is_the_jail_s_own(open_jail: OpenJail) -> None:
    before = socket.gethostname()
    async with open_jail(hostname="box-1.example") as j:
        assert (
            await ask(j, "uname -n; cat /etc/hostname; echo $HOSTNAME")
            == ("box-1.example\n" * 3).strip()
        )
        await is_refused(j, "hostname evil || echo >/proc/sys/kernel/hostname", "")
        assert await ask(j, "uname -n") == "box-1.example"
    assert socket.gethostname() == before


async def test_the_environment_is_built_from_nothing(
    open_jail: OpenJail, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_CANARY", "s3cr3t")
    async with open_jail(env={"A": "1 2", "ODD": "ä\udcff\n"}) as j:
        seen = (await j.run(["env", "-0"], env={"B": "3", "LANG": "C"})).stdout
        assert dict(word.split(b"=", 1) for word in seen.split(b"\0") if word) == {
            b"PATH": b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            b"HOME": b"/work",
            b"USER": b"jail",
            b"LANG": b"C",
            b"HOSTNAME": b"jail",
            b"A": b"1 2",
            b"ODD": "ä".encode() + b"\xff\n",
            b"B": b"3",
        }
        result = await j.run(["sh", "-c", "cat /proc/1/environ /proc/[0-9]*/environ 2>&1; true"])
        assert b"s3cr3t" not in result.stdout
        assert "B=" not in await ask(j, "env"), "one run's is not the next one's"


@pytest.mark.parametrize(
    "workdir", ["/work", "/srv/deep/er", "/tmp/below/it", "/odd name,with:all\\of\tit", "/ä/\udcff"]
)
async def test_the_working_directory_is_made_and_the_program_s(
    open_jail: OpenJail, workdir: str
) -> None:
    async with open_jail(workdir=workdir) as j:
        said = await ask(j, "pwd; stat -c '%u %g %a' .; echo x >f; cat f; echo \"$HOME\"")
        assert said == f"{workdir}\n1000 1000 755\nx\n{workdir}"
        assert await j.get("f") == b"x\n"


async def test_a_working_directory_may_be_one_that_is_there(open_jail: OpenJail) -> None:
    for workdir in ("/", "/tmp", "/usr/share"):
        async with open_jail(workdir=workdir) as j:
            assert (await j.run(["pwd", "-P"])).stdout.decode().strip() == workdir
    async with open_jail(workdir="/bin") as j:
        assert "sh" in (await ask(j, "ls")).split()


# -- a directory's root ---------------------------------------------------------------------------


async def test_a_directory_s_root_is_that_and_nothing_else(
    open_jail: OpenJail, own_rootfs: Path
) -> None:
    (own_rootfs / "etc/mark").write_text("of the tree")
    async with open_jail(rootfs=own_rootfs) as j:
        assert await list_dir(j, "/") == set(os.listdir(own_rootfs))
        assert await ask(j, "cat /etc/mark; ls /usr /var") == "of the tree/usr:\n\n/var:"
        assert await list_dir(j, "/etc") == {"passwd", "group", "mark"}
        assert {"self", "meminfo"} <= await list_dir(j, "/proc")


async def test_mount_points_that_a_root_lacks_are_made_above_it(
    open_jail: OpenJail, own_rootfs: Path, tmp_path: Path
) -> None:
    for name in ("proc", "dev", "tmp", "work"):
        (own_rootfs / name).rmdir()
    (tmp_path / "v").mkdir()
    (tmp_path / "v/x").write_text("volume")
    before = hash_tree(own_rootfs)
    volumes = [f"{tmp_path}/v:/made/on/the/way:ro", f"{tmp_path}/v/x:/etc/file:ro"]
    async with open_jail(rootfs=own_rootfs, volumes=volumes, tmpfs=["/var/t"]) as j:
        assert await ask(j, "cat /made/on/the/way/x /etc/file; echo x >/var/t/x; ls /proc/self/fd")
        assert await ask(j, "pwd; echo x >x; cat x") == "/work\nx"
    assert hash_tree(own_rootfs) == before


@pytest.mark.parametrize("user", [None, "0"])
async def test_what_is_written_to_a_root_is_thrown_away(
    open_jail: OpenJail, own_rootfs: Path, user: str | None
) -> None:
    """The tree is the invoking user's: its files are root's inside, who may change them."""
    (own_rootfs / "open").mkdir()
    (own_rootfs / "open").chmod(0o777)
    (own_rootfs / "open/file").write_text("old")
    (own_rootfs / "open/file").chmod(0o666)
    before = hash_tree(own_rootfs)
    async with open_jail(rootfs=own_rootfs, user=user) as j:
        await ask(
            j, "echo new >/open/file; echo x >/open/made; mkdir /open/d; mv /open/made /open/d"
        )
        if user == "0":
            await ask(j, "echo x >>/etc/passwd; rm /bin/vi; mkdir /new; chmod 700 /var; rm -r /usr")
            await ask(j, "mv /etc/group /new; ln -s /x /root/l; touch -d @0 /etc")
        assert await ask(j, "cat /open/file /open/d/made") == "new\nx"
    assert hash_tree(own_rootfs) == before
    async with open_jail(rootfs=own_rootfs, user=user) as j:
        assert await ask(j, "cat /open/file; ls /open") == "oldfile"


async def test_a_root_s_files_have_owners_inside(open_jail: OpenJail, own_rootfs: Path) -> None:
    async with open_jail(rootfs=own_rootfs) as j:
        owner = await ask(j, "stat -c %u /etc/passwd")
        plan = j.plan
    assert owner == ("0" if plan.ids == "subuid" else "1000")


async def test_a_root_s_upper_layer_is_capped_with_the_rest(
    open_jail: OpenJail, own_rootfs: Path
) -> None:
    async with open_jail(rootfs=own_rootfs, user="0", disk="4m") as j:
        await is_refused(j, "head -c 3000000 /dev/zero >/tmp/a; cat /tmp/a >/root/b", "No space")


async def test_a_root_owned_by_the_host_s_root_is_no_easier_to_change(
    open_jail: OpenJail,
) -> None:
    """``/usr`` as a root: nobody inside is its owner, and the mount points are made above it."""
    assert os.stat("/usr").st_uid == 0
    for user in (None, "0"):
        async with open_jail(rootfs="/usr", user=user) as j:
            assert await list_dir(j, "/") == {*os.listdir("/usr"), "proc", "dev", "tmp", "work"}
            assert (
                await ask(j, "pwd; echo x >f; cat f; echo y >/tmp/f; cat /tmp/f") == "/work\nx\ny"
            )
            for write in ("echo >>/bin/sh", "rm /bin/sh", "touch /share/x", "mkdir /lib/x"):
                await is_refused(j, write, "Permission denied", "not permitted", "Value too large")
            await is_refused(j, "chmod 777 /bin/sh", "not permitted", "Value too large")
    assert "proc" not in os.listdir("/usr")


async def test_a_volume_goes_into_a_root_of_the_host_s_root(
    open_jail: OpenJail, tmp_path: Path
) -> None:
    os.chmod(tmp_path, 0o755)
    (tmp_path / "x").write_text("volume")
    places = ("/data", "/made/on/the/way", "/share/below/it", "/lib/x")
    volumes = [f"{tmp_path}:{place}:ro" for place in places]
    async with open_jail(rootfs="/usr", volumes=volumes, tmpfs=["/share/t"]) as j:
        for place in places:
            assert await ask(j, f"cat {place}/x") == "volume"
        assert {"doc", "below", "t"} <= await list_dir(j, "/share")
        assert await ask(j, "echo x >/share/t/x; cat /share/t/x") == "x"


async def test_users_are_looked_up_in_the_root_s_own_passwd(
    open_jail: OpenJail, own_rootfs: Path
) -> None:
    script = "id -u; id -g; id -G; echo $USER $HOME"
    for user, said in (
        (None, "1000\n1000\n1000\njail /work"),
        ("root", "0\n0\n0\nroot /root"),
        ("daemon", "2\n2\n2\ndaemon /work"),
        ("2", "2\n2\n2\ndaemon /work"),
        ("daemon:staff", "2\n50\n50\ndaemon /work"),
        ("300:7", "300\n7\n7\njail /work"),
        ("70000", "70000\n70000\n70000\njail /work"),
        ("65534", "65534\n65534\n65534\njail /work"),
    ):
        async with open_jail(rootfs=own_rootfs, user=user) as j:
            assert await ask(j, script) == said
            assert await ask(j, "echo x >/tmp/x; stat -c %u /tmp/x .") == "\n".join(
                said.split("\n")[:1] * 2
            )


# -- read-only ------------------------------------------------------------------------------------


@pytest.mark.parametrize("complete", [True, False], ids=["bind", "overlay"])
async def test_a_read_only_root_is_written_by_nobody(
    open_jail: OpenJail, own_rootfs: Path, complete: bool
) -> None:
    (own_rootfs / "open").mkdir()
    (own_rootfs / "open").chmod(0o777)
    if not complete:
        (own_rootfs / "proc").rmdir()
    before = hash_tree(own_rootfs)
    for user in (None, "0"):
        async with open_jail(rootfs=own_rootfs, user=user, read_only=True) as j:
            assert j.plan.launch.root.overlay is not complete
            for write in ("touch /open/x", "mkdir /x", "echo >>/etc/passwd", "rm /bin/vi"):
                await is_refused(j, write, "Read-only", "Permission denied")
            await is_refused(j, "touch /open/x", "Read-only")
            said = await ask(j, "for d in /tmp /work /dev/shm; do echo x >$d/x; cat $d/x; done")
            assert said == "x\nx\nx"
    assert hash_tree(own_rootfs) == before


# -- volumes --------------------------------------------------------------------------------------


async def test_a_tmpfs_is_empty_writable_and_as_large_as_asked(
    open_jail: OpenJail, rootfs: Path
) -> None:
    for options in ({}, {"rootfs": rootfs}, {"rootfs": rootfs, "read_only": True}):
        async with open_jail(tmpfs=["/a:2m", "/work:1m", "/etc"], disk="8m", **options) as j:
            for place, size in (("/a", 2), ("/work", 1), ("/etc", 8)):
                assert await list_dir(j, place) == set()
                assert await ask(j, f"stat -c %a {place}; echo x >{place}/x; cat {place}/x") == (
                    "1777\nx"
                )
                blocks = await ask(j, f"stat -f -c '%b %S' {place}")
                count, block = map(int, blocks.split())
                assert count * block == size * MiB


@pytest.mark.parametrize("user", [None, "0", "5:6", "65534"])
async def test_what_is_made_in_a_volume_is_the_invoking_user_s(
    open_jail: OpenJail, tmp_path: Path, user: str | None
) -> None:
    share = tmp_path / "share"
    share.mkdir()
    (share / "old").write_text("old")
    (share / "old").chmod(0o600)
    async with open_jail(volumes=[f"{share}:/share"], user=user) as j:
        assert await ask(j, "umask 022; cd /share; cat old; echo new >old; echo x >f; mkdir d") == (
            "old"
        )
        await ask(j, "cd /share; ln -s /etc/shadow l; mkfifo p; ln f h; chmod 700 d; echo y >d/y")
        assert await ask(j, "stat -c %u:%g /share /share/f | uniq") == await ask(
            j, "echo $(id -u):$(id -g)"
        )
        await j.put("/share/put", b"put")
    for name in ("old", "f", "d", "l", "p", "h", "d/y", "put"):
        found = (share / name).lstat()
        assert (found.st_uid, found.st_gid) == (os.getuid(), os.getgid()), name
        assert not found.st_mode & 0o6000
    assert (share / "old").read_text() == "new\n"
    assert (share / "f").stat().st_mode & 0o777 == 0o644


async def test_a_read_only_volume_is_that(open_jail: OpenJail, tmp_path: Path) -> None:
    share = tmp_path / "share"
    (share / "d").mkdir(parents=True)
    (share / "f").write_text("content")
    (share / "f").chmod(0o666)
    (share / "d").chmod(0o777)
    before = hash_tree(share)
    volumes = [f"{share}:/share:ro", f"{share}/f:/etc/f:ro"]
    async with open_jail(volumes=volumes, user="0") as j:
        assert await ask(j, "cat /share/f /etc/f; ls /share") == "contentcontentd\nf"
        for write in (
            "echo >/share/f", "touch /share/x", "touch /share/d/x", "rm /share/f", "echo >>/etc/f",
            "chmod 600 /share/f", "touch -d @0 /share/f", "mount -o remount,rw /share",
        ):  # fmt: skip
            await is_refused(j, write, "Read-only", "denied", "not permitted", "superuser", "root")
    assert hash_tree(share) == before


async def test_without_a_writable_volume_the_program_is_a_stranger(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    """With ids of its own, what only the user may read stays the user's."""
    require("subuid")
    (tmp_path / "secret").write_text("canary")
    (tmp_path / "secret").chmod(0o600)
    (tmp_path / "public").write_text("hello")
    os.chmod(tmp_path, 0o755)
    volumes = [f"{tmp_path}:/share:ro"]
    for user in (None, "0"):
        async with supervisor.open_jail(volumes=volumes, user=user) as j:
            assert await ask(j, "cat /share/public") == "hello"
            await is_refused(j, "cat /share/secret", "Permission denied")
    async with supervisor.open_jail(volumes=volumes, userns="single") as j:
        assert await ask(j, "cat /share/secret") == "canary", "one id: it is the user"


async def test_volumes_lie_in_each_other_in_whatever_order_they_came(
    open_jail: OpenJail, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(name)
    volumes = [f"{tmp_path}/a:/data/x/y:ro", f"{tmp_path}/b/b:/data/file:ro"]
    async with open_jail(volumes=volumes, tmpfs=["/data"]) as j:
        assert await ask(j, "cat /data/x/y/a /data/file; echo x >/data/z") == "ab"
    volumes = [f"{tmp_path}/a:/tmp/deep/a:ro", f"{tmp_path}/b:/work/b:ro"]
    async with open_jail(volumes=volumes) as j:
        assert await ask(j, "cat /tmp/deep/a/a /work/b/b; echo x >/work/x; echo x >/tmp/x") == "ab"


async def test_one_volume_may_be_shown_twice(open_jail: OpenJail, tmp_path: Path) -> None:
    async with open_jail(volumes=[f"{tmp_path}:/w", f"{tmp_path}:/r:ro"]) as j:
        assert await ask(j, "echo x >/w/x; cat /r/x") == "x"
        await is_refused(j, "touch /r/y", "Read-only")
    (tmp_path / "x").unlink()


async def test_a_volume_of_the_host_s_tmp_is_that_and_not_the_jail_s_own(
    open_jail: OpenJail, tmp_path: Path
) -> None:
    """The jail is built under a directory of the host's, in its own copy of the mounts."""
    for place in ("/tmp", "/run", "/mnt", "/var"):
        async with open_jail(volumes=[f"{place}:/host:ro"]) as j:
            seen = (await j.run(["ls", "-A", "/host"])).stdout.decode().splitlines()
            inode = await ask(j, "stat -c %i /host")
        assert int(inode) == os.stat(place).st_ino
        assert not {"root", "empty", "overlay-upper"} & set(seen)
    async with open_jail(volumes=["/:/host:ro"]) as j:
        assert {"etc", "usr", "tmp"} <= await list_dir(j, "/host")
        assert int(await ask(j, "stat -c %i /host/tmp")) == os.stat("/tmp").st_ino


async def test_two_jails_share_what_both_were_given_and_nothing_else(
    open_jail: OpenJail, tmp_path: Path
) -> None:
    volumes = [f"{tmp_path}:/share"]
    async with open_jail(volumes=volumes) as a, open_jail(volumes=volumes) as b:
        await ask(a, "echo from-a >/share/x; echo private >/tmp/x; echo private >/dev/shm/x")
        assert await ask(b, "cat /share/x; ls /tmp /dev/shm /work | grep -v :") == "from-a"
        await ask(b, "echo from-b >>/share/x")
        assert await ask(a, "cat /share/x") == "from-a\nfrom-b"


async def test_a_volume_s_changes_are_seen_at_once_on_both_sides(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    async with supervisor.open_jail(volumes=[f"{tmp_path}:/share"]) as j:
        await trio.Path(tmp_path / "x").write_text("1")
        assert await ask(j, "cat /share/x; echo 2 >/share/x") == "1"
        assert await trio.Path(tmp_path / "x").read_text() == "2\n"
