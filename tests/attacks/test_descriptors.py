"""What a program inherits: three descriptors, an environment made from nothing, and no memory."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from jail import Jail, Supervisor, Verdict
from tests.conftest import OpenJail
from tests.part import not_exercised
from tests.probe import Probe

LIST_FDS: Final = """
import json, os
found = {}
for name in os.listdir('/proc/self/fd'):
    try: found[name] = os.readlink('/proc/self/fd/' + name)
    except OSError: pass
os.write(1, json.dumps(found).encode() + b'\\n')
"""
DUMP_ENV: Final = "import json, os; print(json.dumps(dict(os.environ)))"


def flip(secret: bytes) -> str:
    """As the probe takes it, so that it doesn't find its own argument."""
    return bytes(0xFF ^ each for each in secret).hex()


@pytest.fixture
def crowd() -> Iterator[list[int]]:
    """Two hundred descriptors of ours that any child of ours may have."""
    fds = [os.open("/etc/passwd", os.O_RDONLY) for _ in range(200)]
    for fd in fds:
        os.set_inheritable(fd, True)
    yield fds
    for fd in fds:
        os.close(fd)


async def list_fds(j: Jail) -> dict[str, str]:
    result = await j.run(["python3", "-c", LIST_FDS])
    assert result.ok, result.stderr
    return dict(json.loads(result.stdout))


# -- FD-01 ----------------------------------------------------------------------------------------


async def test_a_program_has_three_descriptors_however_many_we_have(
    crowd: list[int], open_jail: OpenJail
) -> None:
    """FD-01: CVE-2024-21626's class. The first program and one that joins later."""
    command = [sys.executable, "-c", LIST_FDS]
    outside = await trio.run_process(command, capture_stdout=True, close_fds=False)
    if len(json.loads(outside.stdout)) <= len(crowd):
        not_exercised("a child doesn't inherit descriptors here")
    async with open_jail() as j, j.start(["sleep", "60"]):
        for _ in range(2):
            found = await list_fds(j)
            assert set(found) == {"0", "1", "2"}
            assert found["0"] == "/dev/null"
            assert all(found[name].startswith("pipe:") for name in ("1", "2"))


async def test_a_program_with_streams_has_three_pipes(
    crowd: list[int], open_jail: OpenJail
) -> None:
    """FD-01."""
    async with open_jail() as j, j.start(["python3", "-c", LIST_FDS]) as process:
        assert process.stdout is not None
        found = json.loads(await process.stdout.receive_some())
    assert set(found) == {"0", "1", "2"}
    assert len(set(found.values())) == 3
    assert all(target.startswith("pipe:") for target in found.values())


async def test_a_program_with_rlimits_of_its_own_has_three_descriptors_too(
    crowd: list[int], open_jail: OpenJail
) -> None:
    """FD-01: that one is forked, not spawned."""
    async with open_jail(cpu_time="30s", ulimits={"nofile": 64}) as j:
        assert set(await list_fds(j)) == {"0", "1", "2"}


async def test_a_program_s_directory_is_the_jail_s(crowd: list[int], open_jail: OpenJail) -> None:
    """FD-01: no working directory of ours, by any way up."""
    source = "import os; print(os.getcwd()); os.chdir('../../../../..'); print(os.getcwd())"
    async with open_jail() as j:
        assert (await j.run(["python3", "-c", source])).stdout == b"/work\n/\n"


# -- FD-05 ----------------------------------------------------------------------------------------


