"""Runs in one jail, for tests of what each is told of it.

    runs.py OPTIONS ARGV…     both in JSON: of make_spec, and of one program after the other

Says their ``Result.network`` as a list of JSON, and what it cost us.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import trio

import jail


async def run_all(options: dict[str, Any], *programs: list[str]) -> list[Any]:
    told = []
    async with jail.open_jail(**options) as opened:
        for argv in programs:
            began_s = time.process_time()
            result = await opened.run(argv)
            cpu_s = time.process_time() - began_s
            out = result.stdout.decode()
            told.append({"out": out, "supervisor_cpu_s": cpu_s, **result.network.to_json()})
    return told


if __name__ == "__main__":
    print(json.dumps(trio.run(run_all, *map(json.loads, sys.argv[1:]))))
