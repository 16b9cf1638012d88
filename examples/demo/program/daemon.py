"""Hostile: leaves a daemon behind, in a session of its own and deaf to every polite signal."""

import os
import signal
import sys

marker = sys.argv[1]
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        print("up", flush=True)
        os.closerange(0, 1024)
        argv = [sys.executable, "-c", "import time; time.sleep(1000)", marker]
        os.execv(sys.executable, argv)
    os._exit(0)
os.wait()
sys.stdin.read()  # until whoever looks at the daemon has seen it
