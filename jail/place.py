"""Where on the host we are: our cgroup, our directories, the signs of a container.

Reads only, but for :func:`open_runtime_dir`, which makes one directory.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from jail.errors import HostError

_CONTAINER_IN_CGROUP = (
    ("kubepods", "kubernetes"),
    ("docker", "docker"),
    ("libpod", "podman"),
    ("lxc", "lxc"),
    ("containerd", "containerd"),
)
SYSTEM_BUS = "/run/dbus/system_bus_socket"
_OCTAL = re.compile(r"\\([0-7]{3})", re.ASCII)


@dataclass(frozen=True)
class CgroupFacts:
    """Our own place in the cgroup v2 tree, and the user manager's.

    ``path`` is the directory of the cgroup this process is in, ``controllers`` what may be
    enabled below it, ``enabled`` what is. ``writable`` says that we may make cgroups in it and
    move processes there. ``user_service`` is systemd's ``user@UID.service`` if it is delegated to
    us: below it ``systemd-run --user --scope`` makes cgroups that we may write.
    ``tree_controllers`` are those of the whole tree, as far up as it is mounted.
    """

    mount: Path
    path: Path
    controllers: tuple[str, ...] = ()
    enabled: tuple[str, ...] = ()
    writable: bool = False
    user_service: Path | None = None
    user_controllers: tuple[str, ...] = ()
    tree_controllers: tuple[str, ...] = ()

    @property
    def delegated(self) -> bool:
        """Memory and process counts of a jail can be limited and read below ``path``."""
        return self.writable and {"memory", "pids"} <= set(self.controllers)


def read_cgroup(uid: int, mountinfo: str) -> CgroupFacts | None:
    """Our cgroup v2, by the files of /proc and access(2); None where none is mounted."""
    found = find_cgroup(mountinfo, read_text("/proc/self/cgroup"))
    if found is None or not found[1].is_dir():
        return None
    mount, path = found
    service = mount / f"user.slice/user-{uid}.slice/user@{uid}.service"
    delegated = uid != 0 and may_delegate(service)
    return CgroupFacts(
        mount=mount,
        path=path,
        controllers=tuple(read_line(path / "cgroup.controllers").split()),
        enabled=tuple(read_line(path / "cgroup.subtree_control").split()),
        writable=may_delegate(path),
        user_service=service if delegated else None,
        user_controllers=tuple(read_line(service / "cgroup.controllers").split()),
        tree_controllers=tuple(read_line(mount / "cgroup.controllers").split()),
    )


def find_cgroup(mountinfo: str, cgroup: str) -> tuple[Path, Path] | None:
    """Mount point of the v2 tree and our directory in it, from two files of /proc.

    None without a v2 tree, or where the mount shows another part of the tree than the one we
    are in (a container that sees its host's cgroup names).
    """
    own = next((line[3:] for line in cgroup.split("\n") if line.startswith("0::/")), None)
    if own is None:
        return None
    for line in mountinfo.split("\n"):
        words = line.split(" ")
        if "-" not in words or words[words.index("-") + 1] != "cgroup2":
            continue
        root, mount = unescape_mount(words[3]), Path(unescape_mount(words[4]))
        inside = own if root == "/" else own.removeprefix(root)
        if (root in ("/", own) or own.startswith(root + "/")) and ".." not in own:
            return mount, mount / inside.strip("/")
    return None


def read_buses(uid: int) -> tuple[str, ...]:
    """The sockets by which the systemd that serves us can be asked, the first one first.

    A session may have a bus of its own without systemd on it: the user's is behind it.
    """
    if uid == 0:
        addresses = [f"unix:path={SYSTEM_BUS}"]
    else:
        session_dir = os.environ.get("XDG_RUNTIME_DIR", "") or f"/run/user/{uid}"
        named = os.environ.get("DBUS_SESSION_BUS_ADDRESS", "")
        addresses = [
            named, f"unix:path={session_dir}/bus", f"unix:path=/run/user/{uid}/bus"
        ]  # fmt: skip
    found = [each for address in addresses for each in parse_bus_address(address)]
    return tuple(dict.fromkeys(each for each in found if is_abstract(each) or os.path.exists(each)))


def parse_bus_address(text: str) -> list[str]:
    """The sockets of a D-Bus address; an abstract one begins with a NUL. None of another kind."""
    sockets = []
    for each in text.split(";"):
        kind, _, rest = each.partition(":")
        values = dict(pair.partition("=")[::2] for pair in rest.split(","))
        path, name = (unquote(values.get(key, "")) for key in ("path", "abstract"))
        if kind == "unix" and "\0" not in path + name and (name or path.startswith("/")):
            sockets.append(f"\0{name}" if name else path)
    return sockets


def is_abstract(socket: str) -> bool:
    return socket.startswith("\0")


def find_proc_covers(mountinfo: str) -> tuple[str, ...]:
    """Mounts that hide a part of /proc: with one of them the kernel lets no new proc be mounted.

    A mount on an empty directory hides nothing; binfmt_misc is the one every host has.
    """
    points = (line.split(" ")[4] for line in mountinfo.split("\n") if line.count(" ") > 4)
    covers = {unescape_mount(point) for point in points if point.startswith("/proc/")}
    return tuple(sorted(covers - {"/proc/sys/fs/binfmt_misc"}))


def unescape_mount(text: str) -> str:
    """A path of mountinfo as it is: blanks, tabs, newlines and backslashes come as ``\\040``."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)


def find_container(exists: Iterable[str], cgroup: str, environment: Mapping[str, str]) -> str:
    """The kind of container that these signs tell of, ``""`` for none.

    ``exists`` are those of the tell-tale files that exist, ``cgroup`` the text of
    /proc/self/cgroup.
    """
    if "KUBERNETES_SERVICE_HOST" in environment:
        return "kubernetes"
    for sign, kind in _CONTAINER_IN_CGROUP:
        if sign in cgroup:
            return kind
    for path, kind in (("/run/.containerenv", "podman"), ("/.dockerenv", "docker")):
        if path in exists:
            return kind
    return environment.get("container", "")


def read_container() -> str:
    signs = [path for path in ("/run/.containerenv", "/.dockerenv") if os.path.exists(path)]
    manager = read_line("/run/systemd/container")  # PID 1's word for it, readable by everyone
    environment = {"container": manager, **os.environ} if manager else os.environ
    return find_container(signs, read_text("/proc/self/cgroup"), environment)


def find_helpers(names: Iterable[str], directories: Sequence[str]) -> dict[str, str]:
    """The first executable regular file of each name in the directories."""
    found = {}
    for name in names:
        for directory in directories:
            path = os.path.join(directory, name)
            if os.path.isfile(path) and os.access(path, os.X_OK):
                found[name] = path
                break
    return found


def read_helper_flaws(helpers: Mapping[str, str]) -> dict[str, str]:
    """Why newuidmap and newgidmap can't have root's rights: ``"nosuid"`` or ``"unprivileged"``.

    The first means that their file system is mounted nosuid, the second that they are neither
    set-user-ID root nor have file capabilities.
    """
    flaws = {}
    for name in ("newuidmap", "newgidmap"):
        path = helpers.get(name)
        if path and os.statvfs(path).f_flag & os.ST_NOSUID:
            flaws[name] = "nosuid"
        elif path and not _is_privileged(path):
            flaws[name] = "unprivileged"
    return flaws


def parse_distro(text: str) -> tuple[str, ...]:
    """``ID`` and then ``ID_LIKE`` of os-release(5), in lower case."""
    words: dict[str, str] = {}
    for line in text.split("\n"):
        key, _, value = line.partition("=")
        words[key] = value.strip("\"' ").lower()
    return tuple(f"{words.get('ID', '')} {words.get('ID_LIKE', '')}".split())


def read_sysctls(names: Iterable[str]) -> dict[str, int]:
    """The values of those sysctls that this kernel has."""
    lines = {name: read_line(f"/proc/sys/{name.replace('.', '/')}") for name in names}
    return {name: int(line) for name, line in lines.items() if re.fullmatch(r"-?[0-9]+", line)}


def decide_runtime_dir(uid: int, session_dir: str, session_dir_is_private: bool) -> Path:
    """``$XDG_RUNTIME_DIR/jail`` if that directory is the user's alone, else ``/tmp/jail-UID``."""
    private = session_dir.startswith("/") and session_dir_is_private
    return Path(session_dir) / "jail" if private else Path(f"/tmp/jail-{uid}")


def read_runtime_dir(uid: int) -> Path:
    session_dir = os.environ.get("XDG_RUNTIME_DIR", "")
    return decide_runtime_dir(uid, session_dir, _is_private(session_dir, uid))


def read_cache_dir(uid: int, home: str) -> Path:
    """``$XDG_CACHE_HOME/jail``, ``~/.cache/jail``, or a part of ``/tmp/jail-UID``."""
    asked = os.environ.get("XDG_CACHE_HOME", "")
    home = os.environ.get("HOME", "") or home
    if asked.startswith("/"):
        return Path(asked) / "jail"
    if home.startswith("/") and home != "/nonexistent":
        return Path(home) / ".cache" / "jail"
    return Path(f"/tmp/jail-{uid}/cache")


def open_runtime_dir(path: Path, uid: int) -> Path:
    """Makes the directory for sockets and state (mode 0700) and checks that it is ours alone.

    Raises :class:`HostError` where it can't be made, or where somebody else's directory or a
    symbolic link has its place.
    """
    try:
        fresh = _make_private_dir(path)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(
            f"{path}: no private directory can be there: {error.strerror}",
            step="runtime dir",
            errno=error.errno,
            remedy=f"Remove what is at {path}, or set XDG_RUNTIME_DIR to a directory of your own.",
        ) from None
    try:
        if fresh:
            os.fchmod(fd, 0o700)  # whatever the umask took away
        _check_private(path, os.fstat(fd), uid)
    finally:
        os.close(fd)
    return path


def read_line(path: str | Path) -> str:
    """The first line of a small file without blanks or NULs at its ends, ``""`` if unreadable."""
    return read_text(path).split("\n", 1)[0].strip("\0 \t")


def read_text(path: str | Path) -> str:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.readall().decode("utf-8", "surrogateescape")
    except OSError:
        return ""


def may_delegate(cgroup: Path) -> bool:
    """Delegation is the right to write these three (cgroups(7), "Cgroup delegation")."""
    files = (cgroup, cgroup / "cgroup.procs", cgroup / "cgroup.subtree_control")
    return all(os.access(path, os.W_OK, effective_ids=True) for path in files)


def _is_privileged(path: str) -> bool:
    found = os.stat(path)
    if found.st_mode & stat.S_ISUID and found.st_uid == 0:
        return True
    try:
        return bool(os.getxattr(path, "security.capability"))
    except OSError:
        return False


def _is_private(directory: str, uid: int) -> bool:
    try:
        found = os.lstat(directory)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == uid and not found.st_mode & 0o077


def _make_private_dir(path: Path) -> bool:
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        return False
    return True


def _check_private(path: Path, found: os.stat_result, uid: int) -> None:
    if found.st_uid != uid:
        raise HostError(
            f"{path} belongs to uid {found.st_uid}, not to you ({uid})",
            step="runtime dir",
            remedy="Set XDG_RUNTIME_DIR to a directory of your own with mode 0700.",
        )
    if found.st_mode & 0o077:
        raise HostError(
            f"{path} is open to others (mode {stat.S_IMODE(found.st_mode):04o})",
            step="runtime dir",
            remedy=f"rm -r {path}",
        )
