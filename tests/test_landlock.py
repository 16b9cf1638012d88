"""Which rules a plan's mounts become, for each version of Landlock: a pure decision."""

from __future__ import annotations

from typing import Any, Final

import pytest

from jail.explain import format_plan
from jail.host import make_facts
from jail.kernel import landlock as kernel
from jail.landlock import CHANGE, DEVICE, READ, WRITE_FILE, find_unheld
from jail.launchplan import Landlock
from jail.policy.filters import may_open_tcp
from jail.policy.rule import Condition, Rule, Ruleset, Target
from tests.test_plan import plan, see

pytestmark = pytest.mark.beside

NEVER: Final = kernel.LANDLOCK_ACCESS_FS_MAKE_CHAR | kernel.LANDLOCK_ACCESS_FS_MAKE_BLOCK
OF_A_FILE: Final = (
    kernel.LANDLOCK_ACCESS_FS_EXECUTE
    | kernel.LANDLOCK_ACCESS_FS_READ_FILE
    | kernel.LANDLOCK_ACCESS_FS_WRITE_FILE
    | kernel.LANDLOCK_ACCESS_FS_TRUNCATE
    | kernel.LANDLOCK_ACCESS_FS_IOCTL_DEV
)
VERSIONS: Final = range(2, 8)


def wall(abi: int = 7, **options: Any) -> Landlock:
    made = plan(make_facts(landlock_abi=abi), **options).launch.landlock
    assert made is not None
    return made


def rules(abi: int = 7, **options: Any) -> dict[str, int]:
    made = wall(abi, **options).rules
    assert len(dict(made)) == len(made), "a place has one rule"
    return dict(made)


@pytest.mark.parametrize("abi", [0, 1])
def test_a_kernel_without_one_or_with_too_old_a_one_gets_none(abi: int) -> None:
    made = plan(make_facts(landlock_abi=abi))
    assert made.launch.landlock is None
    assert made.enforced_by["landlock"] == "none"
    assert made.warnings == (), "it is no limit, and nobody asked for it"


@pytest.mark.parametrize("abi", [*VERSIONS, 8, 100])
def test_a_version_is_asked_for_what_it_has_and_no_more(abi: int) -> None:
    made = wall(abi)
    bits = 16 if abi >= 5 else 15 if abi >= 3 else 14
    assert made.handled_fs == 2**bits - 1
    assert made.scoped == (3 if abi >= 6 else 0)
    assert made.flags == (0b101 if abi >= 7 else 0)
    assert made.handled_net == 0
    for _, access in made.rules:
        assert access, "ENOMSG"
        assert access & ~made.handled_fs == 0, "EINVAL"


def test_the_host_s_root_is_for_reading_but_for_what_is_made_for_the_program() -> None:
    assert rules() == {
        "": READ,
        "dev": DEVICE,
        "dev/shm": CHANGE,
        "proc": WRITE_FILE,
        "tmp": CHANGE,
        "work": CHANGE,
        "dev/null": kernel.LANDLOCK_ACCESS_FS_READ_FILE | DEVICE,
        "dev/mqueue": READ | CHANGE,
    }


@pytest.mark.parametrize("abi", VERSIONS)
@pytest.mark.parametrize(
    "options", [{}, {"rootfs": see("/r")}, {"tmpfs": ["/a/b", "/tmp"]}], ids=str
)
def test_nobody_makes_a_device_and_everybody_moves_what_he_may_change(
    abi: int, options: dict[str, Any]
) -> None:
    for _, access in wall(abi, **options).rules:
        assert access & NEVER == 0
        changes = bool(access & kernel.LANDLOCK_ACCESS_FS_MAKE_REG)
        assert bool(access & kernel.LANDLOCK_ACCESS_FS_REFER) is changes


def test_a_volume_has_a_rule_if_it_can_be_written() -> None:
    made = rules(
        seen=(see("/a"), see("/b"), see("/c", is_dir=False), see("/d", is_dir=False)),
        volumes=["/a:/rw", "/b:/ro:ro", "/c:/file", "/d:/locked:ro"],
        tmpfs=["/mem"],
    )
    assert made["rw"] == made["mem"] == CHANGE
    assert made["file"] == WRITE_FILE
    assert made["file"] & ~OF_A_FILE == 0, "EINVAL"
    assert {"ro", "locked"} & made.keys() == set()


