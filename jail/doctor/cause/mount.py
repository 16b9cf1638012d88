"""Why a file system can't be mounted or a device not opened."""

from __future__ import annotations

import errno as codes

from jail.doctor.cause.base import Cause, Failure, Rule
from jail.doctor.cause.container import device_line, unmask_lines


def proc_covered(failure: Failure) -> Cause | None:
    """A new proc must not show what the mounts over the old one hide: mount_namespaces(7)."""
    facts = failure.facts
    if failure.step != "mount proc" or failure.errno != codes.EPERM or not facts.proc_covered:
        return None
    if facts.container:
        return Cause(
            "proc-masked",
            f"this container ({facts.container}) hides parts of /proc",
            "The kernel gives no fresh /proc to a namespace that can't see all of the old one. "
            "Start the container with /proc unmasked:",
            unmask_lines(facts.container),
        )
    return Cause(
        "proc-covered",
        f"something is mounted over {facts.proc_covered[0]}",
        "The kernel gives no fresh /proc to a namespace that can't see all of the old one. "
        "Take these mounts away:",
        tuple(f"sudo umount {path}" for path in facts.proc_covered),
    )


def filesystem_missing(failure: Failure) -> Cause | None:
    kind, _, name = failure.step.partition(" ")
    if kind != "mount" or failure.errno != codes.ENODEV:
        return None
    return Cause(
        f"no-{name}",
        f"this kernel has no {name} file system",
        "It was built without it, or as a module that is not loaded (a user can't load it):",
        (f"sudo modprobe {name}", f"echo {name} | sudo tee /etc/modules-load.d/{name}.conf"),
    )


def overlay_unfit(failure: Failure) -> Cause | None:
    if failure.step != "mount overlay" or failure.errno not in (codes.EINVAL, codes.EOPNOTSUPP):
        return None
    return Cause(
        "overlay-unfit",
        "the file system of the upper layer can't hold an overlay",
        "Layers must lie on a local file system with user extended attributes (ext4, xfs, btrfs, "
        "tmpfs), not on a network's or another overlay. See what it is, and "
        "point jail elsewhere:",
        (f"findmnt -T {failure.facts.cache_dir}", "export XDG_CACHE_HOME=/var/tmp/$USER"),
    )


def bind_refused(failure: Failure) -> Cause | None:
    kind, _, path = failure.step.partition(" ")
    if kind != "bind":
        return None
    if failure.errno in (codes.ENOENT, codes.ENOTDIR):
        return Cause(
            "bind-missing",
            f"{path} does not exist on the host",
            "Check the path that you gave as a volume or root:",
            (f"ls -ld {path}",),
        )
    if failure.errno != codes.EACCES or failure.facts.selinux:
        return None
    return Cause(
        "bind-unreadable",
        f"you may not reach {path} yourself",
        "A jail sees no more than the user who starts it. One of these directories keeps you out:",
        (f"namei -l {path}",),
    )


def pivot_on_ramfs(failure: Failure) -> Cause | None:
    """pivot_root(2): the initial ramfs can't be moved away."""
    if failure.step != "pivot_root" or failure.errno != codes.EINVAL:
        return None
    return Cause(
        "root-is-initramfs",
        "the host's root is the initial ramfs",
        "The kernel can't exchange that one. Start the system on a real root (switch_root), or "
        "jail below a root of its own:",
        ("findmnt /",),
    )


def device_missing(failure: Failure) -> Cause | None:
    device, facts = failure.step, failure.facts
    name = device.rpartition("/")[2]
    if not device.startswith("/dev/"):
        return None
    if failure.errno == codes.EACCES:
        return Cause(
            f"{name}-closed",
            f"you may not open {device}",
            "It gives nobody a right they lack, and udev lets everybody open it. Do the same:",
            (f"sudo chmod 0666 {device}",),
        )
    if facts.container:
        return Cause(
            f"{name}-not-in-container",
            f"this container has no {device}",
            "Start it with the device:",
            (device_line(facts.container, device),),
        )
    return Cause(
        f"{name}-missing",
        f"there is no {device}",
        "The module behind it is not loaded:",
        (f"sudo modprobe {name}", f"echo {name} | sudo tee /etc/modules-load.d/{name}.conf"),
    )


RULES: tuple[Rule, ...] = (
    proc_covered,
    filesystem_missing,
    overlay_unfit,
    bind_refused,
    pivot_on_ramfs,
    device_missing,
)