async def test_no_secret_of_ours_or_of_another_jail_is_in_a_program_s_memory(
    supervisor: Supervisor, userns: str, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FD-05: in our environment, heap and descriptors, and all that an earlier jail was given."""
    ours, theirs = secrets.token_bytes(32), secrets.token_bytes(32)
    monkeypatch.setenv("CANARY", ours.hex())
    heap, memfd = [ours * 100], os.memfd_create("canary")
    os.set_inheritable(memfd, True)
    os.write(memfd, ours)
    try:
        async with supervisor.open_jail(userns=userns) as j:
            await give(j, theirs)
        async with supervisor.open_jail(userns=userns) as j:
            for secret in (ours, theirs, ours.hex().encode(), theirs.hex().encode()):
                result = await probe.run(j, "scan", flip(secret))
                found, seen = parse_scan(result.stdout)
                assert found == 0
                assert seen > 100_000, "it has looked at its memory"
    finally:
        os.close(memfd)
    assert heap


async def give(j: Jail, secret: bytes) -> None:
    """By every way that a jail is given something."""
    text = secret.hex()
    await j.put("file", secret)
    result = await j.run(["sh", "-c", "cat; cat file", text], input=secret, env={"CANARY": text})
    assert result.stdout == secret * 2


def parse_scan(line: bytes) -> tuple[int, int]:
    words = line.split()
    return int(words[1]), int(words[3])


async def test_the_probe_finds_a_secret_that_is_there(open_jail: OpenJail, probe: Probe) -> None:
    """FD-05, its control."""
    secret = secrets.token_hex(16)
    async with open_jail() as j:
        await probe.put(j)
        command = ["/tmp/try", "scan", flip(secret.encode())]
        result = await j.run(command, env={"CANARY": secret})
        assert parse_scan(result.stdout)[0] >= 1


async def test_nothing_of_a_jail_stays_in_the_memory_that_the_next_is_forked_from(
    supervisor: Supervisor,
) -> None:
    """FD-05: what the zygote never had, no child of it can have."""
    secret = secrets.token_bytes(32)
    async with supervisor.open_jail(userns="single", hostname=f"h{secret.hex()[:40]}") as j:
        await give(j, secret)
        (zygote,) = find_zygotes()
        needles = {
            "given": secret,
            "in hex": secret.hex().encode(),
            "host name": b"h" + secret.hex()[:40].encode(),
        }
        try:
            memory = b"\0".join(read_memory(zygote))
        except PermissionError:
            not_exercised("nobody may read a child's memory here")
        assert b"jail.zygote.server" in memory, "it is its memory that was read"
        assert [name for name, needle in needles.items() if needle in memory] == []
    assert any(secret in part for part in read_memory(os.getpid())), "we have it"


def find_zygotes() -> list[int]:
    text = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    found = [int(pid) for pid in text.split()]
    for task in os.listdir("/proc/self/task"):
        more = Path(f"/proc/self/task/{task}/children").read_text().split()
        found += [int(pid) for pid in more if int(pid) not in found]
    return [pid for pid in found if Path(f"/proc/{pid}/comm").read_text() == "jail:zygote\n"]


def read_memory(pid: int) -> Iterator[bytes]:
    """All that is writable of a process."""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, rights, *_ = line.split()
            if "rw" not in rights:
                continue
            start, end = (int(each, 16) for each in span.split("-"))
            try:
                memory.seek(start)
                yield memory.read(end - start)
            except OSError:
                continue


# -- FD-06 ----------------------------------------------------------------------------------------

STREAMS: Final = """
import hashlib, json, os, random, secrets, ssl, tempfile, uuid
found = {
    'random': random.getrandbits(64), 'urandom': os.urandom(8).hex(), 'uuid1': str(uuid.uuid1()),
    'uuid4': str(uuid.uuid4()), 'secrets': secrets.token_hex(8), 'ssl': ssl.RAND_bytes(8).hex(),
    'name': tempfile.mktemp(), 'hash': hash('a string'), 'address': id(object()),
    'stack': open('/proc/self/stat').read().split()[27],
}
try:
    import numpy
    found['numpy'] = int(numpy.random.default_rng().integers(2**62))
    found['numpy of old'] = int(numpy.random.randint(2**31))
except ImportError: pass
print(json.dumps(found))
"""


async def test_two_jails_of_one_zygote_draw_different_numbers(
    supervisor: Supervisor, userns: str
) -> None:
    """FD-06: forks of one process, yet no generator, name, hash seed or address in common."""
    seen: dict[str, list[Any]] = {}
    for _ in range(5):
        async with supervisor.open_jail(userns=userns) as j:
            for _ in range(2):
                result = await j.run(["/usr/bin/python3", "-c", STREAMS])
                assert result.ok, result.stderr
                for name, value in json.loads(result.stdout).items():
                    seen.setdefault(name, []).append(value)
    repeated = {name: values for name, values in seen.items() if len(set(values)) < 10}
    assert repeated == {}


# -- FD-07 ----------------------------------------------------------------------------------------

SPOIL: Final = """
import fcntl, os
for fd in (0, 1, 2):
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_NONBLOCK | os.O_APPEND)
    for done in (
        lambda: os.lseek(fd, 5, 0), lambda: fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB),
        lambda: fcntl.fcntl(fd, 1031, 1 << 20),
    ):
        try: done()
        except OSError: pass
