"""Memory that the kernel holds for a program, and what bounds it where there is no cgroup.

RS-05. The table for people is in docs/memory.md; each row of "held by a count" is a probe here.
What is in nobody's resident set and is found all the same is in tests/test_limits.py (RS-04).
"""

from __future__ import annotations

import errno
import json
import resource
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
import trio

from jail import Jail, Supervisor, Verdict
from tests.conftest import OpenJail
from tests.part import not_exercised
from tests.probe import make_call

FILL: Final = """
import errno, json, os, resource, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
kept, count, last = [], 0, 0
def fill(step, most=200_000):
    global count, last
    try:
        while count < most:
            kept.append(step()); count += 1
    except OSError as error: last = error.errno
def call(number, *args):
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    answer = libc.syscall(number, *[ctypes.c_long(a) if isinstance(a, int) else a for a in args])
    if answer < 0: raise OSError(ctypes.get_errno(), '')
    return answer
"""
TELL: Final = "\nprint(json.dumps({'count': count, 'errno': last, 'of': globals().get('of', 0)}))\n"


class Probe(NamedTuple):
    """Something to have more and more of, what says no, and the count that it says it at."""

    source: str
    errnos: tuple[int, ...]
    most: int


NOFILE: Final = 4096
PROBES: Final = {
    "event_counters": Probe("fill(lambda: os.eventfd(0))", (errno.EMFILE,), NOFILE),
    "epoll_sets": Probe("import select; fill(select.epoll)", (errno.EMFILE,), NOFILE),
    "pipes": Probe("fill(os.pipe)", (errno.EMFILE,), NOFILE // 2),
    "sockets": Probe("fill(socket.socketpair)", (errno.EMFILE,), NOFILE // 2),
    "descriptors_on_their_way": Probe(
        "def send():\n"
        "  pair = socket.socketpair()\n"
        "  socket.send_fds(pair[0], [b'x'], [0] * 250)\n"
        "  return pair\n"
        "fill(send, 1000)\n"
        "count *= 250",
        (errno.ETOOMANYREFS,),
        NOFILE + 500,
    ),
    "queued_signals": Probe(
        "import signal\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [40])\n"
        "import ctypes\n"
        "head = bytes([40, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255])  # SI_QUEUE\n"
        "info = ctypes.create_string_buffer(head + bytes(116), 128)\n"
        "fill(lambda: call(QUEUE, os.getpid(), 40, info))",
        (errno.EAGAIN,),
        resource.getrlimit(resource.RLIMIT_SIGPENDING)[1],
    ),
    "posix_queues": Probe(
        "import ctypes, struct\n"
        "attr = ctypes.create_string_buffer(struct.pack('8q', 0, 10, 8192, 0, 0, 0, 0, 0), 64)\n"
        "fill(lambda: call(MQ, f'q{count}'.encode(), os.O_CREAT | os.O_RDWR, 0o600, attr))\n"
        "count *= 10 * 8192",
        (errno.EMFILE, errno.ENOSPC),
        resource.getrlimit(resource.RLIMIT_MSGQUEUE)[1],
    ),
    "watches_of_files": Probe(
        "fill(lambda: call(INOTIFY, 0), 100_000)",
        (errno.EMFILE,),
        NOFILE,
    ),
    "locked_pages": Probe(
        "import mmap\n"
        "import ctypes\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "def lock():\n"
        "  m = mmap.mmap(-1, 1 << 20)\n"
        "  place = ctypes.addressof(ctypes.c_char.from_buffer(m))\n"
        "  call(MLOCK, place, 1 << 20)\n"
        "  return m\n"
        "fill(lock, 300)\n"
        "count <<= 20",
        (errno.ENOMEM, errno.EAGAIN, errno.EPERM),
        resource.getrlimit(resource.RLIMIT_MEMLOCK)[1],
    ),
}
NUMBERS: Final = {
    word: make_call(name).number
    for word, name in (
        ("QUEUE", "rt_sigqueueinfo"),
        ("MQ", "mq_open"),
        ("INOTIFY", "inotify_init1"),
        ("MLOCK", "mlock"),
    )
}


async def fill(j: Jail, source: str) -> dict[str, Any]:
    for name, number in NUMBERS.items():
        source = source.replace(name, str(number))
    result = await j.run(["python3", "-c", FILL + source + TELL], timeout=30)
    assert result.verdict is Verdict.OK, (result.verdict, result.message, result.stderr)
    return dict(json.loads(result.stdout))


@pytest.mark.parametrize("what", PROBES)
async def test_objects_of_the_kernel_run_out_at_a_count(open_jail: OpenJail, what: str) -> None:
    """RS-05: and the next program begins anew."""
    probe = PROBES[what]
    if probe.most == resource.RLIM_INFINITY:
        not_exercised(f"this host's own limit of {what} is none")
    async with open_jail() as j:
        for _ in range(2):
            found = await fill(j, probe.source)
            assert found["errno"] in probe.errnos, errno.errorcode.get(found["errno"], found)
            assert 0 < found["count"] <= probe.most


def read_sysctl(name: str) -> int:
    return int(Path("/proc/sys", name).read_text().split()[0])


async def test_a_socket_holds_no_more_than_the_host_s_maximum(open_jail: OpenJail) -> None:
    """RS-05: this, times the descriptors, times the processes, is all that bounds sockets."""
    most = 2 * read_sysctl("net/core/wmem_max")
    source = (
        "a, b = socket.socketpair()\n"
        "a.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 30)\n"
        "of = a.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)\n"
        "a.setblocking(False)\n"
        "fill(lambda: a.send(bytes(4096)))\n"
        "count *= 4096"
    )
    async with open_jail() as j:
        found = await fill(j, source)
    assert found["errno"] == errno.EAGAIN
    assert found["of"] <= most
    assert 0 < found["count"] <= most


PIPES: Final = """
import fcntl, os, sys, time
kept, held = [], 0
try:
    while True:
        r, w = os.pipe()
        kept.append((r, w))
        try: fcntl.fcntl(w, 1031, 1 << 20)
        except OSError: pass
        os.set_blocking(w, False)
        held += os.write(w, bytes(1 << 20))
except OSError: pass
print(held, len(kept), flush=True)
sys.stdin.read(1)
"""


async def test_full_pipes_are_bounded_and_leave_the_user_his_own(
    supervisor: Supervisor, userns: str
) -> None:
    """RS-05: past the user's share (fs.pipe-user-pages-soft) a pipe has two pages, and works."""
    share = read_sysctl("fs/pipe-user-pages-soft") * resource.getpagesize()
    async with (
        supervisor.open_jail(userns=userns) as j,
        j.start(["python3", "-c", PIPES]) as bomb,
        supervisor.open_jail(userns=userns) as sibling,
    ):
        assert bomb.stdout is not None
        held, pipes = map(int, (await bomb.stdout.receive_some()).split())
        assert share // 2 < held <= share + pipes * 2 * resource.getpagesize() + (1 << 20)
        result = await sibling.run(["sh", "-c", "seq 100000 | tail -1"], input=b"x" * 300_000)
        assert result.stdout == b"100000\n"
        with trio.fail_after(10):
            done = await trio.run_process(["sh", "-c", "seq 100000 | tail -1"], capture_stdout=True)
        assert done.stdout == b"100000\n"


async def test_system_v_messages_are_bounded_by_the_namespace(open_jail: OpenJail) -> None:
    """RS-05: by msgmni queues of msgmnb bytes; the watch doesn't see them."""
    most = read_sysctl("kernel/msgmni") * read_sysctl("kernel/msgmnb")
    source = (
        (
            "queues, text = [], (1).to_bytes(8, 'little') + bytes(8192)\n"
            "def send():\n"
            "  try: call(SEND, queues[-1], text, 8192, 0o4000)\n"
            "  except (OSError, IndexError): queues.append(call(GET, 0, 0o600)); send()\n"
            "fill(send, 4000)\n"
            "count *= 8192"
        )
        .replace("SEND", str(make_call("msgsnd").number))
        .replace("GET", str(make_call("msgget").number))
    )
    async with open_jail() as j:
        found = await fill(j, source)
    assert 0 < found["count"] <= most
