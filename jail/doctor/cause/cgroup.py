"""Why no cgroup is delegated to us, and who can do something about it."""

from __future__ import annotations

import errno as codes

from jail.doctor.cause.base import Cause, Failure, Rule
from jail.doctor.cause.package import install_lines
from jail.host import HostFacts

STEPS = ("cgroup", "cgroup bus", "cgroup scope", "cgroup controllers")
NEEDED = frozenset({"memory", "pids"})
HANDED_ON = "cpu cpuset io memory pids"


def controllers_on_v1(failure: Failure) -> Cause | None:
    facts = failure.facts
    if failure.step not in STEPS or "memory" in _offered(facts):
        return None
    if facts.systemd:
        return Cause(
            "cgroup-v1",
            "the controllers are not on a cgroup v2 tree",
            "This host still gives them to cgroup v1, which can't be delegated safely. Boot with "
            "the unified tree:",
            (
                "sudo sed -i 's/^GRUB_CMDLINE_LINUX=\"/&systemd.unified_cgroup_hierarchy=1 /' "
                "/etc/default/grub",
                "sudo update-grub || sudo grub2-mkconfig -o /boot/grub2/grub.cfg",
                "sudo reboot",
            ),
        )
    return Cause(
        "cgroup-v1",
        "the memory and pids controllers are not on a cgroup v2 tree",
        "There is no v2 tree here, or v1 trees hold its controllers. Add this to the kernel's "
        "command line, restart, and mount the v2 tree:",
        ("cgroup_no_v1=all", "sudo mount -t cgroup2 none /sys/fs/cgroup"),
    )


def cgroup_busy(failure: Failure) -> Cause | None:
    found = failure.facts.cgroup
    if failure.step != "cgroup" or failure.errno != codes.EBUSY or found is None:
        return None
    if not found.writable or found.user_service is not None:
        return None
    return Cause(
        "cgroup-busy",
        "the cgroup that is yours holds other processes",
        "Controllers can only be handed on by a cgroup without processes (cgroups(7), “no "
        "internal processes”). Move them into one below it, and name it to jail:",
        (
            f"mkdir {found.path}/others",
            f"for pid in $(cat {found.path}/cgroup.procs); do "
            f"echo $pid > {found.path}/others/cgroup.procs; done",
            f"jail run --cgroup-parent {found.path} -- true",
        ),
    )


def no_user_manager(failure: Failure) -> Cause | None:
    """It is started by a login that PAM tells systemd of, or at the boot for who lingers."""
    facts = failure.facts
    if failure.step not in STEPS or not facts.systemd or facts.uid == 0:
        return None
    if facts.cgroup is None or facts.cgroup.user_service is not None or facts.cgroup.delegated:
        return None
    return Cause(
        "no-user-manager",
        "no service manager of yours runs, which could hand out cgroups",
        "systemd starts one when you log in by other ways than su and sudo, or for good if it is "
        "told so once. It has effect at once, and after every boot:",
        (f"sudo loginctl enable-linger {facts.user or facts.uid}",),
    )


def controllers_missing(failure: Failure) -> Cause | None:
    facts, found = failure.facts, failure.facts.cgroup
    if failure.step not in STEPS or not facts.systemd or found is None or facts.uid == 0:
        return None
    handed = set(found.user_controllers)
    if found.user_service is None or handed >= NEEDED:
        return None
    return Cause(
        "controllers-not-delegated",
        "systemd hands your service manager too few controllers",
        f"A jail wants memory and pids; there is {' '.join(sorted(handed)) or 'none'}. Let "
        "systemd hand on all of them to every user's service manager, then log out and in again:",
        delegate_lines(),
    )


def no_bus(failure: Failure) -> Cause | None:
    if failure.step != "cgroup bus":
        return None
    facts = failure.facts
    manager = "systemctl" if facts.uid == 0 else "systemctl --user"
    return Cause(
        "no-bus",
        "there is no D-Bus to ask systemd by",
        "Your service manager could hand out a cgroup, but nothing listens where its bus would "
        "be. Install the bus and start it:",
        (*install_lines("dbus", facts.distro), f"{manager} start dbus.socket"),
    )


def scope_refused(failure: Failure) -> Cause | None:
    """Its own words are in what the step said."""
    facts = failure.facts
    if failure.step not in STEPS or not facts.systemd:
        return None
    return Cause(
        "no-scope",
        "systemd did not hand out a cgroup",
        "It was, or would be, asked for a scope with Delegate=yes. See whether it gives one to "
        "its own tool, and what it says; jail started in that scope uses it, too:",
        (
            f"{_run_in_scope(facts)} jail doctor",
            "journalctl -n 20" if facts.uid == 0 else "journalctl --user -n 20",
        ),
    )


def not_delegated(failure: Failure) -> Cause | None:
    """No systemd that could be asked: the administrator makes one by hand."""
    if failure.step not in STEPS:
        return None
    return Cause(
        "cgroup-not-delegated",
        "no cgroup is delegated to you",
        "Make one that is yours, with your shell in one below it, and name it to jail:",
        own_cgroup_lines(failure.facts),
    )


def _offered(facts: HostFacts) -> set[str]:
    """The controllers that are on the v2 tree at all, as far as we can see from our place."""
    found = facts.cgroup
    if found is None:
        return set()
    seen = {*found.controllers, *found.user_controllers}
    # Below a cgroup that enables nothing we see none, though the root has them all.
    return seen if seen or found.path == found.mount else {"memory"}


def _run_in_scope(facts: HostFacts) -> str:
    user = "" if facts.uid == 0 else " --user"
    return f"systemd-run{user} --scope -p Delegate=yes"


def delegate_lines() -> tuple[str, ...]:
    """A drop-in for every user's service manager: systemd.resource-control(5), Delegate=."""
    directory = "/etc/systemd/system/user@.service.d"
    return (
        f"sudo mkdir -p {directory}",
        f"printf '[Service]\\nDelegate={HANDED_ON}\\n' | sudo tee {directory}/delegate.conf",
        "sudo systemctl daemon-reload",
    )


def own_cgroup_lines(facts: HostFacts) -> tuple[str, ...]:
    """The shell is not in the parent itself, but below it: jail's processes come to sit beside it,
    and who moves them must have the right to write to what both places are below.
    """
    mount = facts.cgroup.mount if facts.cgroup else "/sys/fs/cgroup"
    owner = facts.user or facts.uid
    return (
        f"echo '+cpu +memory +pids' | sudo tee {mount}/cgroup.subtree_control",
        f"sudo mkdir -p {mount}/jail/shell",
        f"sudo chown {owner} {mount}/jail {mount}/jail/cgroup.procs "
        f"{mount}/jail/cgroup.subtree_control",
        f"echo $$ | sudo tee {mount}/jail/shell/cgroup.procs",
        "jail run --cgroup-parent /jail -- true",
    )


RULES: tuple[Rule, ...] = (
    controllers_on_v1,
    cgroup_busy,
    no_user_manager,
    controllers_missing,
    no_bus,
    scope_refused,
    not_delegated,
)
