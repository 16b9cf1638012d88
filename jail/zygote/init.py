"""PID 1 of a jail, from its first instruction to the moment it becomes the agent.

One ladder, in the order the kernel wants. Every rung either holds or the process reports it and
exits: nothing untrusted has run by then.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import signal
import socket
import struct
import sys
from typing import Any, Final, NoReturn

from jail.agent import filter, server, wire
from jail.kernel import landlock, mount, process
from jail.kernel.file import openat2
from jail.launchplan import Landlock, LaunchPlan
from jail.zygote import gate, leaf, link
from jail.zygote.fsops import Builder
from jail.zygote.way import IN_ROOT, RefusedError

SIOCSIFFLAGS: Final = 0x8914
IFF_UP: Final = 0x1
HANDOVER_FD: Final = 3
BOOKS_FD: Final = 4
"""and the next: what the jail has used, read once"""


class StepError(Exception):
    """A rung that did not hold: which, and the kernel's answer."""

    def __init__(self, step: str, code: int, detail: str = "") -> None:
        super().__init__(step)
        self.step, self.errno, self.detail = step, code, detail


def run_init(handover_fd: int, leaf_fd: int, flags: int, rehearsal: bytes) -> NoReturn:
    """Wait for the session, build the jail, drop everything, serve. Ends with the session.

    What needs no plan is done before the session comes: a spare init waits here, warm.
    ``leaf_fd`` is the cgroup that it was born into, -1 for none.
    ``rehearsal`` is a Setup frame's body whose reading makes our own copies of the pages that
    the real one will touch; b"" goes without.
    """
    sock: socket.socket | None = None
    try:
        process.set_name("jail:init")
        keep_only(handover_fd)
        failure = prepare(flags, leaf_fd)
        if rehearsal:
            rehearse(rehearsal)
        sock = receive_session()
        try:
            if failure is not None:
                raise failure
            plan = receive_plan(sock)
            gate_fds = open_gate(plan)
            listener_fd, *fds = climb(plan)
            used = read_used(leaf_fd)
        except StepError as error:
            report = wire.SetupFailed(error.step, error.errno, error.detail)
            sock.sendall(wire.pack_frame(report))
            os._exit(1)
        # By this name it is known as a jail, and from the next moment on it may be paused.
        process.set_name("jail:agent")
        wire.send_with_fds(sock, wire.pack_frame(wire.Ready(wire.PROTOCOL_VERSION, *used)), fds)
        if listener_fd >= 0:
            wire.send_with_fds(sock, wire.pack_frame(wire.Listening(0)), (listener_fd,))
        if gate_fds:
            wire.send_with_fds(sock, wire.pack_frame(wire.Gated()), gate_fds)
        close_all_but(sock.fileno())
        server.serve(sock, make_own_filter(plan))
        os._exit(0)
    except BaseException as error:
        complain(sock, error)
    finally:
        os._exit(1)


def prepare(flags: int, leaf_fd: int) -> StepError | None:
    """The rungs that are the same for every plan; a failure is kept until there is a session."""
    first = HANDOVER_FD + 1
    try:
        if leaf_fd >= 0:
            with rung("cgroup"):
                first = leaf.open_books(leaf_fd, BOOKS_FD)
                process.unshare(process.CLONE_NEWCGROUP)
        with rung("close_range"):
            process.close_range(first, process.ALL_FDS)
        if flags & process.CLONE_NEWNET:
            with rung("lo up"):
                raise_loopback()
        with rung("keyring"):
            process.join_session_keyring()
        with rung("capset"):
            # Of no effect on what we hold until the program is executed.
            process.drop_capabilities()
    except StepError as error:
        return error
    return None


def rehearse(body: bytes) -> None:
    """Go through the motions without a system call that changes anything."""
    setup = wire.unpack_body(body, {"Setup": wire.Setup})
    Builder(LaunchPlan.from_wire(setup.plan))
    server.rehearse()
    with contextlib.suppress(OSError):
        openat2(-1, "rehearsal", os.O_PATH, 0)
    with contextlib.suppress(OSError):
        landlock.landlock_add_rule(-1, -1, 0)


def open_gate(plan: LaunchPlan) -> list[int]:
    """The sockets of a network that leads to the supervisor, where it is of that kind."""
    if plan.gate is None:
        return []
    return gate.open_gate(plan.gate, rung)


def climb(plan: LaunchPlan) -> tuple[int, int, int, int]:
    """The ladder. Gives the listener's fd, -1 for none, and those that Ready brings."""
    builder = Builder(plan)
    with rung("sources"):
        builder.open_sources()
    with rung("setgroups"):
        become(plan.builder, plan.drops_groups)
    with rung("mounts private"):
        mount.make_private()
    builder.build(rung)
    with rung("pivot_root"):
        proc_fd, scratch_fd = builder.enter()
    ruleset_fd = -1
    if plan.landlock is not None:
        with rung("landlock"):
            # The builder can reach all that he has mounted; the program perhaps can't.
            ruleset_fd = make_ruleset(plan.landlock)
    with rung("sethostname"):
        socket.sethostname(plan.hostname)
    forget_imports()
    with rung("rlimit"):
        for number, soft, hard in plan.rlimits:
            set_limit(number, soft, hard)
    if plan.cpus:
        with rung("sched_setaffinity"):
            os.sched_setaffinity(0, plan.cpus)
    with rung("capset"):
        become(plan.program, False)
        process.clear_capabilities()
        process.prctl(process.PR_SET_DUMPABLE, 0)
        # The zygote has one thread, so this is tied to the process: prctl(2).
        process.prctl(process.PR_SET_PDEATHSIG, signal.SIGKILL)
    segments_fd = open_segments(proc_fd)
    listener_fd = -1
    with rung("no_new_privs"):
        process.prctl(process.PR_SET_NO_NEW_PRIVS, 1)
    if plan.landlock is not None:
        with rung("landlock"):
            landlock.landlock_restrict_self(ruleset_fd, plan.landlock.flags)
            os.close(ruleset_fd)
    with rung("seccomp"):
        if plan.filter:
            listens = plan.listens and not plan.program_filter
            listener_fd = filter.load(filter.Filter(plan.filter, listens))
    return listener_fd, proc_fd, scratch_fd, segments_fd


