"""What each kind of number is called: the kinds that ``call.py`` names.

From Python's own modules where they have them, for the machine that we are on.
"""

from __future__ import annotations

import fcntl
import resource
import socket
import termios
from collections.abc import Mapping
from types import ModuleType
from typing import Final

from jail.policy.describe.constant import (
    AT,
    BPF,
    CLONE,
    FUTEX,
    IOCTLS,
    IP,
    KEYCTL,
    MADVISE,
    MOUNT,
    NETLINK,
    PERSONALITY,
    PRCTL,
    PTRACE,
    SIGNALS,
    SOCKET_FLAGS,
    number,
    number_bits,
)
from jail.policy.describe.name import Names


def read_module(module: ModuleType, prefixes: str, without: str = "") -> dict[int, str]:
    """A Python module's own, of several names for one number the first."""
    start, stop = tuple(prefixes.split()), tuple(without.split())
    found: dict[int, str] = {}
    for name in sorted(vars(module)):
        value = getattr(module, name)
        if isinstance(value, int) and name.startswith(start) and name not in stop:
            found.setdefault(int(value), name)
    return found


NAMES: Final[Mapping[str, Names]] = {
    "access": Names({}, {1: "X_OK", 2: "W_OK", 4: "R_OK"}),
    "arch_code": Names(
        {
            **number("ARCH_", "SET_GS SET_FS GET_FS GET_GS", 0x1001),
            **number("ARCH_", "GET_CPUID SET_CPUID", 0x1011),
            **number("ARCH_", "GET_XCOMP_SUPP GET_XCOMP_PERM REQ_XCOMP_PERM", 0x1021),
            **number("ARCH_SHSTK_", "ENABLE DISABLE LOCK UNLOCK STATUS", 0x5001),
        }
    ),
    "at": Names({}, AT),
    "at_remove": Names({}, {0x200: "AT_REMOVEDIR"}),
    "bpf": Names(BPF),
    "clock": Names(
        number(
            "CLOCK_",
            "REALTIME MONOTONIC PROCESS_CPUTIME_ID THREAD_CPUTIME_ID MONOTONIC_RAW "
            "REALTIME_COARSE MONOTONIC_COARSE BOOTTIME REALTIME_ALARM BOOTTIME_ALARM - TAI",
        )
    ),
    "clone": Names(
        {k: v for k, v in SIGNALS.choices.items() if k},
        {k: v for k, v in CLONE.items() if k != 0x80},
        mask=0xFF,
    ),
    "close_range": Names({}, {2: "CLOSE_RANGE_UNSHARE", 4: "CLOSE_RANGE_CLOEXEC"}),
    "epoll_op": Names(number("EPOLL_CTL_", "ADD DEL MOD", 1)),
    "event": Names({}, {1: "EFD_SEMAPHORE", 0o4000: "EFD_NONBLOCK", 0o2000000: "EFD_CLOEXEC"}),
    "fallocate": Names(
        {},
        number_bits(
            "FALLOC_FL_",
            "KEEP_SIZE PUNCH_HOLE NO_HIDE_STALE COLLAPSE_RANGE ZERO_RANGE INSERT_RANGE",
        ),
    ),
    "family": Names({**read_module(socket, "AF_"), 0: "AF_UNSPEC", 33: "AF_RXRPC", 40: "AF_VSOCK"}),
    "fcntl": Names(
        {
            **read_module(fcntl, "F_", "F_RDLCK F_WRLCK F_UNLCK F_EXLCK F_SHLCK"),
            **number("F_", "DUPFD GETFD SETFD GETFL SETFL GETLK SETLK SETLKW SETOWN GETOWN"),
            **number("F_", "SETSIG GETSIG", 10),
            **number("F_", "SETOWN_EX GETOWN_EX", 15),
            **number("F_", "OFD_GETLK OFD_SETLK OFD_SETLKW", 36),
            **number("F_", "SETLEASE GETLEASE NOTIFY - - - DUPFD_CLOEXEC SETPIPE_SZ", 1024),
            **number("F_", "GETPIPE_SZ ADD_SEALS GET_SEALS", 1032),
        }
    ),
    "flock": Names({}, {1: "LOCK_SH", 2: "LOCK_EX", 4: "LOCK_NB", 8: "LOCK_UN"}),
    "futex": Names(FUTEX, {0x80: "FUTEX_PRIVATE_FLAG", 0x100: "FUTEX_CLOCK_REALTIME"}, mask=0x7F),
    "idtype": Names(number("P_", "ALL PID PGID PIDFD")),
    "inotify": Names(
        {},
        number_bits(
            "IN_",
            "ACCESS MODIFY ATTRIB CLOSE_WRITE CLOSE_NOWRITE OPEN MOVED_FROM MOVED_TO CREATE "
            "DELETE DELETE_SELF MOVE_SELF",
        ),
    ),
    "ioctl": Names({**read_module(termios, "TC TIO FIO", "TIOCSER_TEMT"), **IOCTLS}),
    "ioprio": Names(number("IOPRIO_WHO_", "PROCESS PGRP USER", 1)),
    "itimer": Names(number("ITIMER_", "REAL VIRTUAL PROF")),
    "keyctl": Names(KEYCTL),
    "keyring": Names(
        number(
            "KEY_SPEC_",
            "USER_SESSION_KEYRING USER_KEYRING SESSION_KEYRING PROCESS_KEYRING THREAD_KEYRING",
            2**32 - 5,
        )
    ),
    "madvise": Names(MADVISE),
    "membarrier": Names({0: "MEMBARRIER_CMD_QUERY", 8: "MEMBARRIER_CMD_PRIVATE_EXPEDITED"}),
    "memfd": Names({}, number_bits("MFD_", "CLOEXEC ALLOW_SEALING HUGETLB NOEXEC_SEAL EXEC")),
    "memory_policy": Names(number("MPOL_", "DEFAULT PREFERRED BIND INTERLEAVE LOCAL"), mask=0xFF),
    "message": Names({}, read_module(socket, "MSG_", "MSG_FIN MSG_SYN MSG_RST")),
    "mlockall": Names({}, number_bits("MCL_", "CURRENT FUTURE ONFAULT")),
    "mmap": Names(
        number("MAP_", "SHARED PRIVATE SHARED_VALIDATE", 1),
        {
            0x10: "MAP_FIXED",
            0x20: "MAP_ANONYMOUS",
            0x40: "MAP_32BIT",
            **number_bits(
                "MAP_", "GROWSDOWN - - DENYWRITE EXECUTABLE LOCKED NORESERVE POPULATE", 8
            ),
            **number_bits("MAP_", "NONBLOCK STACK HUGETLB SYNC FIXED_NOREPLACE", 16),
        },
        mask=0xF,
    ),
    "mount": Names({}, MOUNT),
    "personality": PERSONALITY,
    "prctl": Names(PRCTL),
    "priority": Names(number("PRIO_", "PROCESS PGRP USER")),
    "protection": Names({0: "PROT_NONE"}, number_bits("PROT_", "READ WRITE EXEC SEM"), mask=0),
    "ptrace": Names(PTRACE),
    "random": Names({}, number_bits("GRND_", "NONBLOCK RANDOM INSECURE")),
    "reboot": Names(
        {
            0: "LINUX_REBOOT_CMD_CAD_OFF",
            0x01234567: "LINUX_REBOOT_CMD_RESTART",
            0x4321FEDC: "LINUX_REBOOT_CMD_POWER_OFF",
            0xCDEF0123: "LINUX_REBOOT_CMD_HALT",
        }
    ),
    "rename": Names({}, number_bits("RENAME_", "NOREPLACE EXCHANGE WHITEOUT")),
    "rlimit": Names(read_module(resource, "RLIMIT_", "RLIMIT_OFILE")),
    "rusage": Names({0: "RUSAGE_SELF", 1: "RUSAGE_THREAD", 0xFFFFFFFF: "RUSAGE_CHILDREN"}),
    "scheduler": Names(
        number("SCHED_", "OTHER FIFO RR BATCH - IDLE DEADLINE EXT"),
        {0x40000000: "SCHED_RESET_ON_FORK"},
        mask=0xFF,
    ),
    "seccomp": Names(
        number("SECCOMP_", "SET_MODE_STRICT SET_MODE_FILTER GET_ACTION_AVAIL GET_NOTIF_SIZES")
    ),
    "seccomp_flags": Names(
        {},
        number_bits(
            "SECCOMP_FILTER_FLAG_",
            "TSYNC LOG SPEC_ALLOW NEW_LISTENER TSYNC_ESRCH WAIT_KILLABLE_RECV",
        ),
        bits=64,
    ),
    "shutdown": Names(number("SHUT_", "RD WR RDWR")),
    "sigmask": Names(number("SIG_", "BLOCK UNBLOCK SETMASK")),
    "signal": SIGNALS,
    "socket_flags": Names({}, SOCKET_FLAGS),
    "socket_level": Names(
        {1: "SOL_SOCKET", 0: "SOL_IP", 6: "SOL_TCP", 17: "SOL_UDP", 41: "SOL_IPV6"}
    ),
    "socket_type": Names(
        {
            **number("SOCK_", "STREAM DGRAM RAW RDM SEQPACKET DCCP", 1),
            10: "SOCK_PACKET",
        },
        SOCKET_FLAGS,
        mask=0xF,
    ),
    "syslog": Names(
        number(
            "SYSLOG_ACTION_",
            "CLOSE OPEN READ READ_ALL READ_CLEAR CLEAR CONSOLE_OFF CONSOLE_ON CONSOLE_LEVEL "
            "SIZE_UNREAD SIZE_BUFFER",
        )
    ),
    "timer_flags": Names({}, {1: "TIMER_ABSTIME"}),
    "umount": Names({}, number_bits("", "MNT_FORCE MNT_DETACH MNT_EXPIRE UMOUNT_NOFOLLOW")),
    "unshare": Names({}, CLONE, bits=64),
    "wait": Names(
        {},
        {
            1: "WNOHANG",
            2: "WUNTRACED",
            4: "WEXITED",
            8: "WCONTINUED",
            0x01000000: "WNOWAIT",
            0x20000000: "__WNOTHREAD",
            0x40000000: "__WALL",
            0x80000000: "__WCLONE",
        },
    ),
    "whence": Names(number("SEEK_", "SET CUR END DATA HOLE")),
    "xattr": Names({}, {1: "XATTR_CREATE", 2: "XATTR_REPLACE"}),
}
SOCKET_OPTIONS: Final = Names(read_module(socket, "SO_"))
OTHER_OPTIONS: Final = {
    6: Names(read_module(socket, "TCP_")),
    0: Names(read_module(socket, "IP_")),
    41: Names(read_module(socket, "IPV6_")),
}


