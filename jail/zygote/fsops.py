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
from jail.kernel.file import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, openat2
from jail.launchplan import (
    Bind,
    BindScratch,
    Hide,
    LaunchPlan,
    MakeDir,
    MakeLink,
    Mount,
    Protect,
    Seal,
    Source,
    WriteFile,
)

Rung = Callable[[str], AbstractContextManager[None]]

STAGING: Final = ("/tmp", "/run", "/mnt", "/var")
NOSUID_NODEV: Final = mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NODEV
IN_ROOT: Final = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
UPPER: Final = "overlay-upper"
WORK: Final = "overlay-work"
ROOT_TMPFS: Final[dict[str, str | None]] = {"size": "1m", "nr_inodes": "1024", "mode": "0755"}


class Builder:
    """Holds what the steps share: the sources' fds, the scratch filesystem, the new root."""

    def __init__(self, plan: LaunchPlan) -> None:
        self._plan = plan
        self._sources: list[int] = []
        self._scratch = -1
        self._root = -1
        self._null = -1
        self._apply: dict[type, Callable[[Any], None]] = {
            MakeDir: self._make_dir,
            MakeLink: self._make_link,
            WriteFile: self._write_file,
            Bind: self._bind,
            BindScratch: self._bind_scratch,
            Mount: self._mount,
            Hide: self._hide,
            Protect: self._protect,
            Seal: self._seal,
        }

    def open_sources(self) -> None:
        """As the invoking user, in our own copy of the host's mounts."""
        self._sources = [open_source(each) for each in self._plan.sources]
        self._null = os.open("/dev/null", os.O_PATH | os.O_CLOEXEC)

    def build(self, rung: Rung) -> None:
        """The scratch filesystem, the root, then every step."""
        with rung("mount tmpfs"):
            self._mount_scratch()
        with rung("mount tmpfs" if self._plan.root.lower is None else "mount overlay"):
            self._mount_root()
        for step in self._plan.steps:
            with rung(name_step(step)):
                self._apply[type(step)](step)

    def enter(self) -> tuple[int, int]:
        """Pivot; the fds of /proc and of the scratch filesystem stay, all others are closed."""
        os.fchdir(self._root)
        mount.pivot_root_here()
        os.chdir("/")
        for fd in (*self._sources, self._null, self._root):
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
        mount.move_mount(self._scratch, find_staging())
        os.mkdir("root", 0o755, dir_fd=self._scratch)

    def _mount_root(self) -> None:
        lower = self._plan.root.lower
        if lower is None:
            root = mount.open_filesystem("tmpfs", ROOT_TMPFS, NOSUID_NODEV)
        else:
            root = self._open_overlay(self._sources[lower])
        target = os.open("root", os.O_PATH | os.O_CLOEXEC, dir_fd=self._scratch)
        mount.move_mount(root, target)
        os.close(target)
        self._root = root
        if lower is None:
            for name in self._plan.root.mount_points:
                make_dirs(root, name)

    def _open_overlay(self, lower: int) -> int:
        """Kernel overlay with its whiteouts in user.* xattrs; paths go by fd, so none needs escaping."""
        for name in (UPPER, WORK):
            os.mkdir(name, 0o755, dir_fd=self._scratch)
        upper = os.open(UPPER, os.O_PATH | os.O_CLOEXEC, dir_fd=self._scratch)
        for name in self._plan.root.mount_points:
            make_mount_point(lower, upper, name)
        os.close(upper)
        options: dict[str, str | None] = {
            "lowerdir": f"/proc/self/fd/{lower}",
            "upperdir": f"/proc/self/fd/{self._scratch}/{UPPER}",
            "workdir": f"/proc/self/fd/{self._scratch}/{WORK}",
            "userxattr": None,
        }
        return mount.open_filesystem("overlay", options, NOSUID_NODEV)

    def _make_dir(self, step: MakeDir) -> None:
        os.close(self._open_or_make(step.path, True))

    def _make_link(self, step: MakeLink) -> None:
        parent, name = self._open_parent(step.path)
        try:
            os.symlink(step.target, name, dir_fd=parent)
        finally:
            os.close(parent)

    def _write_file(self, step: WriteFile) -> None:
        parent, name = self._open_parent(step.path)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(name, flags, 0o644, dir_fd=parent)
        finally:
            os.close(parent)
        os.write(fd, step.data)
        os.close(fd)

    def _bind(self, step: Bind) -> None:
        source = self._sources[step.source]
        is_dir = stat.S_ISDIR(os.fstat(source).st_mode)
        tree = mount.open_tree(source)
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

    def _hide(self, step: Hide) -> None:
        target = openat2(self._root, step.path, os.O_PATH, IN_ROOT)
        if stat.S_ISDIR(os.fstat(target).st_mode):
            options: dict[str, str | None] = {"size": "0", "nr_inodes": "1", "mode": "0555"}
            read_only = NOSUID_NODEV | mount.MOUNT_ATTR_RDONLY
            tree = mount.open_filesystem("tmpfs", options, read_only)
        else:
            tree = mount.open_tree(self._null, recursive=False)
        mount.move_mount(tree, target)
        os.close(target)
        os.close(tree)

    def _protect(self, step: Protect) -> None:
        target = openat2(self._root, step.path, os.O_PATH, IN_ROOT)
        tree = mount.open_tree(target)
        mount.mount_setattr(tree, mount.MOUNT_ATTR_RDONLY)
        mount.move_mount(tree, target)
        os.close(target)
        os.close(tree)

    def _seal(self, step: Seal) -> None:
        fd = openat2(self._root, step.path or ".", os.O_PATH, IN_ROOT)
        mount.mount_setattr(fd, mount.MOUNT_ATTR_RDONLY, recursive=False)
        os.close(fd)

    def _attach(self, tree: int, path: str, is_dir: bool) -> None:
        target = self._open_or_make(path, is_dir)
        try:
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
                flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
                os.close(os.open(name, flags, 0o644, dir_fd=parent))
        finally:
            os.close(parent)
        return openat2(self._root, path, os.O_PATH, IN_ROOT)

    def _open_parent(self, path: str) -> tuple[int, str]:
        parent, _, name = path.rpartition("/")
        if not parent:
            return os.dup(self._root), name
        return self._open_or_make(parent, True), name