@pytest.mark.parametrize("options", [{}, {"rootfs": see("/r")}], ids=str)
def test_requests_to_devices_go_to_dev_alone(options: dict[str, Any]) -> None:
    asked = [p for p, a in rules(**options).items() if a & kernel.LANDLOCK_ACCESS_FS_IOCTL_DEV]
    assert asked == ["dev", "dev/null"]


def test_in_a_root_that_can_be_written_only_what_lies_elsewhere_needs_a_rule() -> None:
    made = rules(
        rootfs=see("/r"), seen=(see("/a"), see("/b")), volumes=["/a:/rw", "/b:/ro:ro"], tmpfs=["/x"]
    )
    assert made.keys() == {"", "dev", "dev/null", "dev/mqueue"}
    assert made[""] == READ | CHANGE


def test_a_root_that_is_read_only_is_as_the_host_s() -> None:
    assert rules(rootfs=see("/r"), read_only=True) == rules()


def test_a_kernel_without_queues_has_no_rule_for_them() -> None:
    made = plan(make_facts(landlock_abi=7, mqueue=False)).launch.landlock
    assert made is not None
    assert "dev/mqueue" not in dict(made.rules)


def unheld(**options: Any) -> list[str]:
    return find_unheld(plan(make_facts(landlock_abi=7), **options).launch)


def test_what_the_mount_alone_keeps_read_only_is_told() -> None:
    """A rule takes nothing away of what one above it gives."""
    seen = (see("/a"), see("/b"))
    assert unheld(seen=seen, volumes=["/a:/x:ro", "/b:/worker:ro"]) == []
    assert unheld(seen=seen, volumes=["/a:/x", "/b:/x/y:ro"]) == ["x/y"]
    assert unheld(seen=(see("/a"),), volumes=["/a:/work/tests:ro"]) == ["work/tests"]
    assert unheld(rootfs=see("/r"), seen=(see("/a"),), volumes=["/a:/x:ro"]) == ["x"]
    assert unheld(rootfs=see("/r"), read_only=True, seen=(see("/a"),), volumes=["/a:/x:ro"]) == []


@pytest.mark.parametrize(
    ("abi", "refuses", "handled"), [(7, True, 3), (4, True, 3), (3, True, 0), (7, False, 0)]
)
def test_tcp_is_refused_where_the_policy_has_no_socket_for_it(
    abi: int, refuses: bool, handled: int
) -> None:
    for network in ("none", "host"):
        assert wall(abi, refuses_tcp=refuses, network=network).handled_net == handled


@pytest.mark.parametrize(
    ("conditions", "opens"),
    [
        ([(0, 2), (2, 6)], True),
        ([(0, 10), (1, 0o2000001)], True),
        ([(0, 2), (1, 0o4001), (2, 0)], True),
        ([(0, 2), (1, 2)], False),
        ([(0, 1)], False),
    ],
)
def test_a_socket_for_tcp_is_one_however_it_is_asked_for(
    conditions: list[tuple[int, int]], opens: bool
) -> None:
    """curl names the protocol, libraries set SOCK_CLOEXEC: a policy may allow just that."""
    alternative = tuple(Condition(arg, "eq", (value,)) for arg, value in conditions)
    only = Rule(("socket",), "allow", (alternative,), "one way")
    assert may_open_tcp(Ruleset("ENOSYS", (only,)), Target("x86_64", (6, 1))) is opens


def test_without_a_filter_the_wall_still_stands() -> None:
    assert wall(seccomp="unconfined") == wall()


def test_the_rules_are_explained() -> None:
    text = format_plan(
        plan(
            make_facts(landlock_abi=7),
            seen=(see("/a"),),
            volumes=["/a:/work/tests:ro"],
            refuses_tcp=True,
        )
    )
    for line in (
        "  /: read, execute",
        "  /dev: write, device ioctls",
        "  /proc: write",
        "  /work: make, move, remove, write",
        "  signals and abstract sockets: those of the jail alone",
        "  no TCP",
        "  /work/tests is read-only by its mount alone: what is above it can be written",
    ):
        assert f"\n{line}\n" in text
    assert "none: this kernel has no Landlock" in format_plan(plan(make_facts(landlock_abi=0)))
