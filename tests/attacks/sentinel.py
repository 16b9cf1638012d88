"""Canaries: secrets that a program must not see, and files that it must not change."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterable
from pathlib import Path


def make_secret() -> str:
    """A word that occurs nowhere else on this machine."""
    return secrets.token_hex(16)


def to_needles(words: Iterable[str]) -> str:
    """As the payloads read them: in hex, so that nobody finds the question itself."""
    return "\n".join(word.encode().hex() for word in words)


def hash_files(paths: Iterable[str | Path]) -> dict[str, str]:
    """path → content, mode and owner, in one word."""
    return {str(path): _hash(Path(path)) for path in paths}


def hash_tree(folder: Path) -> dict[str, str]:
    """The same for everything below a directory, and for itself."""
    paths = [folder]
    for where, folders, files in os.walk(folder):
        paths += [Path(where, name) for name in (*folders, *files)]
    return hash_files(paths)


def _hash(path: Path) -> str:
    found = path.lstat()
    content = b""
    if path.is_symlink():
        content = os.fsencode(os.readlink(path))
    elif path.is_file():
        content = path.read_bytes()
    words = (
        found.st_mode,
        found.st_uid,
        found.st_gid,
        sorted(os.listxattr(path, follow_symlinks=False)),
    )
    return hashlib.sha256(repr(words).encode() + content).hexdigest()
