"""Helper programs that make networks, attached to namespaces like a jail's."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import Any

from jail.doctor.attempt.base import AbsentError, Attempt, Setting, StuckError, enter
from jail.doctor.attempt.program import ask_version

Open = Callable[[str, int], AbstractAsyncContextManager[Any]]


def try_pasta(setting: Setting) -> str:
    def open_(program: str, pid: int) -> AbstractAsyncContextManager[Any]:
        from jail.network.pasta import open_pasta

        return open_pasta(program, pid, (), _forget)

    return _try("pasta", open_, setting)


def try_slirp4netns(setting: Setting) -> str:
    def open_(program: str, pid: int) -> AbstractAsyncContextManager[Any]:
        from jail.network.slirp4netns import open_slirp4netns

        # Without ports there is nothing to put into a directory.
        return open_slirp4netns(program, pid, (), _forget, Path(os.devnull))

    return _try("slirp4netns", open_, setting)


def _try(name: str, open_: Open, setting: Setting) -> str:
    import trio

    from jail.errors import HelperError, HostError

    if name not in setting.helpers:
        raise AbsentError("not installed")
    version = ask_version(setting, name)

    async def attach(pid: int) -> None:
        async with open_(setting.helpers[name], pid):
            pass

    with _fork_into_network(setting) as pid:
        try:
            trio.run(attach, pid)
        except HostError as error:
            raise StuckError(error.step, error.errno, str(error)) from None
        except HelperError as error:
            raise StuckError(f"{name} start", None, str(error)) from None
    return version


@contextmanager
def _fork_into_network(setting: Setting) -> Iterator[int]:
    """A child in a user and a network namespace of its own; the attempt's end is its end, too."""
    ready, ready_end = os.pipe()
    wait, wait_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(wait_end)
            enter(setting, "net")
            os.write(ready_end, b"!")
            os.read(wait, 1)
        finally:
            os._exit(0)
    for each in (ready_end, wait):
        os.close(each)
    try:
        if os.read(ready, 1) != b"!":
            raise StuckError("unshare net", None, "no network namespace to try it in")
        yield pid
    finally:
        os.close(wait_end)
        os.close(ready)
        os.waitpid(pid, 0)


def _forget(_: str) -> None:
    """It has made its network; what comes after is no question here."""


ATTEMPTS: dict[str, Attempt] = {"pasta": try_pasta, "slirp4netns": try_slirp4netns}
