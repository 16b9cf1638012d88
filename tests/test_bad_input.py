"""What can't be meant: one clear line that says whose fault it is, and the next jail works."""

from __future__ import annotations

import os
import shutil
import socket
import struct
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

import jail
from jail import HostError, Jail, JailError, ProgramError, SpecError, Supervisor
from jail.inputs import read_inputs
from tests.conftest import OpenJail
from tests.rootfs import make_rootfs

MiB = 1024 * 1024


def read_children() -> dict[int, int]:
    """pid → parent, of every process."""
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        found[int(name)] = int(fields[1])
    return found


def count_inits() -> int:
    """Jails of ours and what is left of any; each zygote may keep one spare."""
    parents = read_children()
    zygotes = [pid for pid, parent in parents.items() if parent == os.getpid()]
    return sum(max(0, list(parents.values()).count(each) - 1) for each in zygotes)


@asynccontextmanager
async def leaving_nothing(supervisor: Supervisor) -> AsyncGenerator[None, None]:
    """What comes out of the block is caught; then all is as before and jails can be opened."""
    async with supervisor.open_jail() as j:
        await j.run(["true"])
    before = len(os.listdir("/proc/self/fd"))
    yield
    deadline = trio.current_time() + 5
    while len(os.listdir("/proc/self/fd")) > before or count_inits():
        assert trio.current_time() < deadline, "something of it is still there"
        await trio.sleep(0.005)
    async with supervisor.open_jail() as j:
        assert (await j.run(["echo", "next"])).stdout == b"next\n"


def assert_one_line(error: JailError, *words: str) -> None:
    text = str(error)
    assert text.isprintable(), text
    assert 0 < len(text) < 400, text
    for word in words:
        assert word in text, text


async def refuse_jail(
    supervisor: Supervisor, words: tuple[str, ...], options: dict[str, Any], kind: Any = SpecError
) -> None:
    async with leaving_nothing(supervisor):
        with pytest.raises(kind) as caught, trio.fail_after(10):
            async with supervisor.open_jail(**options) as j:
                await j.run(["true"])
        assert_one_line(caught.value, *words)


# -- a jail ---------------------------------------------------------------------------------------

