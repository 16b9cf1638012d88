"""The real thing, tried: each attempt runs in a process of its own that is thrown away after.

An attempt returns a word on what it found (a version, or nothing), or raises :class:`AbsentError`
for what is not there and :class:`StuckError` for what failed, with the step that was refused.
"""

from __future__ import annotations

from jail.doctor.attempt import feature, mount, namespace, network, program
from jail.doctor.attempt.base import AbsentError, Attempt, Setting, StuckError

__all__ = ["ATTEMPTS", "AbsentError", "Attempt", "Setting", "StuckError"]

ATTEMPTS: dict[str, Attempt] = {
    "user namespace": namespace.try_user_namespace,
    "uid map": namespace.try_uid_map,
    "mount namespace": namespace.make_namespace_attempt("mnt"),
    "pid namespace": namespace.make_namespace_attempt("pid"),
    "net namespace": namespace.try_loopback,
    "ipc namespace": namespace.make_namespace_attempt("ipc"),
    "uts namespace": namespace.try_host_name,
    "cgroup namespace": namespace.make_namespace_attempt("cgroup"),
    "time namespace": namespace.make_namespace_attempt("time"),
    "all namespaces at once": namespace.try_everything,
    "tmpfs": mount.make_mount_attempt("tmpfs", {"size": "64k"}),
    "proc": mount.try_proc,
    "devpts": mount.make_mount_attempt("devpts", {"newinstance": None, "ptmxmode": "0666"}),
    "pivot_root": mount.try_pivot_root,
    "mqueue": mount.make_mount_attempt("mqueue", {}, "ipc"),
    "overlay": mount.try_overlay,
    "seccomp filter": feature.try_seccomp,
    "seccomp listener": feature.try_listener,
    "libseccomp": program.try_libseccomp,
    "landlock": feature.try_landlock,
    "session keyring": feature.try_keyring,
    "pidfd exit status": feature.try_pidfd_info,
    "newuidmap": program.make_id_attempt("newuidmap", "uid_map"),
    "newgidmap": program.make_id_attempt("newgidmap", "gid_map"),
    "/dev/net/tun": feature.make_device_attempt("/dev/net/tun"),
    **network.ATTEMPTS,
    "/dev/fuse": feature.make_device_attempt("/dev/fuse"),
    "fuse-overlayfs": program.make_version_attempt("fuse-overlayfs"),
    "bwrap": program.make_version_attempt("bwrap"),
    "cgroup v2": program.try_cgroup,
}
