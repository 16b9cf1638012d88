"""Why the kernel makes no namespace, or gives no rights in it."""

from __future__ import annotations

import errno as codes

from jail.doctor.cause.base import Cause, Failure, Rule, set_sysctl
from jail.doctor.cause.container import nesting_lines
from jail.host import HostFacts

NEEDED_KERNEL = (5, 14)
USUAL_LIMIT = 15_000  # namespaces of one kind a user may have: what RHEL's own guides set
PROFILE = "jail-python"
_KINDS = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time")
_GLOB = str.maketrans({char: f"\\{char}" for char in '"\\*?[]{}'})


def too_old(failure: Failure) -> Cause | None:
    facts = failure.facts
    unknown = failure.errno in (codes.ENOSYS, codes.EINVAL, codes.ENODEV)
    # Before 5.11 a user namespace's root might not mount an overlay: EPERM.
    unknown = unknown or (failure.is_mount and failure.errno == codes.EPERM)
    fits = failure.step == "kernel" or (failure.needs_capability and unknown)
    if not fits or facts.kernel[:2] >= NEEDED_KERNEL:
        return None
    major, minor = NEEDED_KERNEL
    return Cause(
        "old-kernel",
        f"Linux {facts.kernel_release} is too old",
        f"A jail needs Linux {major}.{minor} or later (the mount API by file descriptor, overlays "
        "in user namespaces, cgroup.kill). Install a newer kernel of your distribution and "
        "start it:",
        ("sudo reboot",),
    )


def limit_reached(failure: Failure) -> Cause | None:
    """ENOSPC since Linux 4.9, EUSERS before: user_namespaces(7)."""
    if not failure.makes_namespace or failure.errno not in (codes.ENOSPC, codes.EUSERS):
        return None
    limits = failure.facts.sysctls
    asked = failure.step.removeprefix("unshare").strip()
    kinds = [asked] if asked in _KINDS else list(_KINDS)
    names = [f"user.max_{kind}_namespaces" for kind in kinds]
    known = [name for name in names if name in limits]
    if not known:
        return None
    name = min(known, key=lambda each: limits[each])
    return _limit_cause(name, limits[name])


def _limit_cause(name: str, limit: int) -> Cause:
    if limit == 0:
        return Cause(
            f"{name}-zero",
            f"{name} is 0",
            f"The administrator allows no namespace of this kind ({name} = 0). Allow them:",
            set_sysctl(name, USUAL_LIMIT),
        )
    return Cause(
        f"{name}-reached",
        "as many namespaces as you may have exist already",
        f"Your limit is {limit} ({name}), unless an outer container's is lower. End what holds "
        "them (lsns shows it), or raise the limit:",
        ("lsns", *set_sysctl(name, max(USUAL_LIMIT, 2 * limit))),
    )


def switched_off(failure: Failure) -> Cause | None:
    """Debian's own switch, off by default up to Debian 10."""
    name = "kernel.unprivileged_userns_clone"
    if not (failure.makes_namespace and failure.is_refusal):
        return None
    if failure.facts.sysctls.get(name) != 0:
        return None
    return Cause(
        "userns-switched-off",
        f"{name} is 0",
        "Only root may make user namespaces on this host. Allow it to everybody:",
        set_sysctl(name, 1),
    )


def apparmor_restricts(failure: Failure) -> Cause | None:
    """Ubuntu 23.10 and later: the namespace is made, its capabilities are not worth anything."""
    facts, name = failure.facts, "kernel.apparmor_restrict_unprivileged_userns"
    if not (failure.needs_capability and failure.is_refusal) or facts.uid == 0:
        return None
    if facts.sysctls.get(name) != 1 or facts.lsm_label.endswith("(enforce)"):
        return None
    return Cause(
        "apparmor-userns",
        f"AppArmor takes the rights out of user namespaces ({name} = 1)",
        "The namespace itself is made, but without any capability in it, so what comes next is "
        f"refused. Give {facts.python} a profile that may use them (every Python program run by "
        "that file may then; a copy of it, in a virtual environment made with --copies, keeps "
        "the right to that environment):",
        apparmor_lines(facts),
    )


def apparmor_lines(facts: HostFacts) -> tuple[str, ...]:
    """Lines that write and load the profile for our interpreter."""
    return (
        f"sudo tee /etc/apparmor.d/{PROFILE} >/dev/null <<'END'",
        *apparmor_profile(facts.python),
        "END",
        f"sudo apparmor_parser -r /etc/apparmor.d/{PROFILE}",
    )