BAD_SPECS: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"user": "carol"}, ("user", "'carol'")),
    ({"user": "0:carols"}, ("group", "'carols'")),
    ({"user": "4294967295"}, ("user", "4294967295")),
    ({"memory": 0}, ("memory", "more than 0")),
    ({"memory": "12q"}, ("memory", "'12q'")),
    ({"wall_time": "0s"}, ("wall_time", "'0s'")),
    ({"pids_limit": "some"}, ("pids_limit", "'some'")),
    ({"disk": "-1m"}, ("disk", "'-1m'")),
    ({"memroy": "1m"}, ("memroy", "no such option")),
    ({"env": {"A": "x" * 10 * MiB}}, ("env 'A'",)),
    ({"env": {f"V{n}": "x" * 1000 for n in range(10_000)}}, ("env", "bytes")),
    ({"seccomp": "no-such-policy"}, ("no-such-policy", "default")),
    ({"seccomp": "/no/such/policy.toml"}, ("/no/such/policy.toml", "No such file")),
    ({"seccomp": "/dev/zero"}, ("/dev/zero", "not a regular file")),
    ({"seccomp": "/etc/passwd"}, ("seccomp policy /etc/passwd",)),
    ({"rootfs": "/no/such/root"}, ("rootfs", "/no/such/root", "No such file")),
    ({"rootfs": "/etc/passwd"}, ("rootfs", "is a file")),
    ({"rootfs": "/root"}, ("rootfs", "can't be read by you")),
    ({"volumes": ["/no/such/volume:/data"]}, ("volume", "/no/such/volume", "No such file")),
    ({"volumes": ["/root/x:/data"]}, ("volume", "/root/x", "Permission denied")),
    ({"volumes": ["/dev/null:/data"]}, ("volume", "/dev/null")),
    ({"volumes": ["/etc:/usr/no-such-place"]}, ("/usr/no-such-place", "can't be made")),
    ({"volumes": ["/etc:/etc/passwd"]}, ("/etc/passwd", "is a file in the jail")),
    ({"volumes": ["/etc/passwd:/usr/share"]}, ("/usr/share", "is a directory in the jail")),
    ({"tmpfs": ["/usr/no-such-place"]}, ("/usr/no-such-place", "can't be made")),
    ({"tmpfs": ["/proc"]}, ("tmpfs", "/proc")),
    ({"workdir": "/a/../b"}, ("workdir", "..")),
    ({"hostname": "a_b"}, ("hostname", "'a_b'")),
    ({"network": "hots"}, ("network", "'hots'")),
    ({"network": "pasta", "allow": ["a.org"]}, ("allow", "pasta", "filtered")),
    ({"allow": ["no name"]}, ("allow", "'no name'", "10.1.0.0/16")),
    ({"allow": ["10.1.2.3/16"]}, ("allow", "10.1.0.0/16")),
    ({"allow": ["www.*.org:443"]}, ("allow", "www.*.org", "at the front")),
    ({"allow": ["a.org:https"]}, ("allow", "'https'", "no port")),
    ({"deny": ["a*"]}, ("deny", "at the front")),
    ({"allow": ["127.0.0.1:5432"]}, ("127.0.0.1:5432", "jail's own loopback")),
    ({"publish": ["8080:80"]}, ("publish", "none", "slirp")),
    ({"network": "slirp", "publish": ["80"]}, ("publish", "'80'", "HOST:JAIL")),
    ({"network": "slirp", "publish": ["80:1", "[::1]:80:2"]}, ("publish", "same port")),
    ({"network": "slirp", "publish": ["1-9:1-8"]}, ("publish", "9 ports lead to 8")),
    ({"dns": ["1.1.1.1"]}, ("dns", "none")),
    ({"network": "slirp", "dns": ["127.0.0.53"]}, ("dns", "127.0.0.53", "the jail itself")),
    ({"add_host": ["db"]}, ("add_host", "'db'", "NAME:IP")),
    ({"add_host": ["d/b:10.1.2.3"]}, ("add_host", "'d/b'", "no name")),
    ({"require": {"memroy": "watch"}}, ("require", "memroy")),
    ({"spec": "host"}, ("'host'", "make_spec")),
    ({"spec": jail.make_spec(), "memory": "1g"}, ("memory", "not both")),
]


@pytest.mark.parametrize(("options", "words"), BAD_SPECS, ids=lambda each: str(each)[:50])
async def test_a_jail_that_can_t_be_meant_is_the_caller_s_mistake(
    supervisor: Supervisor, options: dict[str, Any], words: tuple[str, ...]
) -> None:
    await refuse_jail(supervisor, words, options)


async def test_a_stronger_mechanism_than_there_is_is_the_host_s_lack(
    supervisor: Supervisor,
) -> None:
    options = {"require": {"memory": "cgroup"}}
    await refuse_jail(supervisor, ("require", "cgroup"), options, HostError)


@pytest.mark.parametrize("name", ["proc", "dev", "tmp", "work"])
@pytest.mark.parametrize("kind", ["link", "dangling", "loop", "file", "fifo"])
@pytest.mark.parametrize("read_only", [False, True])
async def test_a_root_with_something_else_in_the_place_of_a_mount_point_is_refused(
    supervisor: Supervisor, own_rootfs: Path, tmp_path: Path, name: str, kind: str, read_only: bool
) -> None:
    """CVE-2019-19921, CVE-2026-47766: what is mounted there would land elsewhere."""
    outside = tmp_path / "outside"
    outside.mkdir()
    place = own_rootfs / name
    place.rmdir()
    if kind == "file":
        place.write_text("")
    elif kind == "fifo":
        os.mkfifo(place)
    else:
        place.symlink_to({"link": str(outside), "dangling": "/no/where", "loop": name}[kind])
    options = {"rootfs": own_rootfs, "read_only": read_only}
    await refuse_jail(supervisor, ("rootfs", f"/{name}"), options)
    assert list(outside.iterdir()) == []


