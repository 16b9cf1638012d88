"""An authority of the tests' own, and a certificate for each name, by the openssl command."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def make_certificates(folder: Path, names: Iterable[str]) -> Path:
    """``NAME.pem`` with key and certificate for each; the authority's own is returned."""
    authority = folder / "authority.pem"
    _request("-subj", "/CN=an authority of the tests", "-keyout", f"{folder}/key", out=authority)
    for name in names:
        file = folder / f"{name}.pem"
        signed = ("-CA", str(authority), "-CAkey", f"{folder}/key")
        about = ("-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}")
        _request(*signed, *about, "-addext", "basicConstraints=CA:FALSE", out=file)
    authority.chmod(0o644)
    return authority


def _request(*words: str, out: Path) -> None:
    """A key where none is named goes into the same file."""
    key = () if "-keyout" in words else ("-keyout", f"{out}.key")
    argv = ["openssl", "req", "-x509", "-days", "2", *NEW_KEY, *key, "-out", str(out), *words]
    subprocess.run(argv, check=True, capture_output=True)
    if key:
        private = Path(f"{out}.key")
        out.write_bytes(out.read_bytes() + private.read_bytes())
        private.unlink()