def apparmor_profile(interpreter: str) -> tuple[str, ...]:
    """A profile that forbids nothing and names the interpreter, so that ``userns`` is its own."""
    return (
        "abi <abi/4.0>,",
        "include <tunables/global>",
        "",
        f"profile {PROFILE} {_quote_path(interpreter)} flags=(unconfined) {{",
        "  userns,",
        "}",
    )


def apparmor_confines(failure: Failure) -> Cause | None:
    label = failure.facts.lsm_label
    refused = failure.needs_capability and failure.is_refusal
    if not refused or failure.facts.container or not label.endswith("(enforce)"):
        return None
    profile = label.removesuffix(" (enforce)")
    return Cause(
        "apparmor-profile",
        f"the AppArmor profile {profile} confines this process",
        "The profile does not allow user namespaces or mounts. Start jail from a process outside "
        "it, or add the rules “userns,” and “mount,” and “capability,” to the profile:",
        ("grep -rl " + _quote(profile) + " /etc/apparmor.d",),
    )


def container_refuses(failure: Failure) -> Cause | None:
    """Docker's default filter answers EPERM to unshare and mount, ENOSYS to clone3."""
    facts = failure.facts
    refused = failure.is_refusal or failure.errno == codes.ENOSYS
    if not (failure.needs_capability or failure.step == "keyring") or not refused:
        return None
    if not facts.container or not (facts.filtered or facts.lsm_label.endswith("(enforce)")):
        return None
    return Cause(
        "container-filter",
        f"this container ({facts.container}) may not make namespaces or mounts",
        "The engine's default seccomp filter and security module refuse them to everything in "
        "the container. Start the container with them lifted (the jail brings its own, "
        "stricter ones):",
        nesting_lines(facts.container),
    )


def selinux_refuses(failure: Failure) -> Cause | None:
    if not (failure.needs_capability and failure.errno == codes.EACCES and failure.facts.selinux):
        return None
    return Cause(
        "selinux",
        "SELinux refused it",
        "The audit log names the rule; make a local module of it if you agree:",
        (
            "sudo ausearch -m avc -ts recent",
            "sudo ausearch -m avc -ts recent | audit2allow -M jail",
            "sudo semodule -i jail.pp",
        ),
    )


def service_filter(failure: Failure) -> Cause | None:
    refused = failure.is_refusal or failure.errno == codes.ENOSYS
    if not (failure.needs_capability and refused and failure.facts.filtered):
        return None
    return Cause(
        "seccomp-outside",
        "a seccomp filter that somebody put on this process refuses it",
        "Filters are inherited: this one comes from the service or sandbox that jail was started "
        "in. For a systemd unit, allow namespaces and mounts in it:",
        ("sudo systemctl edit UNIT", "[Service]", "RestrictNamespaces=no", "SystemCallFilter="),
    )


def not_built(failure: Failure) -> Cause | None:
    if not failure.makes_namespace or failure.errno not in (codes.EINVAL, codes.ENOSYS):
        return None
    return Cause(
        "namespaces-not-built",
        "this kernel was built without a kind of namespace",
        "All of these must be “y”:",
        (f"grep -E '_NS=' /boot/config-{failure.facts.kernel_release}",),
    )


def refused_somehow(failure: Failure) -> Cause | None:
    if not (failure.makes_namespace and failure.is_refusal):
        return None
    if failure.facts.container:
        return Cause(
            "container",
            f"this container ({failure.facts.container}) may not make namespaces",
            "Start it with the rights to:",
            nesting_lines(failure.facts.container),
        )
    return Cause(
        "namespace-refused",
        "the kernel refuses user namespaces to this process",
        "None of the usual switches is set. The kernel also refuses them in a chroot and under "
        "some security modules. See what holds this process:",
        ("grep -E 'Seccomp|NoNewPrivs|CapBnd' /proc/self/status", "ls -di /", "dmesg | tail"),
    )


def _quote_path(path: str) -> str:
    """A path as a profile's attachment, where * ? [ ] { } would be patterns: apparmor.d(5)."""
    plain = path.translate(_GLOB)
    return f'"{plain}"' if plain != path or " " in path else path


def _quote(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


RULES: tuple[Rule, ...] = (
    too_old,
    limit_reached,
    container_refuses,
    switched_off,
    apparmor_restricts,
    apparmor_confines,
    selinux_refuses,
    service_filter,
    not_built,
    refused_somehow,
)