async def test_a_root_with_a_mount_below_it_is_told_why_it_can_t_be_used(
    supervisor: Supervisor,
) -> None:
    words = ("mount overlay", "mounted below /?")
    await refuse_jail(supervisor, words, {"rootfs": "/"}, HostError)


# -- what changes between the look and the start --------------------------------------------------


def vanish(path: Path) -> None:
    path.rmdir()


def become_a_link(path: Path) -> None:
    path.rmdir()
    path.symlink_to("/etc")


def become_a_file(path: Path) -> None:
    path.rename(path.with_name("old"))  # so that its inode isn't the new file's
    path.write_text("")


def become_another(path: Path) -> None:
    path.rename(path.with_name("old"))
    path.mkdir()


def move_its_parent(path: Path) -> None:
    path.parent.rename(path.parent.with_name("gone"))


CHANGES = [vanish, become_a_link, become_a_file, become_another, move_its_parent]


def change_after_the_look(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], path: Path
) -> None:
    """At the moment that an attacker would choose; it comes by itself only once in a while."""

    def look(*args: Any) -> Any:
        inputs = read_inputs(*args)
        monkeypatch.setattr("jail.supervisor.read_inputs", read_inputs)
        change(path)
        return inputs

    monkeypatch.setattr("jail.supervisor.read_inputs", look)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("what", ["volume", "rootfs"])
async def test_a_source_that_changes_before_the_start_is_refused(
    supervisor: Supervisor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], None],
    what: str,
) -> None:
    path = tmp_path / "parent/source"
    path.mkdir(parents=True)
    options = {"volumes": [f"{path}:/data"]} if what == "volume" else {"rootfs": path}
    async with leaving_nothing(supervisor):
        change_after_the_look(monkeypatch, change, path)
        with pytest.raises(SpecError) as caught, trio.fail_after(10):
            async with supervisor.open_jail(**options):
                raise AssertionError("it was let in")
        assert_one_line(caught.value, str(path))


