"""What to start a container with, so that jails can run inside it."""

from __future__ import annotations

_DOCKER = ("docker run", ("seccomp=unconfined", "apparmor=unconfined", "systempaths=unconfined"))
_PODMAN = ("podman run", ("seccomp=unconfined", "unmask=ALL", "label=disable"))
_NERDCTL = ("nerdctl run", _DOCKER[1])
_ENGINES = {"docker": _DOCKER, "podman": _PODMAN, "containerd": _NERDCTL}
_PROC_OPTIONS = ("systempaths=unconfined", "unmask=ALL")
_POD = (
    "spec:",
    "  hostUsers: false",
    "  containers:",
    "  - securityContext:",
    "      procMount: Unmasked",
    "      seccompProfile: {type: Unconfined}",
    "      appArmorProfile: {type: Unconfined}",
)


def nesting_lines(container: str) -> tuple[str, ...]:
    """How to start a container of this kind that may make namespaces and mounts of its own."""
    if container == "kubernetes":
        return _POD
    if container == "lxc":
        return ("lxc config set CONTAINER security.nesting true",)
    command, options = _ENGINES.get(container, _DOCKER)
    return (_run_line(command, options),)


def unmask_lines(container: str) -> tuple[str, ...]:
    """How to start it with the whole of /proc in sight."""
    if container == "kubernetes":
        return (*_POD[:5],)
    if container == "lxc":
        return nesting_lines(container)
    command, options = _ENGINES.get(container, _DOCKER)
    return (_run_line(command, tuple(each for each in options if each in _PROC_OPTIONS)),)


def privilege_lines(container: str) -> tuple[str, ...]:
    """How to start it so that setuid programs keep their rights."""
    if container == "kubernetes":
        return (*_POD[:1], *_POD[2:4], "      allowPrivilegeEscalation: true")
    command, _ = _ENGINES.get(container, _DOCKER)
    return (f"{command} ...    # without --security-opt no-new-privileges",)


def device_line(container: str, device: str) -> str:
    """How to start it with a device node of the host's."""
    command, _ = _ENGINES.get(container, _DOCKER)
    return f"{command} --device {device} ..."


def _run_line(command: str, options: tuple[str, ...]) -> str:
    return " ".join([command, *(f"--security-opt {option}" for option in options), "..."])
