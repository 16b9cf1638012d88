"""Hostile: calls a listener on the machine that runs it, by both families."""

import socket
import sys

reason: str | None = None
for host in ("127.0.0.1", "::1"):
    try:
        with socket.create_connection((host, int(sys.argv[1])), timeout=1) as connection:
            connection.sendall(b"the answers are ...")
            print("sent")
            sys.exit()
    except OSError as error:
        reason = error.strerror
sys.exit(f"listener: {reason}")
