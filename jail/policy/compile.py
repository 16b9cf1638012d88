"""From a policy to an array of ``struct sock_filter``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from jail.errors import SpecError

if TYPE_CHECKING:
    from jail.policy.load import Policy

MAX_BPF_BYTES: Final = 4096 * 8


def compile_policy(policy: Policy, machine: str | None = None) -> bytes:
    """An array of ``struct sock_filter`` for this machine, or for "x86_64" or "aarch64".

    SpecError for a call that libseccomp does not know, HostError where it is missing.
    """
    from jail.policy import libseccomp

    machine = machine or libseccomp.read_machine()
    try:
        bpf = libseccomp.compile_rules(policy.rules, policy.default, machine)
    except SpecError as error:
        raise SpecError(f"seccomp policy {policy.name}: {error}") from None
    if len(bpf) > MAX_BPF_BYTES:
        raise SpecError(f"seccomp policy {policy.name}: too long for the kernel")
    return bpf
