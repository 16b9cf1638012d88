"""A plain directory that answers like a cgroup v2 tree: for hosts that have none to give.

What changes a tree goes through ``jail.cgroup.file``; here its functions keep the kernel's rules
(cgroups(7)): one cgroup for a process, no processes beside controllers, no removal of the busy.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

from jail.cgroup import file
from jail.host import CgroupFacts, HostFacts, make_facts

ALL: Final = "cpuset cpu io memory hugetlb pids"


class CgroupTree:
    """The tree, mounted at ``mount``. Made by the fixture ``cgroups``."""

    def __init__(self, mount: Path, controllers: str = ALL) -> None:
        self.mount = mount
        mount.mkdir()
        self._fill(mount, controllers, "")
        (mount / "cgroup.type").unlink()
        self.refusals: dict[tuple[str, str], int] = {}
        """(file, text) to the errno that a write of it is answered with"""

        self._dying: dict[Path, int] = {}

    def hold(self, folder: Path, kills: int) -> None:
        """Who is in it takes so many looks to die."""
        self._dying[folder] = kills

    def patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("write_value", "make_directory", "remove_directory", "read_seat"):
            monkeypatch.setattr(file, name, getattr(self, name))

    def add(self, path: str, *, procs: tuple[int, ...] = (), **values: str) -> Path:
        """A cgroup whose parents hand on all that they have; ``values`` are its files."""
        folder = self.mount / path
        if folder.parent != self.mount and not folder.parent.is_dir():
            self.add(str(folder.parent.relative_to(self.mount)))
        if folder.parent != self.mount or folder.parent.is_dir():
            controllers = (folder.parent / "cgroup.controllers").read_text()
            (folder.parent / "cgroup.subtree_control").write_text(controllers)
        self.make_directory(folder)
        for name, text in values.items():
            self.put(folder, name.replace("__", "."), text)
        for pid in procs:
            self._put(folder, pid)
        return folder

    def put(self, folder: Path, name: str, text: str) -> None:
        (folder / name).write_text(f"{text}\n")

    def facts(self, folder: Path, **changes: object) -> HostFacts:
        """A host on which this process sits in ``folder``."""
        self._put(folder, os.getpid())
        own = CgroupFacts(
            mount=self.mount,
            path=folder,
            controllers=tuple((folder / "cgroup.controllers").read_text().split()),
            writable=os.access(folder, os.W_OK),
        )
        return make_facts(**{"uid": os.getuid(), "systemd": False, "cgroup": own, **changes})

    def names(self, folder: Path) -> set[str]:
        return {each.name for each in folder.iterdir() if each.is_dir()}

    def enabled(self, folder: Path) -> set[str]:
        return set((folder / "cgroup.subtree_control").read_text().split())

    # What the kernel does, by the names of jail.cgroup.file.

    def write_value(self, folder: Path, name: str, text: str) -> None:
        if not (folder / name).exists():
            raise FileNotFoundError(errno.ENOENT, name)
        refusal = self.refusals.get((name, text), 0)
        if refusal:
            raise OSError(refusal, os.strerror(refusal))
        if name == "cgroup.procs":
            self._move(folder, int(text))
        elif name == "cgroup.subtree_control":
            self._switch(folder, text)
        elif name == "cgroup.kill":
            self._kill(folder)
        else:
            self.put(folder, name, text)

    def make_directory(self, folder: Path) -> None:
        if folder.is_dir():
            return
        folder.mkdir()
        handed = " ".join(sorted(self.enabled(folder.parent)))
        self._fill(folder, handed, "domain")

    def remove_directory(self, folder: Path) -> None:
        if not folder.is_dir():
            raise FileNotFoundError(errno.ENOENT, str(folder))
        self._dying[folder] = self._dying.get(folder, 0) - 1
        if self.names(folder) or file.read_pids(folder) or self._dying[folder] > 0:
            raise OSError(errno.EBUSY, str(folder))
        shutil.rmtree(folder)

    def read_seat(self, pid: int) -> tuple[Path, Path] | None:
        for path, _, _ in os.walk(self.mount):
            if pid in file.read_pids(Path(path)):
                return self.mount, Path(path)
        return None

    def _fill(self, folder: Path, controllers: str, kind: str) -> None:
        values = {
            "cgroup.type": kind,
            "cgroup.controllers": controllers,
            "cgroup.subtree_control": "",
            "cgroup.procs": "",
            "cgroup.kill": "",
            "cgroup.max.depth": "max",
            "cgroup.max.descendants": "max",
            "cgroup.stat": "nr_descendants 0\nnr_dying_descendants 0",
        }
        for name, text in values.items():
            self.put(folder, name, text)

    def _move(self, folder: Path, pid: int) -> None:
        if self.enabled(folder) and folder != self.mount:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        self._put(folder, pid)

    def _put(self, folder: Path, pid: int) -> None:
        seat = self.read_seat(pid)
        if seat is not None:
            self._set_pids(seat[1], {*file.read_pids(seat[1])} - {pid})
        self._set_pids(folder, {*file.read_pids(folder), pid})

    def _set_pids(self, folder: Path, pids: set[int]) -> None:
        (folder / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in sorted(pids)))

    def _switch(self, folder: Path, text: str) -> None:
        sign, name = text[0], text[1:]
        if name not in (folder / "cgroup.controllers").read_text().split():
            raise OSError(errno.ENOENT, name)
        if sign == "+" and file.read_pids(folder) and folder != self.mount:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        now = self.enabled(folder) | {name} if sign == "+" else self.enabled(folder) - {name}
        self.put(folder, "cgroup.subtree_control", " ".join(sorted(now)))
        for each in self.names(folder):
            self.put(folder / each, "cgroup.controllers", " ".join(sorted(now)))

    def _kill(self, folder: Path) -> None:
        for path, _, _ in os.walk(folder):
            for pid in file.read_pids(Path(path)):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._set_pids(Path(path), set())


@pytest.fixture
def cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CgroupTree:
    """For a module to import."""
    tree = CgroupTree(tmp_path / "cgroup")
    tree.patch(monkeypatch)
    return tree