def open_source(source: Source) -> int:
    """O_PATH, no symbolic link on the way, and still the file that was checked."""
    fd = openat2(-100, source.path, os.O_PATH, RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS)
    found = os.fstat(fd)
    if (found.st_dev, found.st_ino) != (source.device, source.inode):
        raise OSError(errno.ESTALE, f"{source.path}: replaced since it was checked")
    return fd


def make_mount_point(lower: int, upper: int, name: str) -> None:
    """In the upper layer: over inodes of ids it doesn't map, the jail's root has no power.

    A link or a file of that name in the lower tree is refused rather than covered: whoever put
    it there meant mischief (CVE-2019-19921, CVE-2026-47766).
    """
    try:
        os.close(openat2(lower, name, os.O_PATH | os.O_DIRECTORY, RESOLVE_NO_SYMLINKS))
    except OSError as error:
        if error.errno == errno.ENOENT:
            make_dirs(upper, name)
            return
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise OSError(error.errno, f"the root filesystem's /{name} is no directory") from None
        raise


def make_dirs(dir_fd: int, path: str) -> None:
    """``mkdir -p`` below a tree that is still ours alone."""
    done = ""
    for part in path.split("/"):
        done = f"{done}/{part}" if done else part
        try:
            os.mkdir(done, 0o755, dir_fd=dir_fd)
        except FileExistsError:
            continue


def find_staging() -> int:
    """Any directory of the host to build under; the mount there is in our namespace only."""
    for path in STAGING:
        try:
            return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            continue
    raise OSError(errno.ENOENT, f"none of {', '.join(STAGING)} is there to build under")


def name_step(step: Any) -> str:
    """The word that the doctor knows the step by."""
    if isinstance(step, Mount):
        return f"mount {step.fstype}"
    if isinstance(step, Bind | BindScratch):
        return f"bind /{step.path}"
    return f"{type(step).__name__} /{step.path}"