"""
SHOW: Final = """
import fcntl, os
print([fcntl.fcntl(fd, fcntl.F_GETFL) & (os.O_NONBLOCK | os.O_APPEND) for fd in (0, 1, 2)])
try: fcntl.flock(0, fcntl.LOCK_EX | fcntl.LOCK_NB); print('free')
except OSError: print('locked')
"""


async def test_what_a_program_does_to_its_streams_nobody_else_sees(open_jail: OpenJail) -> None:
    """FD-07: flags, positions and locks belong to the open file, which no two share."""
    before = [fcntl.fcntl(fd, fcntl.F_GETFL) for fd in (0, 1, 2)]
    async with open_jail() as j, j.start(["cat"]) as neighbour:
        assert (await j.run(["python3", "-c", SPOIL])).ok
        assert (await j.run(["python3", "-c", SHOW])).stdout == b"[0, 0, 0]\nfree\n"
        assert neighbour.stdin is not None
        assert neighbour.stdout is not None
        await neighbour.stdin.send_all(b"through")
        assert await neighbour.stdout.receive_some() == b"through"
    assert [fcntl.fcntl(fd, fcntl.F_GETFL) for fd in (0, 1, 2)] == before


@pytest.mark.parametrize("size", [4096, 1 << 20])
async def test_a_pipe_of_any_size_is_read_to_its_end(open_jail: OpenJail, size: int) -> None:
    """FD-07: what waits in it when the program is gone comes out, too."""
    source = (
        "import fcntl,os\n"
        f"fcntl.fcntl(1, 1031, {size})\n"
        "os.set_blocking(1, False)\n"
        "written = 0\n"
        "try:\n"
        f"  while written < {size}: written += os.write(1, bytes(4096))\n"
        "except BlockingIOError: pass\n"
        "os.write(2, str(written).encode())\n"
    )
    async with open_jail() as j:
        result = await j.run(["python3", "-c", source])
    assert len(result.stdout) == int(result.stderr) > 0
    assert result.verdict is Verdict.OK


async def test_a_program_that_reads_its_own_output_robs_only_itself(open_jail: OpenJail) -> None:
    """FD-07: a pipe can be opened anew for its other direction; it is nobody's but its own."""
    source = (
        "import os\n"
        "os.write(1, b'first')\n"
        "mine = os.open('/dev/stdout', os.O_RDONLY | os.O_NONBLOCK)\n"
        "try: os.read(mine, 99)\n"
        "except BlockingIOError: pass\n"
        "os.write(1, b'last')\n"
    )
    async with open_jail() as j:
        result = await j.run(["python3", "-c", source])
        assert result.verdict is Verdict.OK
        assert result.stdout.endswith(b"last")
        assert (await j.run(["echo", "next"])).stdout == b"next\n"


# -- FD-08 ----------------------------------------------------------------------------------------

HONEY: Final = {
    "HONEY_BOO_BOO": "secret",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "LD_PRELOAD": "/nonexistent/secret.so",
    "PYTHONPATH": "/nonexistent/secret",
    "PYTHONSTARTUP": "/nonexistent/secret",
    "SSH_AUTH_SOCK": "/nonexistent/secret",
    "XDG_RUNTIME_DIR": "/nonexistent/secret",
    "DBUS_SESSION_BUS_ADDRESS": "unix:path=/nonexistent/secret",
    "http_proxy": "http://secret.invalid",
    "LC_ALL": "secret",
    "TZ": "secret",
}
KNOWN: Final = {
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "PWD",
    "TERM",
    "TMPDIR",
    "HOSTNAME",
}


async def test_the_environment_is_made_from_nothing(
    supervisor: Supervisor, userns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FD-08: no variable of ours, whatever it is called, and no value."""
    for name, value in HONEY.items():
        if name != "LD_PRELOAD":
            monkeypatch.setenv(name, value)
    command = [sys.executable, "-c", DUMP_ENV]
    outside = await trio.run_process(command, capture_stdout=True)
    assert b"HONEY_BOO_BOO" in outside.stdout
    async with supervisor.open_jail(userns=userns, env={"GIVEN": "x"}) as j:
        result = await j.run(["python3", "-c", DUMP_ENV], env={"MORE": "y"})
        found = json.loads(result.stdout)
        assert found.pop("LC_CTYPE", "C.UTF-8") == "C.UTF-8", "Python's own (PEP 538)"
        assert (found.pop("GIVEN"), found.pop("MORE")) == ("x", "y")
        assert set(found) <= KNOWN
        assert "secret" not in result.stdout.decode()
        assert json.loads((await j.run(["python3", "-c", DUMP_ENV])).stdout).get("MORE") is None


async def test_no_environment_but_one_s_own_can_be_read(open_jail: OpenJail) -> None:
    """FD-08: least of all that of process 1."""
    source = (
        "import glob\n"
        "paths = glob.glob('/proc/[0-9]*/environ') + glob.glob('/proc/[0-9]*/task/*/environ')\n"
        "for path in paths:\n"
        "  if path.startswith('/proc/1/'):\n"
        "    try: print(path, open(path, 'rb').read())\n"
        "    except PermissionError: print('refused')\n"
    )
    async with open_jail() as j:
        result = await j.run(["python3", "-c", source])
    assert set(result.stdout.split(b"\n")) == {b"refused", b""}
