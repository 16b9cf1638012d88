"""Why no subordinate ids can be mapped: no grant, no helper, or a helper without its rights."""

from __future__ import annotations

import errno as codes

from jail.doctor.cause.base import Cause, Failure, Rule
from jail.doctor.cause.container import privilege_lines
from jail.doctor.cause.package import install_lines
from jail.host import HostFacts

_HELPERS = ("newuidmap", "newgidmap")
_STEPS = (*_HELPERS, "subids")


def helper_missing(failure: Failure) -> Cause | None:
    step = failure.step
    if step not in _HELPERS or (step in failure.facts.helpers and failure.errno != codes.ENOENT):
        return None
    return Cause(
        "id-helpers-missing",
        "newuidmap or newgidmap is not installed",
        "They map the ids that /etc/subuid and /etc/subgid grant. Install them:",
        install_lines("newuidmap", failure.facts.distro),
    )


def no_ranges(failure: Failure) -> Cause | None:
    facts = failure.facts
    if failure.step not in _STEPS or (facts.subuids and facts.subgids):
        return None
    if facts.subid_source != "files":
        return Cause(
            "subids-not-granted",
            "the directory service grants you no subordinate ids",
            f"nsswitch.conf gives them to “{facts.subid_source}”, so /etc/subuid is not read. "
            "Ask its administrator for a range of 65536 uids and gids; this shows what it says:",
            ("getsubids $(id -un)", "getsubids -g $(id -un)"),
        )
    return Cause(
        "subids-missing",
        "no subordinate ids are granted to you",
        "Ids that nobody else has let a jail have users of its own. Grant a free range:",
        grant_lines(facts),
    )


def grant_lines(facts: HostFacts) -> tuple[str, ...]:
    """Lines that give the user what is missing: a range of ids free in both files."""
    free = facts.free_subids
    kinds = [k for k, has in (("uid", facts.subuids), ("gid", facts.subgids)) if not has]
    files = " ".join(f"/etc/sub{kind}" for kind in kinds)
    if free is None:
        return (f"sudoedit {files}",)
    if not facts.user:
        return (f"echo '{facts.uid}:{free.start}:{free.count}' | sudo tee -a {files}",)
    options = " ".join(f"--add-sub{kind}s {free}" for kind in kinds)
    return (f"sudo usermod {options} {facts.user}",)


def privileges_withheld(failure: Failure) -> Cause | None:
    """no_new_privs: exec gives no rights to setuid programs any more: prctl(2)."""
    facts = failure.facts
    if failure.step not in _HELPERS or not facts.no_new_privs:
        return None
    if facts.container:
        return Cause(
            "no-new-privs",
            "this container takes the rights of setuid programs (no_new_privs)",
            "newuidmap and newgidmap can't work in it. Start the container without that:",
            privilege_lines(facts.container),
        )
    return Cause(
        "no-new-privs",
        "this process may not gain rights (no_new_privs)",
        "newuidmap and newgidmap can't work then. Whatever started jail set it; for a systemd "
        "unit, take it back:",
        ("sudo systemctl edit UNIT", "[Service]", "NoNewPrivileges=no"),
    )


def helper_powerless(failure: Failure) -> Cause | None:
    facts, step = failure.facts, failure.step
    flaw, path = facts.helper_flaws.get(step), facts.helpers.get(step)
    if step not in _HELPERS or flaw is None or path is None:
        return None
    if flaw == "nosuid":
        return Cause(
            f"{step}-nosuid",
            f"{path} lies on a file system mounted nosuid",
            "Set-user-ID programs get no rights there. Allow them on that mount:",
            (f"sudo mount -o remount,suid $(findmnt -no TARGET -T {path})",),
        )
    kind = step[3:6]
    return Cause(
        f"{step}-unprivileged",
        f"{path} has no rights of its own",
        "It is neither set-user-ID root nor has file capabilities, so it can't write the map. "
        "Give it the one capability it needs:",
        (f"sudo setcap cap_set{kind}=ep {path}",),
    )


def helper_broken(failure: Failure) -> Cause | None:
    facts, step = failure.facts, failure.step
    path = facts.helpers.get(step)
    if step not in _HELPERS or path is None:
        return None
    return Cause(
        f"{step}-broken",
        f"{path} did not map your ids",
        "The ids are granted and the program is there, but it failed, hung or wrote another "
        "map. Look at what it says, and install it anew:",
        (
            f"unshare -U sleep 9 & sleep 1; {path} $! {' '.join(map_words(facts, step))}",
            *install_lines("newuidmap", facts.distro),
        ),
    )


def map_words(facts: HostFacts, step: str) -> tuple[str, ...]:
    """The map that the doctor tries: our own id as 0, then every granted one from 1 on."""
    own, ranges = (facts.uid, facts.subuids) if step == "newuidmap" else (facts.gid, facts.subgids)
    words, inside = ["0", str(own), "1"], 1
    for each in ranges:
        words += [str(inside), str(each.start), str(each.count)]
        inside += each.count
    return tuple(words)


RULES: tuple[Rule, ...] = (
    helper_missing,
    no_ranges,
    privileges_withheld,
    helper_powerless,
    helper_broken,
)
