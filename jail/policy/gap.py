"""What a policy leaves open that every shipped one closes: for whoever brings his own. Pure."""

from __future__ import annotations

from typing import Final

from jail.policy.rule import Ruleset, Target

CLONE_NEWUSER: Final = 0x10000000
SIGCHLD: Final = 17
AT_FDCWD: Final = 2**64 - 100
TIOCSTI: Final = 0x5412
AF_INET, SOCK_RAW = 2, 3
AF_ALG, SOCK_SEQPACKET = 38, 5

WALLS: Final[tuple[tuple[str, tuple[tuple[str, tuple[int, ...]], ...]], ...]] = (
    (
        "set-id files can be made in a writable volume, and run as you for everybody on the host",
        (("fchmodat", (AT_FDCWD, 0, 0o4755)), ("openat", (AT_FDCWD, 0, 0o101, 0o4755))),
    ),
    (
        "new user namespaces, and with them every capability inside: most kernel holes lie there",
        (("clone", (CLONE_NEWUSER | SIGCHLD,)), ("unshare", (CLONE_NEWUSER,)), ("clone3", ())),
    ),
    ("file systems can be mounted where a user namespace allows it", (("mount", ()),)),
    (
        "the kernel's own machines: bpf, perf events, userfaultfd, io_uring",
        tuple((call, ()) for call in ("bpf", "perf_event_open", "userfaultfd", "io_uring_setup")),
    ),
    ("keyrings, which are in no namespace", (("keyctl", ()), ("add_key", ()))),
    ("files by their handles, past every mount", (("open_by_handle_at", ()),)),
    ("characters can be typed into a terminal it was given", (("ioctl", (0, TIOCSTI)),)),
    (
        "socket families where kernel bugs live",
        (("socket", (AF_ALG, SOCK_SEQPACKET)), ("socket", (AF_INET, SOCK_RAW))),
    ),
    (
        "the agent can be hampered: its limits, its signals, its place in the queue",
        (("kill", (1, 15)), ("prlimit64", (1, 7, 1)), ("setpriority", (0, 1, 19))),
    ),
)


def find_gaps(ruleset: Ruleset, target: Target) -> list[str]:
    """A sentence for each wall with a call through it, and the call's name."""
    gaps = []
    for sentence, calls in WALLS:
        through = [c for c, args in calls if ruleset.decide(target, c, args).passes]
        if through:
            gaps.append(f"{sentence} ({', '.join(dict.fromkeys(through))})")
    return gaps
