"""A network helper that is missing, broken, mute, mad or mortal: one line says so, nothing is left.

The fakes are scripts in its place; what they are attached to is real.
"""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

import pytest
import trio

from jail.errors import HelperError, HostError, JailError
from jail.network import helper_program, pasta, precondition, slirp4netns
from jail.network.publish import Publish
from tests.network_init import open_namespaces
from tests.sight import wait_until

Open = Callable[..., AbstractAsyncContextManager[helper_program.Helper]]
Write = Callable[..., str]

READY = "for each; do case $each in --ready-fd=*) printf 1 >/proc/$$/fd/${each#*=};; esac; done"
READY_ON_STDOUT = "echo $$"
BOTH = {"pasta": READY_ON_STDOUT, "slirp4netns": READY}
NEEDED = {"pasta": pasta.NEEDED, "slirp4netns": slirp4netns.NEEDED}


@pytest.fixture(params=["pasta", "slirp4netns"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def open_(name: str, tmp_path: Path) -> Open:
    """``open_(program, pid, publishes, on_death)`` of either."""
    if name == "pasta":
        return pasta.open_pasta
    return partial(slirp4netns.open_slirp4netns, runtime_dir=tmp_path)


@pytest.fixture
def write(name: str, tmp_path: Path) -> Write:
    """A program that knows the options of the real one, and does as it is told."""

    def write(body: str, options: str = " ".join(NEEDED[name])) -> str:
        path = tmp_path / "fake"
        text = f"#!/bin/sh\nif [ $1 = --help ]; then echo '{options}'; exit; fi\n"
        path.write_text(f"{text}{body}\n")
        path.chmod(0o755)
        return str(path)

    return write


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helper_program, "READY_TIMEOUT_S", 0.3)
    monkeypatch.setattr(helper_program, "HELP_TIMEOUT_S", 0.3)


async def fail(open_: Open, program: str | None) -> JailError:
    """Why it can't be opened."""
    async with open_namespaces() as pid:
        with pytest.raises((HostError, HelperError)) as caught:
            async with open_(program, pid, (), print):
                pass
    error = caught.value
    assert isinstance(error, JailError)
    assert len(str(error)) < 600
    assert str(error).isprintable()
    return error


async def test_one_that_is_missing_is_named(name: str, open_: Open) -> None:
    error = await fail(open_, None)
    assert str(error) == f"{name} is not installed"
    assert isinstance(error, HostError)
    assert error.step == name


async def test_one_that_has_gone_meanwhile_is_named(name: str, open_: Open, tmp_path: Path) -> None:
    error = await fail(open_, str(tmp_path / "gone"))
    assert str(error) == f"{name}: No such file or directory"


async def test_one_that_may_not_be_run_is_named(name: str, open_: Open, write: Write) -> None:
    program = write("exit 0")
    os.chmod(program, stat.S_IRUSR)
    assert str(await fail(open_, program)) == f"{name}: Permission denied"


async def test_one_that_is_no_program_is_named(name: str, open_: Open, tmp_path: Path) -> None:
    path = tmp_path / "fake"
    path.write_bytes(b"\x7fELF" + bytes(60))
    path.chmod(0o755)
    assert str(await fail(open_, str(path))) == f"{name}: Exec format error"


async def test_one_that_is_too_old_is_told_by_what_it_lacks(
    name: str, open_: Open, write: Write
) -> None:
    error = await fail(open_, write("exit 0", " ".join(NEEDED[name][1:])))
    assert f"has no {NEEDED[name][0]}" in str(error)
    assert f"install a newer {name}" in str(error)
    assert isinstance(error, HostError)
    assert error.step == f"{name} version"


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "help_", ["yes", "cat /dev/urandom", "sleep 30", "kill -STOP $$", "exit 3"]
)
async def test_one_that_tells_no_options_is_named(
    name: str, open_: Open, tmp_path: Path, help_: str
) -> None:
    path = tmp_path / "fake"
    path.write_text(f"#!/bin/sh\n{help_}\n")
    path.chmod(0o755)
    assert name in str(await fail(open_, str(path)))


async def test_one_that_exits_at_start_is_quoted(name: str, open_: Open, write: Write) -> None:
    error = await fail(open_, write("echo the reason >&2; echo a second >&2; exit 7"))
    assert str(error) == f"{name} exited with 7: the reason; a second"


async def test_one_that_exits_without_a_word_is_named(name: str, open_: Open, write: Write) -> None:
    assert str(await fail(open_, write("exit 0"))) == f"{name} exited with 0: it said nothing"


async def test_one_that_is_killed_at_start_is_named(name: str, open_: Open, write: Write) -> None:
    error = await fail(open_, write("kill -SEGV $$"))
    assert str(error) == f"{name} was killed by SIGSEGV: it said nothing"


async def test_what_it_says_before_its_end_comes_as_one_printable_line(
    name: str, open_: Open, write: Write
) -> None:
    error = await fail(open_, write(r"printf '\033[31m\000\377red\n' >&2; exit 1"))
    assert f"{name} exited with 1: " in str(error)
    assert "red" in str(error)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("body", ["sleep 30", "yes >&2", "exec >&- 2>&- sleep 30", "kill -STOP $$"])
