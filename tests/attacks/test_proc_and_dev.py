"""/proc, /sys and /dev: what is masked stays masked, what is read-only stays read-only."""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import Final

import pytest

from jail.plan import DEV_LINKS, DEVICES, HIDDEN, PROTECTED
from jail.source import read_devices
from tests.attacks.payload import make_argv, run_inside, run_outside
from tests.conftest import OpenJail
from tests.part import not_exercised, require
from tests.probe import OWN_NAMESPACES, Probe, make_call

AS_ROOT_OF_OWN: Final = ("unshare", "-Urm")
SETTINGS: Final = (
    "kernel/core_pattern",
    "kernel/modprobe",
    "kernel/hostname",
    "vm",
    "fs/suid_dumpable",
)
SECRETS: Final = (
    *(f"/proc/{name}" for name in HIDDEN),
    *("/proc/kmsg", "/proc/vmallocinfo", "/proc/slabinfo", "/proc/kpagecount", "/proc/kpageflags"),
    *("/proc/pagetypeinfo", "/sys/firmware", "/sys/kernel", "/sys/devices", "/sys/class/thermal"),
)


def find_there(names: tuple[str, ...]) -> list[str]:
    """Those of the names at the top of /proc that this kernel has."""
    return [f"/proc/{name}" for name in names if os.path.exists(f"/proc/{name}")]


@functools.cache
def find_writable_outside() -> frozenset[str]:
    """As root of namespaces of one's own: many a sysctl is open to anybody."""
    require("unshare")
    return frozenset(run_outside("writable", prefix=OWN_NAMESPACES))


def read_settings() -> dict[str, str]:
    values = {}
    for name in SETTINGS:
        for folder, _, files in os.walk(f"/proc/sys/{name}"):
            for each in (Path(folder, file) for file in files):
                if os.access(each, os.R_OK):
                    values[str(each)] = each.read_text(errors="replace")
        if os.path.isfile(f"/proc/sys/{name}"):
            values[name] = Path("/proc/sys", name).read_text()
    return values


@pytest.mark.parametrize("user", [None, "0"])
async def test_no_setting_of_the_kernel_can_be_written(
    open_jail: OpenJail, user: str | None
) -> None:
    """PF-01. sysctls, sysrq-trigger, irq, bus: root's id without its power is no way either."""
    if len(find_writable_outside()) < 10:
        not_exercised("this kernel lets nobody write sysctls of his own namespaces")
    before = read_settings()
    async with open_jail(user=user) as j:
        found = set(await run_inside(j, "writable"))
        script = "for f in core_pattern modprobe; do echo '|/tmp/x' > /proc/sys/kernel/$f; done"
        result = await j.run(["sh", "-c", script + "; echo b > /proc/sysrq-trigger; hostname x"])
    assert found == {f"/proc/{name}" for name in find_null_masks()}
    assert not result.ok
    assert len(before) > 20
    assert read_settings() == before


def find_null_masks() -> list[str]:
    """Hidden files are /dev/null, which anybody may write to, for what it's worth."""
    return [name for name in HIDDEN if os.path.isfile(f"/proc/{name}")]


@pytest.mark.parametrize("user", [None, "0"])
async def test_what_tells_of_the_host_is_empty(open_jail: OpenJail, user: str | None) -> None:
    """PF-02. Keys, symbols, timers, interrupts, memory; and there is no /sys at all."""
    outside = run_outside("readable", *SECRETS)
    exercised = [path for path in SECRETS if outside[path] > 0]
    assert "/proc/interrupts" in exercised
    assert "/sys/kernel" in exercised
    async with open_jail(user=user) as j:
        inside = await run_inside(j, "readable", *SECRETS)
    assert {path: inside[path] for path in exercised if inside[path] > 0} == {}


MASKS: Final = (",".join(find_there(HIDDEN)), ",".join(find_there(PROTECTED)))
NOTHING: Final[dict[str, list[str]]] = {"elsewhere": [], "hidden": [], "protected": []}


@functools.cache
def uncover_outside() -> dict[str, list[str]]:
    """The same masks, put on and taken off again by root of one and the same namespace."""
    require("unshare")
    found: dict[str, list[str]] = run_outside("uncover", *MASKS, "mask", prefix=AS_ROOT_OF_OWN)
    return found


@pytest.mark.parametrize("user", [None, "0"])
@pytest.mark.parametrize("seccomp", ["default", "unconfined"])
async def test_no_mask_comes_off(open_jail: OpenJail, seccomp: str, user: str | None) -> None:
    """PF-03. umount, move, remount, bind, a new proc: refused, without the filter, too."""
    outside = uncover_outside()
    if not outside["hidden"] or not outside["protected"]:
        not_exercised("masks can't be taken off outside a jail either")
    async with open_jail(seccomp=seccomp, user=user) as j:
        assert await run_inside(j, "uncover", *MASKS) == NOTHING


async def test_masks_are_locked_against_root_of_a_namespace_further_down(
    open_bare_jail: OpenJail,
) -> None:
    """PF-03. ``unconfined`` may nest namespaces; their root finds the mounts locked.

    Where there is no Landlock, that is: it lets nobody mount anything.
    """
    if "bind" not in uncover_outside()["elsewhere"]:
        not_exercised("a copy of /proc shows no more outside a jail either")
    async with open_bare_jail(seccomp="unconfined") as j:
        for nested in (AS_ROOT_OF_OWN, OWN_NAMESPACES[:2]):
            argv = [*nested, *make_argv("uncover", *MASKS)]
            result = await j.run(argv)
            assert result.ok, result.stderr
            assert json.loads(result.stdout) == NOTHING


