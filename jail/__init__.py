"""jail: run a program nobody trusts, as yourself, and get a result you can defend.

Nothing is imported until it is used: the zygote imports this package too, and has no trio.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jail.errors import (
        HelperError,
        HostError,
        JailBroken,
        JailError,
        ProgramError,
        ProtocolError,
        SpecError,
        TransferError,
    )
    from jail.jail import Jail
    from jail.limit import UNLIMITED, Limits
    from jail.process import Process
    from jail.result import Result, Verdict
    from jail.spec import JailSpec, Tmpfs, Volume, make_spec
    from jail.supervisor import Supervisor, open_jail, open_supervisor, run
    from jail.usage import Usage

__version__ = "0.1.0"

_WHERE = {
    "HelperError": "errors",
    "HostError": "errors",
    "Jail": "jail",
    "JailBroken": "errors",
    "JailError": "errors",
    "JailSpec": "spec",
    "Limits": "limit",
    "Process": "process",
    "ProgramError": "errors",
    "ProtocolError": "errors",
    "Result": "result",
    "SpecError": "errors",
    "Supervisor": "supervisor",
    "Tmpfs": "spec",
    "TransferError": "errors",
    "UNLIMITED": "limit",
    "Usage": "usage",
    "Verdict": "result",
    "Volume": "spec",
    "make_spec": "spec",
    "open_jail": "supervisor",
    "open_supervisor": "supervisor",
    "run": "supervisor",
}

__all__ = [
    "UNLIMITED",
    "HelperError",
    "HostError",
    "Jail",
    "JailBroken",
    "JailError",
    "JailSpec",
    "Limits",
    "Process",
    "ProgramError",
    "ProtocolError",
    "Result",
    "SpecError",
    "Supervisor",
    "Tmpfs",
    "TransferError",
    "Usage",
    "Verdict",
    "Volume",
    "make_spec",
    "open_jail",
    "open_supervisor",
    "run",
]


def __getattr__(name: str) -> Any:
    """PEP 562: a public name is looked up in its module the first time it is asked for."""
    if name not in _WHERE:
        raise AttributeError(f"module 'jail' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"jail.{_WHERE[name]}"), name)
    globals()[name] = value
    return value
