"""The table: each program, and the policies under which it has to run as if there were none."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import Final

from tests.programs import script

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


def run(*commands: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(shlex.split(each)) for each in commands)


def python(policies: tuple[str, ...], text: str, output: bytes) -> Program:
    return Program(policies, run(f"{PYTHON3} main.py"), output, {"main.py": text})


def node(policies: tuple[str, ...], name: str, output: bytes) -> Program:
    return Program(policies, run(f"node /built/{name}"), output, parts=("node",))


def java(policies: tuple[str, ...], word: str, output: bytes) -> Program:
    argv = run(f"java -cp /built Main {word}")
    return Program(policies, argv, output, parts=("javac",), asks=JVM_ASKS)


def tool(policies: tuple[str, ...], output: bytes, *commands: str) -> Program:
    steps = run(*commands)
    return Program(policies, steps, output, {"a": "1\n2\n"}, parts=(steps[0][0],))


GIT: Final = """
git init -q one; cd one; git config user.name me; git config user.email me@here
echo one > file; git add file; git commit -qm one; git gc -q
git clone -q . ../two; cd ../two; echo two >> file; git diff --shortstat; git log --format=%s
"""
CREATE: Final = "pragma journal_mode=wal; create table t(x); insert into t values (5)"

PROGRAMS: Final[dict[str, Program]] = {
    "C": Program(ALL, run("/built/c"), b"140 written 1\n", parts=("gcc",)),
    "C, static": Program(ALL, run("/built/c-static"), b"140 written 1\n", parts=("gcc",)),
    "C++": Program(ALL, run("/built/cpp"), b"140 7\n", parts=("g++",)),
    "Rust": Program(ALL, run("/built/rust"), b"140 written\n", parts=("rustc",)),
    "Rust that talks": Program(NETWORKED, run("/built/rust x"), b"over lo\n", parts=("rustc",)),
    "Go": Program(ALL, run("/built/go"), b"140 written\n", parts=("go",)),
    "Go that talks": Program(NETWORKED, run("/built/go x"), b"over lo\n", parts=("go",)),
    "CPython": python(ALL, script.PYTHON, b"140 7 awake\n"),
    "CPython's processes": python(PROCESSES, script.PYTHON_PROCESSES, b"140 7 over a path run\n"),
    "CPython over HTTP": python(NETWORKED, script.PYTHON_HTTP, b"asked for /x\n"),
    "descriptors over a pair": python(("plugin", *PROCESSES), script.PYTHON_PAIR, b"here\n"),
    "numpy": python(ALL, script.NUMPY, b"0.0\n"),
    "node": node(ALL, "node.js", b"written 42\n"),
    "node's processes": node(PROCESSES, "node_processes.js", b"36 over a path run\n"),
    "node over HTTP": node(NETWORKED, "node_http.js", b"asked for /x\n"),
    "the JVM": java(ALL, "", b"true 140\n"),
    "the JVM's processes": java(PROCESSES, "process", b"from a process\n"),
    "the JVM that talks": java(NETWORKED, "talk", b"over lo\n"),
    "javac": Program(
        ALL,
        run("javac -d . /built/Main.java", "java Main"),
        b"true 140\n",
        parts=("javac",),
        asks=JVM_ASKS,
    ),
    "sqlite3": tool(
        ALL, b"5\n", f"sqlite3 a.db '{CREATE}'", "sqlite3 -readonly a.db 'select x from t'"
    ),
    "busybox": tool(ALL, b"2\n1\n", "busybox gzip a", "busybox gunzip a.gz", "busybox sort -rn a"),
    "busybox's shell": tool(
        PROCESSES,
        b"9\n",
        "busybox sh -c 'seq 9 | sort -r | head -1; ps | wc -l > n; (sleep 0.01 & wait)'",
    ),
    "coreutils": tool(
        ALL, b"1\n2\n", "cp -a a b", "chmod 640 b", "mv b c", "ls -l /usr", "sort -o a c", "cat c"
    ),
    "git": tool(
        PROCESSES, b" 1 file changed, 1 insertion(+)\none\n", "git --version", f"sh -euc '{GIT}'"
    ),
    "ss": tool(("network",), b"", "ss -Htln"),
    "MPTCP": python(("network",), script.MPTCP, b"over two ways\n"),
}