def make_open_flags(machine: str) -> Names:
    """``open(2)``'s, of which arm64 has four of its own."""
    arm = machine == "aarch64"
    directory, nofollow, direct, large = (
        (0o40000, 0o100000, 0o200000, 0o400000) if arm else (0o200000, 0o400000, 0o40000, 0o100000)
    )
    flags = {
        0o100: "O_CREAT",
        0o200: "O_EXCL",
        0o400: "O_NOCTTY",
        0o1000: "O_TRUNC",
        0o2000: "O_APPEND",
        0o4000: "O_NONBLOCK",
        0o10000: "O_DSYNC",
        0o20000: "O_ASYNC",
        0o1000000: "O_NOATIME",
        0o2000000: "O_CLOEXEC",
        0o4010000: "O_SYNC",
        0o10000000: "O_PATH",
        0o20000000 | directory: "O_TMPFILE",
        0o20000000: "__O_TMPFILE",
        directory: "O_DIRECTORY",
        nofollow: "O_NOFOLLOW",
        direct: "O_DIRECT",
        large: "O_LARGEFILE",
    }
    return Names(number("O_", "RDONLY WRONLY RDWR"), flags, mask=3)


def make_protocols(family: int) -> Names:
    """What the third argument of ``socket(2)`` means depends on the first."""
    if family in (socket.AF_INET, socket.AF_INET6):
        return Names(IP)
    if family == socket.AF_NETLINK:
        return Names(number("NETLINK_", NETLINK))
    return Names()