async def test_a_source_that_comes_back_is_used_again(
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "source"
    path.mkdir()
    volumes = [f"{path}:/data:ro"]
    change_after_the_look(monkeypatch, vanish, path)
    with pytest.raises(SpecError):
        async with supervisor.open_jail(volumes=volumes):
            raise AssertionError("it was let in")
    path.mkdir()
    (path / "x").write_text("back")
    async with supervisor.open_jail(volumes=volumes) as j:
        assert (await j.run(["cat", "/data/x"])).stdout == b"back"


# -- a program ------------------------------------------------------------------------------------


async def refuse_program(
    j: Jail, argv: list[str], status: int, *words: str, **options: Any
) -> None:
    for attempt in (j.run, run_live):
        with pytest.raises(ProgramError) as caught, trio.fail_after(10):
            await (attempt(argv, **options) if attempt == j.run else run_live(j, argv, options))
        assert caught.value.exit_status == status
        assert_one_line(caught.value, *words)
    assert (await j.run(["echo", "next"])).stdout == b"next\n"


async def run_live(j: Jail, argv: list[str], options: dict[str, Any]) -> None:
    async with j.start(argv, **options):
        raise AssertionError("it was started")


@pytest.mark.parametrize(
    ("argv", "status", "words"),
    [
        (["no-such-program"], 127, ("no-such-program", "not found in PATH (/usr/local/sbin")),
        (["/no/such/program"], 127, ("/no/such/program", "No such file")),
        (["./here"], 127, ("./here",)),
        (["/usr"], 126, ("/usr", "is a directory")),
        (["/etc/passwd"], 126, ("/etc/passwd", "Permission denied")),
        (["/etc/passwd/x"], 126, ("/etc/passwd/x", "Not a directory")),
        (["/proc/self/status"], 126, ("/proc/self/status",)),
        (["x" * 300], 127, ("not found",)),
        (["/" + "x" * 300], 126, ("too long",)),
    ],
    ids=lambda each: str(each)[:30],
)
async def test_a_program_that_can_t_be_started_says_why(
    open_jail: OpenJail, argv: list[str], status: int, words: tuple[str, ...]
) -> None:
    async with open_jail() as j:
        if len(argv[0]) >= 300:
            with pytest.raises(ProgramError) as caught:
                await j.run(argv)
            assert caught.value.exit_status == status
            assert (await j.run(["echo", "next"])).stdout == b"next\n"
        else:
            await refuse_program(j, argv, status, *words)


def make_elf(interpreter: bytes) -> bytes:
    """The head of a 64-bit program for this machine that asks for ``interpreter``."""
    with open("/proc/self/exe", "rb") as file:
        head = bytearray(file.read(64))
    struct.pack_into("<Q", head, 32, 64)  # e_phoff
    struct.pack_into("<HH", head, 54, 56, 2)  # e_phentsize, e_phnum
    text = interpreter + b"\0"
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, 0x400000, 0x400000, 4096, 4096, 4096)
    interp = struct.pack("<IIQQQQQQ", 3, 4, 64 + 112, 0, 0, len(text), len(text), 1)
    return (bytes(head) + load + interp + text).ljust(4096, b"\0")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"#!/no/such/interpreter -x\nwhatever\n", ("interpreter /no/such/interpreter",)),
        (b"#! /opt/perl5\n", ("interpreter /opt/perl5",)),
        (make_elf(b"/lib/ld-other-libc.so.1"), ("interpreter /lib/ld-other-libc.so.1",)),
        (b"no format at all\n", ("is a #! line missing?",)),
        (b"", ("is a #! line missing?",)),
        (b"\x7fELF", ("no program format",)),
        (b"#!\n", ("program",)),
        (b"#!/work/program\n", ("program",)),
        (b"#!" + b"/x" * 3000 + b"\n", ("program",)),
    ],
    ids=["script", "blank", "elf", "text", "empty", "stump", "no-name", "itself", "long"],
)
@pytest.mark.parametrize("ulimits", [[], ["nofile=100"]], ids=["spawn", "fork"])
async def test_a_program_without_its_interpreter_names_it(
    supervisor: Supervisor, content: bytes, words: tuple[str, ...], ulimits: list[str]
) -> None:
    """Two ways to start a program: with limits of its own it is a fork of the agent's."""
    async with supervisor.open_jail(ulimits=ulimits) as j:
        await j.put("program", content, mode=0o755)
        for name in ("./program", "/work/program"):
            await refuse_program(j, [name], 126, *words)


async def test_a_program_found_but_not_executable_is_126(supervisor: Supervisor) -> None:
    async with supervisor.open_jail(env={"PATH": "/work:/no/where"}) as j:
        await j.put("tool", b"#!/bin/sh\n", mode=0o644)
        for argv, status, words in (
            (["tool"], 126, "not executable"),
            (["other"], 127, "not found in PATH"),
        ):
            with pytest.raises(ProgramError, match=words) as caught:
                await j.run(argv)
            assert caught.value.exit_status == status


@pytest.mark.parametrize("cwd", ["/no/such/place", "sub", "/etc/passwd", "/root"])
async def test_a_working_directory_that_isn_t_there_is_named(
    supervisor: Supervisor, cwd: str
) -> None:
    async with supervisor.open_jail() as j:
        with pytest.raises(ProgramError) as caught:
            await j.run(["true"], cwd=cwd)
        assert_one_line(caught.value, "working directory", cwd)
        assert (await j.run(["pwd"], cwd="/usr/lib/..")).stdout == b"/usr\n"


async def test_a_relative_working_directory_starts_where_put_does(supervisor: Supervisor) -> None:
    async with supervisor.open_jail(workdir="/srv/w") as j:
        assert (await j.run(["mkdir", "sub"])).ok
        assert (await j.run(["pwd"], cwd="sub")).stdout == b"/srv/w/sub\n"


