"""The table: each program, and the policies under which it has to run as if there were none."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from tests.programs import source

NETWORKED: Final = ("default", "build", "network")
PROCESSES: Final = ("compute", *NETWORKED)
ALL: Final = ("strict", "plugin", *PROCESSES)

PYTHON3: Final = "/usr/bin/python3"
JVM_ASKS: Final = frozenset({"socket"})
"""whether the kernel has IPv6, and it goes on without"""


@dataclass(frozen=True)
class Program:
    """Steps in one jail; all must end well, and the last one prints ``output``."""

    policies: tuple[str, ...]
    steps: tuple[tuple[str, ...], ...]
    output: bytes
    files: dict[str, str] = field(default_factory=dict)
    parts: tuple[str, ...] = ()
    asks: frozenset[str] = frozenset()
    """calls that it is refused under the policies without a network, and does without"""


def run(argv: str) -> tuple[tuple[str, ...], ...]:
    return (tuple(argv.split()),)


def python(policies: tuple[str, ...], text: str, output: bytes) -> Program:
    return Program(policies, run(f"{PYTHON3} main.py"), output, {"main.py": text})


def node(policies: tuple[str, ...], text: str, output: bytes) -> Program:
    return Program(policies, run("node main.js"), output, {"main.js": text}, ("node",))


def java(policies: tuple[str, ...], word: str, output: bytes) -> Program:
    argv = run(f"java -cp /built Main {word}")
    return Program(policies, argv, output, parts=("javac",), asks=JVM_ASKS)


def shell(text: str) -> tuple[tuple[str, ...], ...]:
    return (("sh", "-euc", text),)


PROGRAMS: Final[dict[str, Program]] = {
    "C": Program(ALL, run("/built/c"), b"140 written 1\n", parts=("gcc",)),
    "C, static": Program(ALL, run("/built/c-static"), b"140 written 1\n", parts=("gcc",)),
    "C++": Program(ALL, run("/built/cpp"), b"140 7\n", parts=("g++",)),
    "Rust": Program(ALL, run("/built/rust"), b"140 written\n", parts=("rustc",)),
    "Rust that talks": Program(NETWORKED, run("/built/rust x"), b"over lo\n", parts=("rustc",)),
    "Go": Program(ALL, run("/built/go"), b"140 written\n", parts=("go",)),
    "Go that talks": Program(NETWORKED, run("/built/go x"), b"over lo\n", parts=("go",)),
    "CPython": python(ALL, source.PYTHON, b"140 7 awake\n"),
    "CPython's processes": python(PROCESSES, source.PYTHON_PROCESSES, b"140 7 over a path run\n"),
    "CPython over HTTP": python(NETWORKED, source.PYTHON_HTTP, b"asked for /x\n"),
    "descriptors over a pair": python(("plugin", *PROCESSES), source.PYTHON_PAIR, b"here\n"),
    "numpy": python(ALL, source.NUMPY, b"0.0\n"),
    "node": node(ALL, source.NODE, b"written 42\n"),
    "node's processes": node(PROCESSES, source.NODE_PROCESS, b"36 over a path run\n"),
    "node over HTTP": node(NETWORKED, source.NODE_HTTP, b"asked for /x\n"),
    "the JVM": java(ALL, "", b"true 140\n"),
    "the JVM's processes": java(PROCESSES, "process", b"from a process\n"),
    "the JVM that talks": java(NETWORKED, "talk", b"over lo\n"),
    "javac": Program(
        ALL,
        (("javac", "Main.java"), ("java", "Main")),
        b"true 140\n",
        {"Main.java": source.JAVA},
        ("javac",),
        JVM_ASKS,
    ),
    "sqlite3": Program(
        ALL,
        (("sqlite3", "a.db", "pragma journal_mode=wal; create table t(x); insert into t values (5)"),
         ("sqlite3", "a.db", "select x from t")),
        b"5\n",
        {},
        ("sqlite3",),
    ),
    "busybox": Program(
        ALL,
        (("busybox", "gzip", "a"), ("busybox", "gunzip", "a.gz"), ("busybox", "sort", "-rn", "a")),
        b"2\n1\n",
        {"a": "1\n2\n"},
        ("busybox",),
    ),
    "busybox's shell": Program(
        PROCESSES,
        (("busybox", "sh", "-c", "seq 9 | sort -r | head -1; ps | wc -l > n; (sleep 0.01 & wait)"),),
        b"9\n",
        {},
        ("busybox",),
    ),
    "coreutils": Program(
        ALL,
        (("cp", "-a", "a", "b"), ("chmod", "640", "b"), ("mv", "b", "c"), ("ls", "-l", "/usr"),
         ("sort", "-o", "a", "c"), ("sha1sum", "c"), ("rm", "a"), ("cat", "c")),
        b"text",
        {"a": "text"},
    ),
    "git": Program(
        PROCESSES,
        shell(
            "export HOME=/tmp; git init -q a; cd a; git config user.name me;"
            "git config user.email me@here; echo one > f; git add f; git commit -qm one;"
            "git gc -q; git clone -q . ../b; cd ../b; echo two >> f; git diff --shortstat;"
            "git log --format=%s"
        ),
        b" 1 file changed, 1 insertion(+)\none\n",
        {},
        ("git",),
    ),
    "ss and MPTCP": Program(
        ("network",),
        (
            ("ss", "-Htln"),
            (PYTHON3, "-c", "import socket\ns = socket.socket(2, 1, 262)\ns.bind(('127.0.0.1', 0))\n"
             "s.listen()\nc = socket.socket(2, 1, 262)\nc.connect(s.getsockname())\n"
             "s.accept()[0].sendall(b'both')\nprint(c.recv(9))\n"),
        ),
        b"b'both'\n",
        {},
        ("ss",),
    ),
}  # fmt: skip
