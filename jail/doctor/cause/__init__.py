"""From a failed step and the facts of a host to the reason and the lines that mend it.

Pure, so that every host we are not on can be a test. A rule knows one reason; the first that
fits answers, the particular ones before the general.
"""

from __future__ import annotations

from dataclasses import replace

from jail.doctor.cause import cgroup, gate, identity, mount, namespace, resource
from jail.doctor.cause.base import Cause, Failure
from jail.host import HostFacts

__all__ = ["Cause", "find_cause"]

RULES = (
    *resource.RULES,
    *cgroup.RULES,
    *identity.RULES,
    *mount.RULES,
    *namespace.RULES,
    *gate.RULES,
)


def find_cause(step: str, errno: int | None, facts: HostFacts) -> Cause | None:
    """The reason why ``step`` answered ``errno`` on this host; None where no rule knows one.

    ``step`` is one of the launcher's step names (``"clone"``, ``"mount proc"``, ``"newuidmap"``,
    ...) or of the doctor's probes; ``errno`` is None where no system call answered.
    """
    failure = Failure(step, errno, facts)
    found = (rule(failure) for rule in RULES)
    cause = next((each for each in found if each is not None), None)
    return _for_user(cause, facts) if cause else None


def _for_user(cause: Cause, facts: HostFacts) -> Cause:
    """Root needs no sudo, and in a container has none."""
    if facts.uid != 0:
        return cause
    return replace(cause, lines=tuple(line.replace("sudo ", "") for line in cause.lines))
