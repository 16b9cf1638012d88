"""The maps of the outer user namespace, which are written from outside it, once."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any, Final

import trio

from jail.errors import HelperError, HostError, blame_host
from jail.idmap import Extent, format_map, make_outer_map

HELPER_TIMEOUT_S: Final = 10.0


def map_user(pid: int, uid: int, gid: int) -> None:
    """The user as 0, and nobody else. That much its maker may write himself, from outside, and
    a group only when setgroups(2) is shut: user_namespaces(7).
    """
    maps = [("uid_map", format_map(make_outer_map(uid, ())))]
    maps.append(("gid_map", format_map(make_outer_map(gid, ()))))
    for step, text in (("setgroups", b"deny"), *maps):
        with blame_host(step):
            Path(f"/proc/{pid}/{step}").write_bytes(text)


async def run_map_helper(
    step: str, program: str | None, pid: int, own_id: int, ranges: tuple[Any, ...]
) -> None:
    """``newuidmap PID INSIDE OUTSIDE COUNT …``; HostError carries what it said."""
    if program is None:
        raise HostError(f"{step} is not installed", step=step)
    wanted = make_outer_map(own_id, ranges)
    numbers = [str(n) for extent in wanted for n in extent]
    try:
        with trio.fail_after(HELPER_TIMEOUT_S):
            done = await trio.run_process(
                [program, str(pid), *numbers],
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                env={"PATH": "/usr/bin:/bin"},
                deliver_cancel=kill_helper,
            )
    except trio.TooSlowError:
        raise HelperError(f"{step}: no answer within {HELPER_TIMEOUT_S:g} s") from None
    except OSError as error:
        raise HostError.at_step(step, error.errno or 0) from error
    except RuntimeError as error:  # of threading: trio waits for a process in a thread
        raise HostError(f"{step}: {error}", step=step, errno=errno.EAGAIN) from error
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()[:500]
        raise HostError(f"{step} failed: {said or done.returncode}", step=step)
    with blame_host(step):
        mapped = read_map(pid, step.removeprefix("new").replace("idmap", "id_map"))
    if mapped != set(wanted):
        raise HelperError(f"{step}: says it has done it, and has mapped something else")


def read_map(pid: int, name: str) -> set[Extent]:
    """What a process's ``uid_map`` or ``gid_map`` says, in no order."""
    lines = Path(f"/proc/{pid}/{name}").read_text().splitlines()
    return {Extent(*map(int, line.split())) for line in lines}


async def kill_helper(process: trio.Process) -> None:
    """At once: it has nothing to put in order, and SIGTERM would wait for a stopped one."""
    process.kill()