def make_own_filter(plan: LaunchPlan) -> filter.Filter | None:
    """What each program gets beside what it inherits."""
    if not plan.program_filter:
        return None
    return filter.Filter(plan.program_filter, plan.listens, plan.traces)


def make_ruleset(wall: Landlock) -> int:
    """Its fd. A rule is about the file that lies there now, whatever will lie there later."""
    ruleset_fd = landlock.landlock_create_ruleset(wall.handled_fs, wall.handled_net, wall.scoped)
    for path, access in wall.rules:
        fd = openat2(mount.AT_FDCWD, path or ".", os.O_PATH, IN_ROOT)
        landlock.landlock_add_rule(ruleset_fd, fd, access)
        os.close(fd)
    return ruleset_fd


def open_segments(proc_fd: int) -> int:
    """The list of shared memory segments; it stays that of the opener's ipc namespace."""
    flags = os.O_RDONLY | os.O_CLOEXEC
    try:
        return os.open("sysvipc/shm", flags, dir_fd=proc_fd)
    except FileNotFoundError:  # a kernel without System V IPC has no segments either
        return os.open("/dev/null", flags)


def read_used(leaf_fd: int) -> tuple[int, int, int]:
    """What making the jail took of its cgroup: it is not the program's."""
    return leaf.read_books(BOOKS_FD) if leaf_fd >= 0 else (0, 0, 0)


class rung:  # noqa: N801 - reads as a word of the ladder
    """Names the step that an OSError inside belongs to."""

    def __init__(self, step: str) -> None:
        self._step = step

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, RefusedError):
            raise StepError(wire.REFUSED, error.errno or 0, error.strerror or "") from None
        if isinstance(error, OSError):
            raise StepError(self._step, error.errno or 0, error.strerror or str(error)) from None


def keep_only(handover_fd: int) -> None:
    """0, 1, 2 are /dev/null, 3 the handover socket; :func:`prepare` closes the zygote's others."""
    handover = fcntl.fcntl(handover_fd, fcntl.F_DUPFD_CLOEXEC, 10)
    null = os.open("/dev/null", os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.dup2(handover, HANDOVER_FD, inheritable=False)


def close_all_but(fd: int) -> None:
    """0, 1, 2 and the session: a directory of the host left open is a way out for whoever makes
    the agent look through /proc/self/fd (CVE-2024-21626).
    """
    os.closerange(HANDOVER_FD, fd)
    os.closerange(max(HANDOVER_FD, fd + 1), os.sysconf("SC_OPEN_MAX"))


def receive_session() -> socket.socket:
    """The jail's end of its session, which the zygote hands over when the id maps are written.

    The end of the handover socket means that there will be none.
    """
    with socket.socket(fileno=HANDOVER_FD) as handover:
        received = link.receive(handover)
    if received is None:
        os._exit(0)
    _, (session_fd,) = received
    return socket.socket(fileno=session_fd)


def receive_plan(sock: socket.socket) -> LaunchPlan:
    """The Setup frame, and not a byte more: what follows it is the agent's to read."""
    (size,) = wire.HEADER.unpack(_receive_exactly(sock, wire.HEADER.size))
    setup = wire.unpack_body(_receive_exactly(sock, size), {"Setup": wire.Setup})
    if setup.version != wire.PROTOCOL_VERSION:
        raise StepError("protocol", errno.EPROTO, f"the supervisor speaks version {setup.version}")
    return LaunchPlan.from_wire(setup.plan)


def _receive_exactly(sock: socket.socket, size: int) -> bytes:
    data = sock.recv(size, socket.MSG_WAITALL)
    if len(data) < size:
        os._exit(0)  # the supervisor has gone
    return data


def become(ids: tuple[int, int], drop_groups: bool) -> None:
    """All three uids and gids; the supplementary groups go where the maps let them."""
    uid, gid = ids
    if drop_groups:
        os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def raise_loopback() -> None:
    """``ip link set lo up``; netdevice(7)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))


def forget_imports() -> None:
    """From here on a file of the root filesystem could become our code: import nothing more."""
    sys.path.clear()
    sys.meta_path.clear()
    sys.path_hooks.clear()


def set_limit(number: int, soft: int, hard: int) -> None:
    """As asked, or the host's own hard limit where that is lower."""
    _, most = resource.getrlimit(number)
    if most != resource.RLIM_INFINITY:
        hard = most if hard == resource.RLIM_INFINITY else min(hard, most)
        soft = hard if soft == resource.RLIM_INFINITY else min(soft, hard)
    try:
        resource.setrlimit(number, (soft, hard))
    except ValueError as error:  # what Python makes of EPERM and EINVAL
        raise OSError(errno.EINVAL, f"limit {number}: {error}") from None


def complain(sock: socket.socket | None, error: BaseException) -> None:
    """A bug of ours: tell the supervisor as far as the session still works."""
    detail = f"{type(error).__name__}: {error}"[:500]
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.sendall(wire.pack_frame(wire.SetupFailed("init", 0, detail)))
