"""One program, as it is asked for: from people's words to checked data. Pure."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from jail.check import check_argv, check_env, check_path_length, check_text
from jail.limit import Limits
from jail.spec import ProgramSpec
from jail.units import parse_size, parse_time


def make_program(
    argv: Iterable[str | os.PathLike[str]],
    env: Mapping[str, str] | None,
    cwd: str | None,
    timeout: float | str | None,
    cpu_time: float | str | None,
    output_limit: int | str | None,
) -> ProgramSpec:
    """Checked, from people's words; SpecError says what is wrong."""
    return ProgramSpec(
        argv=check_argv(argv),
        env=check_env(env or {}),
        cwd=cwd if cwd is None else check_path_length(check_text(cwd, "cwd"), "cwd"),
        wall_time_s=None if timeout is None else parse_time(timeout, "timeout"),
        cpu_time_s=None if cpu_time is None else parse_time(cpu_time, "cpu_time"),
        output_bytes=None if output_limit is None else parse_size(output_limit, "output_limit"),
    )


def merge_limits(jail: Limits, program: ProgramSpec) -> Limits:
    """The jail's limits with the program's own where it has some."""
    changes: dict[str, Any] = {}
    for name in ("wall_time_s", "cpu_time_s", "output_bytes"):
        value = getattr(program, name)
        if value is not None:
            changes[name] = value
    return replace(jail, **changes) if changes else jail
