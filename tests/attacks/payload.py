"""Attacks written in Python: the same file is run inside a jail and, as a control, outside.

A payload prints one JSON object. It is a file of ``payloads/``, self-contained: it runs under the
system's interpreter, without anything of ours.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from jail import Jail

FOLDER: Final = Path(__file__).parent / "payloads"
PYTHON: Final = "/usr/bin/python3"
TIMEOUT_S: Final = 30.0


def make_argv(name: str, *words: str) -> list[str]:
    """``python3 -c`` with the payload's text: nothing has to be put into the jail first."""
    return [PYTHON, "-I", "-c", (FOLDER / f"{name}.py").read_text(), *words]


async def run_inside(jail: Jail, name: str, *words: str, input: str = "") -> Any:
    """What the payload has to say from inside."""
    result = await jail.run(make_argv(name, *words), input=input, timeout=TIMEOUT_S)
    assert result.ok, (result.verdict, result.message, result.stderr.decode()[-2000:])
    return json.loads(result.stdout)


def run_outside(name: str, *words: str, prefix: Iterable[str] = (), input: str = "") -> Any:
    """The same, from the host as the same user; ``prefix`` goes before the command."""
    command = [*prefix, *make_argv(name, *words)]
    if not Path(PYTHON).exists():
        command[command.index(PYTHON)] = sys.executable
    done = subprocess.run(
        command, input=input.encode(), capture_output=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return json.loads(done.stdout)
