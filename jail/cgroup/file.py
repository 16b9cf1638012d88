"""A cgroup's directory and its files. Everything that changes the tree goes through here."""

from __future__ import annotations

import os
from pathlib import Path

from jail.place import find_cgroup, read_line, read_text


def read_value(folder: Path, name: str) -> str:
    """One line; ``""`` where there is no such file, or no such cgroup any more."""
    return read_line(folder / name)


def read_words(folder: Path, name: str) -> frozenset[str]:
    return frozenset(read_value(folder, name).split())


def read_limit(folder: Path, name: str) -> int | None:
    """None for ``max``, and where there is no such file: the root of the tree has none."""
    text = read_value(folder, name)
    return int(text) if text.isdecimal() else None


def read_pids(folder: Path) -> tuple[int, ...]:
    """Who sits in it, not below it; 0 is a process outside of our pid namespace."""
    lines = read_text(folder / "cgroup.procs").split()
    return tuple(int(line) for line in lines if line.isdecimal())


def read_seat(pid: int) -> tuple[Path, Path] | None:
    """Where the v2 tree is mounted, and the directory of the cgroup that a process sits in."""
    own = read_text(f"/proc/{pid}/cgroup")
    return find_cgroup(read_text("/proc/self/mountinfo"), own)


def write_value(folder: Path, name: str, text: str) -> None:
    """One write(2), as the kernel wants it; OSError is its answer."""
    fd = os.open(folder / name, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def make_directory(folder: Path) -> None:
    """A new cgroup; one that is there already is as good."""
    try:
        os.mkdir(folder, 0o755)
    except FileExistsError:
        if not folder.is_dir():
            raise


def remove_directory(folder: Path) -> None:
    """Its files go with it; OSError (EBUSY) while a process or another cgroup is in it."""
    os.rmdir(folder)


def list_directories(folder: Path) -> list[Path]:
    """The cgroups in this one; none where it has gone."""
    try:
        with os.scandir(folder) as entries:
            return [Path(each.path) for each in entries if each.is_dir(follow_symlinks=False)]
    except OSError:
        return []