BAD_RUNS: list[tuple[Any, dict[str, Any], tuple[str, ...]]] = [
    ([], {}, ("no program",)),
    ([""], {}, ("no program",)),
    ("ls -l", {}, ("list of arguments",)),
    (["echo", "a\0b"], {}, ("argument", "NUL")),
    (["a\0b"], {}, ("argument", "NUL")),
    (["echo", 5], {}, ("argument",)),
    (["echo", "\ud800"], {}, ("argument",)),
    (["echo", "x" * 200_000], {}, ("argument", "bytes")),
    (["echo", *["x" * 1000] * 2000], {}, ("arguments", "bytes")),
    (["true"], {"env": {"A": "\0"}}, ("env 'A'", "NUL")),
    (["true"], {"env": {"A=B": ""}}, ("env", "'A=B'")),
    (["true"], {"env": {"A": 1}}, ("env 'A'", "no text")),
    (["true"], {"env": {f"V{n}": "x" * 1000 for n in range(10_000)}}, ("env", "bytes")),
    (["true"], {"cwd": "a\0b"}, ("cwd", "NUL")),
    (["true"], {"cwd": "/" + "x/" * 3000}, ("cwd", "bytes")),
    (["true"], {"cwd": 5}, ("cwd",)),
    (["true"], {"timeout": 0}, ("timeout", "more than 0")),
    (["true"], {"timeout": "soon"}, ("timeout", "'soon'")),
    (["true"], {"cpu_time": "12q"}, ("cpu_time", "'12q'")),
    (["true"], {"output_limit": -1}, ("output_limit", "-1")),
]


@pytest.mark.parametrize(("argv", "options", "words"), BAD_RUNS, ids=lambda each: str(each)[:30])
async def test_a_run_that_can_t_be_meant_never_reaches_the_jail(
    supervisor: Supervisor, argv: Any, options: dict[str, Any], words: tuple[str, ...]
) -> None:
    async with supervisor.open_jail() as j:
        for attempt in (lambda: j.run(argv, **options), lambda: run_live(j, argv, options)):
            with pytest.raises(SpecError) as caught:
                await attempt()
            assert_one_line(caught.value, *words)
        assert (await j.run(["echo", "next"])).stdout == b"next\n"


async def test_more_arguments_than_the_kernel_takes_is_126(supervisor: Supervisor) -> None:
    async with supervisor.open_jail() as j:
        with pytest.raises(ProgramError, match="Argument list too long") as caught:
            await j.run(["true", *["x"] * 500_000])
        assert caught.value.exit_status == 126
        assert (await j.run(["echo", "next"])).stdout == b"next\n"


async def test_a_hostile_root_s_names_never_get_into_the_environment(
    supervisor: Supervisor, own_rootfs: Path
) -> None:
    (own_rootfs / "etc/passwd").write_bytes(b"e\0vil\x1b:x:77:78::/:/bin/sh\n77:x:0:0::/:/bin/sh\n")
    async with supervisor.open_jail(rootfs=own_rootfs, user="77") as j:
        result = await j.run(["sh", "-c", "id -u; id -g; echo $USER"])
    assert result.stdout == b"77\n78\njail\n"


async def test_without_trio_it_is_the_same_line(tmp_path: Path) -> None:
    def work() -> None:
        with pytest.raises(SpecError, match="carol"):
            jail.run(["true"], user="carol")
        with pytest.raises(ProgramError, match="no-such-program"):
            jail.run(["no-such-program"])
        with pytest.raises(SpecError, match="is a file"):
            jail.run(["true"], rootfs="/etc/passwd")

    await trio.to_thread.run_sync(work)


async def test_a_hundred_mistakes_leave_nothing(supervisor: Supervisor, tmp_path: Path) -> None:
    make_rootfs(tmp_path / "r")
    shutil.rmtree(tmp_path / "r/proc")
    (tmp_path / "r/proc").symlink_to("/etc")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(tmp_path / "s"))
        async with leaving_nothing(supervisor):
            for _ in range(25):
                for options in (
                    {"rootfs": tmp_path / "r"},
                    {"volumes": [f"{tmp_path}/s:/s"]},
                    {"volumes": ["/etc:/usr/no-such-place"]},
                    {"user": "carol"},
                ):
                    with pytest.raises(SpecError):
                        async with supervisor.open_jail(**options):
                            raise AssertionError("it was let in")
    (tmp_path / "s").unlink()
