"""Helper programs, the library, and the cgroup that somebody must have delegated."""

from __future__ import annotations

import errno as codes
import os
import signal
import struct
import subprocess

from jail.doctor.attempt.base import AbsentError, Attempt, Setting, StuckError, at
from jail.kernel import probe, process


def make_id_attempt(helper: str, map_file: str) -> Attempt:
    """``newuidmap`` or ``newgidmap`` over the whole grant, and a look at what it wrote."""

    def attempt(setting: Setting) -> str:
        words = setting.maps.get(helper, [])
        if helper not in setting.helpers:
            raise AbsentError("not installed")
        if len(words) <= 3:
            raise AbsentError("no ids are granted")
        pid, release_fd = _fork_into_namespace()
        try:
            said = _run(setting, helper, str(pid), *words)
            if _read(f"/proc/{pid}/{map_file}").split() != words:
                raise StuckError(helper, None, said or "it says it did, but the map is another")
        finally:
            os.close(release_fd)
            os.waitpid(pid, 0)
        return f"{sum(map(int, words[2::3]))} ids"

    return attempt


def make_version_attempt(program: str) -> Attempt:
    def attempt(setting: Setting) -> str:
        if program not in setting.helpers:
            raise AbsentError("not installed")
        return ask_version(setting, program)

    return attempt


def ask_version(setting: Setting, program: str) -> str:
    return _run(setting, program, "--version")


def try_libseccomp(setting: Setting) -> str:
    try:
        return ".".join(map(str, probe.libseccomp_version()))
    except OSError:
        raise AbsentError("not installed") from None


def try_cgroup(setting: Setting) -> str:
    """Our own, if it is ours to use, else a scope of systemd's; the v2 tree only.

    A cgroup is made in the one and removed. The other gets a process that does nothing, and
    systemd removes it when that ends.
    """
    if setting.cgroup is None:
        raise AbsentError("no cgroup v2 tree")
    if not setting.cgroup_flaw:
        with at("cgroup"):
            path = f"{setting.cgroup}/jail-doctor-{os.getpid()}"
            os.mkdir(path)
            os.rmdir(path)
        return f"own: {setting.cgroup} ({_check_controllers(set(setting.controllers))})"
    if not setting.buses:
        raise StuckError("cgroup", None, setting.cgroup_flaw)
    return f"scope: {_try_scope(setting)}"


def _try_scope(setting: Setting) -> str:
    import trio

    from jail.cgroup.grant import PassedOver
    from jail.cgroup.scope import move_to_scope

    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(0)
    try:
        path = trio.run(move_to_scope, setting.buses, pid, setting.helper_timeout_s)
        return _check_controllers(set(_read(f"{path}/cgroup.controllers").split()))
    except PassedOver as error:
        raise StuckError("cgroup", None, f"{error}; {setting.cgroup_flaw}") from None
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _check_controllers(found: set[str]) -> str:
    has = " ".join(sorted(found)) or "none"
    if not {"memory", "pids"} <= found:
        raise StuckError("cgroup", None, f"no memory and pids controllers (only: {has})")
    return has


def _fork_into_namespace() -> tuple[int, int]:
    """A child that waits in a new user namespace until the returned fd is closed."""
    ready_read, ready_write = os.pipe()
    wait_read, wait_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(wait_write)
            process.unshare(process.CLONE_NEWUSER)
            os.write(ready_write, b"!")
            os.read(wait_read, 1)
        except OSError as error:
            os.write(ready_write, struct.pack("=i", error.errno or 0))
        finally:
            os._exit(0)
    for each in (ready_write, wait_read):
        os.close(each)
    answer = os.read(ready_read, 4)
    os.close(ready_read)
    if answer != b"!":
        errno = struct.unpack("=i", answer)[0] if len(answer) == 4 else None
        raise StuckError("unshare user", errno, os.strerror(errno or codes.ECHILD))
    return pid, wait_write


def _run(setting: Setting, step: str, *arguments: str) -> str:
    """A line of what the program says, best one with its name; it must end well, and in time."""
    try:
        with at(step):
            done = subprocess.run(
                [setting.helpers[step], *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=setting.helper_timeout_s,
                check=False,
            )
    except subprocess.TimeoutExpired:
        raise StuckError(
            step, codes.ETIMEDOUT, f"no answer in {setting.helper_timeout_s:g} s"
        ) from None
    lines = (done.stdout + b"\n" + done.stderr).decode(errors="replace").split("\n")
    lines = [line.strip() for line in lines if line.strip()]
    said = next((line for line in lines if step in line), next(iter(lines), ""))
    if done.returncode != 0:
        raise StuckError(step, None, said or f"exit status {done.returncode}")
    return said


def _read(path: str) -> str:
    with open(path, encoding="ascii", errors="replace") as file:
        return file.read()