# -- devices --------------------------------------------------------------------------------------

LIST_DEV: Final = r"""
import json, os, stat
seen = {}
for where, folders, files in os.walk("/dev"):
    for name in folders + files:
        path = os.path.join(where, name)
        found = os.lstat(path)
        device = f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
        seen[path.removeprefix("/dev/")] = (
            device if stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode) else
            os.readlink(path) if stat.S_ISLNK(found.st_mode) else "")
print(json.dumps(seen))
"""
NUMBERS: Final = {
    "null": "1:3", "zero": "1:5", "full": "1:7", "random": "1:8", "urandom": "1:9", "tty": "5:0",
}  # fmt: skip
WANTED: Final = (
    "mem", "kmsg", "port", "kvm", "fuse", "net/tun", "loop-control", "loop0", "vhost-vsock",
    "vhost-net", "vsock", "sda", "vda", "console", "tty0", "vcs", "uinput", "userfaultfd",
    "dri/card0", "hwrng",
)  # fmt: skip


async def test_the_devices_are_six_and_a_terminal_multiplexer(open_jail: OpenJail) -> None:
    """PF-12. Each is what its name says."""
    async with open_jail() as j:
        result = await j.run(["python3", "-c", LIST_DEV])
    seen = json.loads(result.stdout)
    expected = {name: NUMBERS[name] for name in read_devices(DEVICES)}
    expected |= {**dict(DEV_LINKS), "pts": "", "shm": "", "mqueue": "", "pts/ptmx": "5:2"}
    assert seen == expected


async def test_no_other_device_can_be_opened_or_made(
    open_jail: OpenJail, probe: Probe, root: str | Path
) -> None:
    """PF-12. Not by its name, not by mknod: no capability, and before that no Landlock right."""
    kinds = {"char": 0o020666, "block": 0o060666}
    nodes = {"mem": 0x101, "null": 0x103, "kmsg": 0x10B, "loop": 0x700}
    calls = [
        make_call("mknod", f"text:/tmp/{kind}", mode, number, label=f"{kind}_{name}")
        for kind, mode in kinds.items()
        for name, number in nodes.items()
    ]
    async with open_jail(rootfs=root) as j:
        answers = await probe.try_calls(j, calls)
        opened = [
            name
            for name in WANTED
            if (await j.run(["sh", "-c", f": < /dev/{name}"])).exit_code == 0
        ]
        listed = await j.run(["ls", "/tmp"])
    assert set(answers.values()) <= {"EPERM", "EACCES"}
    assert opened == []
    assert listed.stdout.split() == [b"table", b"try"]


async def test_a_device_in_a_volume_is_dead(open_jail: OpenJail) -> None:
    """PF-12. Even where the host's whole /dev is given: nodev."""
    assert "zero" in read_devices(DEVICES), "outside it works"
    async with open_jail(volumes=["/dev:/hostdev:ro"]) as j:
        result = await j.run(["head", "-c1", "/hostdev/zero"])
        own = await j.run(["head", "-c1", "/dev/zero"])
    assert b"Permission denied" in result.stderr
    assert own.stdout == b"\0"


async def test_every_mount_is_nosuid_and_nodev_but_for_the_devices(
    open_jail: OpenJail, root: str | Path, tmp_path: Path
) -> None:
    """PF-12, NS-05."""
    async with open_jail(rootfs=root, volumes=[f"{tmp_path}:/data"], tmpfs=["/scratch"]) as j:
        result = await j.run(["cat", "/proc/self/mountinfo"])
    mounts = {
        line.split()[4]: line.split()[5].split(",") for line in result.stdout.decode().splitlines()
    }
    assert {"/", "/proc", "/dev", "/tmp", "/data", "/scratch", "/dev/pts"} <= mounts.keys()
    devices = {f"/dev/{name}" for name in DEVICES} | {f"/proc/{name}" for name in find_null_masks()}
    for path, flags in mounts.items():
        if path not in devices:
            assert "nosuid" in flags, path
            assert "nodev" in flags or path == "/dev/pts", path
    writable = {path for path, flags in mounts.items() if "rw" in flags} - devices
    expected = {"/proc", "/dev/pts", "/dev/shm", "/dev/mqueue", "/tmp", "/work"}
    expected |= {"/data", "/scratch"}
    assert writable == expected | ({"/"} if root != "host" else set())


# -- what the kernel tells ------------------------------------------------------------------------


async def test_the_kernel_s_log_and_counters_are_not_for_programs(
    open_jail: OpenJail, probe: Probe, probe_folder: Path
) -> None:
    """PF-13. syslog(2), perf events, bpf: refused whatever the host's sysctls say."""
    calls = [
        *(make_call("syslog", kind, "buf", 8, label=f"syslog_{kind}") for kind in (2, 3, 8, 9, 10)),
        make_call("perf_event_open", "bad", 0, -1, -1, 0),
        make_call("bpf", 0, "bad", 128),
        make_call("lookup_dcookie", 0, "bad", 8),
    ]
    exercised = probe.find_exercised(probe_folder, calls)
    async with open_jail() as j:
        answers = await probe.try_calls(j, calls)
        kmsg = await j.run(["cat", "/dev/kmsg"])
    assert b"No such file" in kmsg.stderr
    assert "perf_event_open" in exercised
    for label in exercised:
        assert answers[label] in ("EPERM", "ENOSYS"), label
