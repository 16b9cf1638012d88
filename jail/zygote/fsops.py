"""The jail's filesystem, step by step as planned. Runs as the jail's builder, before the pivot.

Every path inside the new root is opened by ``openat2`` with RESOLVE_IN_ROOT: a root filesystem
is untrusted, and a symbolic link in it must lead nowhere but into itself.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final

from jail.kernel import mount
from jail.kernel.file import openat2
from jail.launchplan import (
    Bind,
    BindScratch,
    LaunchPlan,
    MakeDir,
    MakeLinks,
    Mount,
    MountDev,
    MountProc,
    Seal,
    WriteFiles,
)
from jail.zygote.way import (
    IN_ROOT,
    STRICTLY_IN_ROOT,
    RefusedError,
    find_staging,
    make_dirs,
    make_mount_point,
    make_way,
    open_mount_point,
    open_source,
    write_over,
)

Rung = Callable[[str], AbstractContextManager[None]]

NOSUID_NODEV: Final = mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NODEV
EMPTY: Final = "empty"
UPPER: Final = "overlay-upper"
WORK: Final = "overlay-work"
NOSUID: Final = mount.MOUNT_ATTR_NOSUID
NOEXEC_TOO: Final = NOSUID_NODEV | mount.MOUNT_ATTR_NOEXEC
READ_ONLY: Final = NOEXEC_TOO | mount.MOUNT_ATTR_RDONLY
NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
DEV_TMPFS: Final[dict[str, str | None]] = {"size": "64k", "nr_inodes": "64", "mode": "0755"}
DEVPTS: Final[dict[str, str | None]] = {
    "newinstance": None,
    "ptmxmode": "0666",
    "mode": "0620",
}
ROOT_TMPFS: Final[dict[str, str | None]] = {"size": "1m", "nr_inodes": "1024", "mode": "0755"}


class Builder:
    """Holds what the steps share: the sources' fds, the scratch filesystem, the new root."""

    def __init__(self, plan: LaunchPlan) -> None:
        self._plan = plan
        self._sources: list[int] = []
        self._trees: dict[int, int] = {}
        self._scratch = -1
        self._root = -1
        self._apply: dict[type, Callable[[Any], None]] = {
            MakeDir: self._make_dir,
            MakeLinks: self._make_links,
            WriteFiles: self._write_files,
            Bind: self._bind,
            BindScratch: self._bind_scratch,
            Mount: self._mount,
            MountDev: self._mount_dev,
            MountProc: self._mount_proc,
            Seal: self._seal,
        }

    def open_sources(self) -> None:
        """As the invoking user, in our own copy of the host's mounts."""
        self._sources = [open_source(each) for each in self._plan.sources]

    def build(self, rung: Rung) -> None:
        """The scratch filesystem, the root, then every step.

        The invoking user's umask is the program's, and not for what all ids inside must read.
        """
        umask = os.umask(0o022)
        self._copy_trees(rung)
        with rung("mount tmpfs"):
            self._mount_scratch()
        with rung("mount tmpfs" if self._plan.root.lower is None else "mount overlay"):
            self._mount_root()
        for step in self._plan.steps:
            with rung(name_step(step)):
                self._apply[type(step)](step)
        os.umask(umask)

    def _copy_trees(self, rung: Rung) -> None:
        """What is bound, before anything of ours is mounted: a copy of /tmp has what lies on it."""
        for step in self._plan.steps:
            if isinstance(step, Bind):
                with rung(name_step(step)):
                    self._trees[step.source] = mount.open_tree(self._sources[step.source])
        root = self._plan.root
        if root.lower is not None and not root.overlay:
            with rung("mount overlay"):
                self._trees[root.lower] = mount.open_tree(self._sources[root.lower])

    def enter(self) -> tuple[int, int]:
        """Pivot; the fds of /proc and of the scratch filesystem stay, all others are closed."""
        os.fchdir(self._root)
        mount.pivot_root_here()
        os.chdir("/")
        for fd in (*self._sources, self._root):
            os.close(fd)
        return os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), self._scratch

    def _mount_scratch(self) -> None:
        root = self._plan.root
        options: dict[str, str | None] = {
            "size": str(root.disk_bytes),
            "nr_inodes": str(root.inodes),
            "mode": "0700",
        }
        self._scratch = mount.open_filesystem("tmpfs", options, NOSUID_NODEV)
        staging = find_staging()
        mount.move_mount(self._scratch, staging)
        os.close(staging)
        os.mkdir("root", 0o755, dir_fd=self._scratch)
        os.mkdir(EMPTY, 0o555, dir_fd=self._scratch)

    def _mount_root(self) -> None:
        lower = self._plan.root.lower
        if lower is None:
            root = mount.open_filesystem("tmpfs", ROOT_TMPFS, NOSUID_NODEV)
        elif self._plan.root.overlay:
            root = self._open_overlay(self._sources[lower])
        else:
            root = self._open_bind(self._sources[lower], self._trees[lower])
        target = os.open("root", os.O_PATH | os.O_CLOEXEC, dir_fd=self._scratch)
        mount.move_mount(root, target)
        os.close(target)
        self._root = root
        if lower is None:
            for name in self._plan.root.mount_points:
                make_dirs(root, name)

    def _open_bind(self, lower: int, root: int) -> int:
        """The tree itself, read-only; it has all the mount points."""
        for name in self._plan.root.mount_points:
            os.close(open_mount_point(lower, name))
        mount.mount_setattr(root, NOSUID_NODEV | mount.MOUNT_ATTR_RDONLY)
        return root

    def _open_overlay(self, lower: int) -> int:
        """Kernel overlay, its whiteouts in user.* xattrs; paths go by fd: none needs escaping."""
        for name in (UPPER, WORK):
            os.mkdir(name, 0o755, dir_fd=self._scratch)
        upper = os.open(UPPER, os.O_PATH | os.O_CLOEXEC, dir_fd=self._scratch)
        for name in self._plan.root.mount_points:
            make_mount_point(lower, upper, name)
        for step in self._plan.steps:
            if isinstance(step, Bind | Mount):
                make_way(lower, upper, step.path)
        for path, data in self._plan.root.files:
            write_over(lower, upper, path, data)
        os.close(upper)
        options: dict[str, str | None] = {
            "lowerdir": f"/proc/self/fd/{lower}",
            "upperdir": f"/proc/self/fd/{self._scratch}/{UPPER}",
            "workdir": f"/proc/self/fd/{self._scratch}/{WORK}",
            "userxattr": None,
        }
        try:
            return mount.open_filesystem("overlay", options, NOSUID_NODEV)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # A layer is one mount: whatever covers a part of it can't be left out.
            source = self._plan.sources[self._plan.root.lower or 0].path
            hint = f"{error.strerror} (is something mounted below {source}?)"
            raise OSError(errno.EINVAL, hint) from None

    def _make_dir(self, step: MakeDir) -> None:
        os.close(self._open_or_make(step.path, True))

    def _make_links(self, step: MakeLinks) -> None:
        for path, target in step.links:
            parent, name = self._open_parent(path)
            try:
                os.symlink(target, name, dir_fd=parent)
            finally:
                os.close(parent)

    def _write_files(self, step: WriteFiles) -> None:
        for path, data in step.files:
            parent, name = self._open_parent(path)
            try:
                fd = os.open(name, NEW_FILE, 0o644, dir_fd=parent)
            finally:
                os.close(parent)
            os.write(fd, data)
            os.close(fd)

    def _bind(self, step: Bind) -> None:
        tree = self._trees[step.source]
        is_dir = stat.S_ISDIR(os.fstat(tree).st_mode)
        mount.mount_setattr(tree, step.attr)
        self._attach(tree, step.path, is_dir)

    def _bind_scratch(self, step: BindScratch) -> None:
        os.mkdir(step.name, 0o700, dir_fd=self._scratch)
        fd = os.open(step.name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._scratch)
        os.fchown(fd, *self._plan.program)
        os.fchmod(fd, step.mode)
        attr = NOSUID_NODEV | (mount.MOUNT_ATTR_NOEXEC if step.name == "shm" else 0)
        tree = mount.open_tree(fd, recursive=False)
        mount.mount_setattr(tree, attr, recursive=False)
        os.close(fd)
        self._attach(tree, step.path, True)

    def _mount(self, step: Mount) -> None:
        tree = mount.open_filesystem(step.fstype, step.options, step.attr)
        self._attach(tree, step.path, True)

    def _mount_dev(self, step: MountDev) -> None:
        """Ours and new, so names in it need no resolving; read-only once it is complete."""
        dev = mount.open_filesystem("tmpfs", DEV_TMPFS, NOEXEC_TOO)
        self._attach_keep(dev, "dev")
        for name in ("pts", "shm"):
            os.mkdir(name, 0o755, dir_fd=dev)
        for name, target in step.links:
            os.symlink(target, name, dir_fd=dev)
        for name in step.devices:
            os.mknod(name, 0o644, dir_fd=dev)
            attach_copy(mount.AT_FDCWD, f"/dev/{name}", dev, name)
        pts = mount.open_filesystem("devpts", DEVPTS, mount.MOUNT_ATTR_NOEXEC | NOSUID)
        mount.move_mount(pts, dev, "pts")
        os.close(pts)
        if step.queues:
            queues = mount.open_filesystem("mqueue", {}, NOEXEC_TOO)
            os.mkdir("mqueue", 0o755, dir_fd=dev)
            mount.move_mount(queues, dev, "mqueue")
            os.close(queues)
        mount.mount_setattr(dev, mount.MOUNT_ATTR_RDONLY, recursive=False)
        os.close(dev)

    def _mount_proc(self, step: MountProc) -> None:
        proc = mount.open_filesystem("proc", {}, NOEXEC_TOO)
        self._attach_keep(proc, "proc")
        for name in step.hidden:
            if is_dir(proc, name):
                attach_copy(self._scratch, EMPTY, proc, name, READ_ONLY)
            else:
                attach_copy(mount.AT_FDCWD, "/dev/null", proc, name)
        for name in step.protected:
            attach_copy(proc, name, proc, name, mount.MOUNT_ATTR_RDONLY)
        os.close(proc)

    def _seal(self, step: Seal) -> None:
        fd = openat2(self._root, step.path or ".", os.O_PATH, IN_ROOT)
        mount.mount_setattr(fd, mount.MOUNT_ATTR_RDONLY, recursive=False)
        os.close(fd)

    def _attach_keep(self, tree: int, path: str) -> None:
        """Attach, and keep the fd: it is the directory of the new mount from now on."""
        target = openat2(self._root, path, os.O_PATH | os.O_DIRECTORY, STRICTLY_IN_ROOT)
        mount.move_mount(tree, target)
        os.close(target)

    def _attach(self, tree: int, path: str, is_dir: bool) -> None:
        target = self._open_or_make(path, is_dir)
        try:
            if stat.S_ISDIR(os.fstat(target).st_mode) != is_dir:
                ours, theirs = ("directory", "file") if is_dir else ("file", "directory")
                raise RefusedError(
                    errno.ENOTDIR, f"/{path} is a {theirs} in the jail, not a {ours}"
                )
            mount.move_mount(tree, target)
        finally:
            os.close(target)
            os.close(tree)

    def _open_or_make(self, path: str, is_dir: bool) -> int:
        try:
            return openat2(self._root, path, os.O_PATH, IN_ROOT)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
        parent, name = self._open_parent(path)
        try:
            if is_dir:
                os.mkdir(name, 0o755, dir_fd=parent)
            else:
                os.close(os.open(name, NEW_FILE, 0o644, dir_fd=parent))
        except OSError as error:
            if error.errno not in (errno.EROFS, errno.ENOTDIR, errno.EACCES):
                raise
            text = f"/{path} is not in the jail and can't be made there: {error.strerror}"
            raise RefusedError(error.errno, text) from None
        finally:
            os.close(parent)
        return openat2(self._root, path, os.O_PATH, IN_ROOT)

    def _open_parent(self, path: str) -> tuple[int, str]:
        parent, _, name = path.rpartition("/")
        if not parent:
            return os.dup(self._root), name
        return self._open_or_make(parent, True), name


def attach_copy(from_fd: int, source: str, to_fd: int, target: str, attr: int = 0) -> None:
    """Bind one path onto another, both of trees that nobody hostile has written to."""
    tree = mount.open_tree(from_fd, source)
    if attr:
        mount.mount_setattr(tree, attr)
    mount.move_mount(tree, to_fd, target)
    os.close(tree)


def is_dir(dir_fd: int, name: str) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=dir_fd).st_mode)


def name_step(step: Any) -> str:
    """The word that the doctor knows the step by."""
    if isinstance(step, Mount):
        return f"mount {step.fstype}"
    if isinstance(step, MountProc):
        return "mount proc"
    if isinstance(step, MountDev):
        return "mount dev"
    if isinstance(step, Bind | BindScratch):
        return f"bind /{step.path}"
    return type(step).__name__
