"""A root filesystem small enough to be made for one test."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

FOLDERS = ("bin", "dev", "etc", "proc", "root", "tmp", "usr", "var", "work")
PASSWD = "root:x:0:0::/root:/bin/sh\ndaemon:x:2:2::/:/bin/sh\n"
GROUP = "root:x:0:\ndaemon:x:2:\nstaff:x:50:\n"


def make_rootfs(folder: Path) -> None:
    """busybox under all its names, the usual folders, a passwd."""
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)
    for name in FOLDERS:
        (folder / name).mkdir()
    (folder / "etc/passwd").write_text(PASSWD)
    (folder / "etc/group").write_text(GROUP)
    busybox = shutil.which("busybox")
    assert busybox is not None
    shutil.copy(busybox, folder / "bin/busybox")
    listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
    for name in listed.stdout.split():
        if name != "busybox":
            os.symlink("busybox", folder / "bin" / name)
