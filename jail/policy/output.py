"""Where ``-o FILE`` of the commands goes."""

from __future__ import annotations

import os
import sys

from jail.errors import SpecError


def write_output(path: str | None, data: bytes) -> None:
    """To the file, or to stdout; SpecError where the file can't be written."""
    if path is None:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        return
    try:
        with open(path, "wb") as file:
            file.write(data)
    except (OSError, ValueError) as error:
        reason = os.strerror(error.errno or 0) if isinstance(error, OSError) else error
        raise SpecError(f"-o {path}: {reason}") from None