async def test_one_that_never_gets_ready_is_ended(
    name: str, open_: Open, write: Write, body: str
) -> None:
    assert f"{name} was not ready in 0.3 s" in str(await fail(open_, write(body)))


@pytest.mark.parametrize("name", ["pasta"])
@pytest.mark.parametrize("body", ["head -c 1000000 /dev/urandom", "yes"])
async def test_one_that_says_something_else_than_ready_is_ended(
    write: Write, tmp_path: Path, body: str
) -> None:
    async with open_namespaces() as pid:
        with pytest.raises(HelperError, match="does not say that it is ready"):
            async with pasta.open_pasta(write(body), pid, (), print):
                pass


async def test_its_death_is_told_once_while_it_is_needed(
    name: str, open_: Open, write: Write
) -> None:
    program = write(f"{BOTH[name]}; echo out of luck >&2; sleep 0.1; exit 9")
    told: list[str] = []
    async with open_namespaces() as pid, open_(program, pid, (), told.append):
        await wait_until(lambda: bool(told), "its death")
    assert told == [f"{name} exited with 9: out of luck"]


async def test_its_end_with_the_block_is_no_death(name: str, open_: Open, write: Write) -> None:
    told: list[str] = []
    async with (
        open_namespaces() as pid,
        open_(write(f"{BOTH[name]}; exec sleep 30"), pid, (), told.append),
    ):
        pass
    assert told == []


async def test_one_that_has_stopped_is_ended_too(name: str, open_: Open, write: Write) -> None:
    async with open_namespaces() as pid:
        program = write(f"{BOTH[name]}; exec sleep 30")
        async with open_(program, pid, (), print) as running:
            os.kill(running.pid, signal.SIGSTOP)


async def test_its_children_go_with_it(name: str, open_: Open, write: Write) -> None:
    program = write(f"sleep 30 & sleep 30 & {BOTH[name]}; wait")
    async with open_namespaces() as pid, open_(program, pid, (), print):
        pass


async def test_of_endless_words_little_is_kept(name: str, open_: Open, write: Write) -> None:
    program = write(f"{BOTH[name]}; yes | head -c 3000000 >&2; echo the end >&2; exit 1")
    told: list[str] = []
    async with open_namespaces() as pid, open_(program, pid, (), told.append):
        await wait_until(lambda: bool(told), "its death")
    assert told[0].endswith("; the end")
    assert len(told[0]) < 400


async def test_a_cancelled_start_leaves_nothing(name: str, open_: Open, write: Write) -> None:
    async with open_namespaces() as pid:
        with trio.move_on_after(0.2) as scope:
            async with open_(write("sleep 30"), pid, (), print):
                pass
        assert scope.cancelled_caught


async def test_it_inherits_nothing_of_ours(
    name: str, open_: Open, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "canary")
    secret = tmp_path / "secret"
    secret.touch()
    body = f"readlink /proc/$$/fd/* >{tmp_path}/fds; env >{tmp_path}/env; pwd >{tmp_path}/cwd"
    program = write(f"{body}; {BOTH[name]}; exec sleep 30")
    with secret.open("rb") as file:
        os.set_inheritable(file.fileno(), True)
        async with open_namespaces() as pid, open_(program, pid, (), print):
            pass
    open_files = set((tmp_path / "fds").read_text().split())
    assert str(secret) not in open_files
    ours = {each for each in open_files if not each.startswith("pipe:[")}
    assert ours <= {program, f"{tmp_path}/fds"}
    assert len(open_files - ours) <= 3  # its stdin, what it says, and where it says it is ready
    assert "canary" not in (tmp_path / "env").read_text()
    assert (tmp_path / "cwd").read_text() == "/\n"


@pytest.mark.parametrize("error", [FileNotFoundError, PermissionError])
async def test_a_closed_device_is_told_before_anything_is_started(
    name: str,
    open_: Open,
    write: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: type[OSError],
) -> None:
    device = tmp_path / "tun"
    if error is PermissionError:
        device.touch(0o000)
    monkeypatch.setattr(precondition, "TUN", str(device))
    failure = await fail(open_, write(f"touch {tmp_path}/started"))
    assert isinstance(failure, HostError)
    assert failure.step == str(device)
    assert not (tmp_path / "started").exists()


async def test_the_hosts_own_namespace_is_never_its_target(
    name: str, open_: Open, write: Write, tmp_path: Path
) -> None:
    with pytest.raises(HostError, match=r"^network namespace: "):
        async with open_(write(f"touch {tmp_path}/started"), os.getpid(), (), print):
            pass
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("name", ["slirp4netns"])
async def test_slirp4netns_that_answers_nonsense_about_a_port_is_ended(
    write: Write, tmp_path: Path
) -> None:
    script = f'''{READY}
exec python3 -c "
import socket
s = socket.socket(socket.AF_UNIX); s.bind([a for a in '$*'.split() if '--api' in a][0][13:])
s.listen(); c, _ = s.accept(); c.recv(4096); c.sendall(b'x' * 100); c.close(); s.accept()
"'''
    program = write(script)
    publish = (Publish("127.0.0.1", 18_081, 80),)
    async with open_namespaces() as pid:
        with pytest.raises(HelperError, match="slirp4netns answers"):
            async with slirp4netns.open_slirp4netns(program, pid, publish, print, tmp_path):
                pass
    assert not list(tmp_path.glob("*.sock"))
