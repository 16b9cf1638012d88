"""Honest programs under everything that is on by default: they run as if there were no jail."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from jail import Result, Supervisor, Verdict
from tests.conftest import OpenJail
from tests.part import require

pytestmark = pytest.mark.beside

C = r"""
#include <pthread.h>
#include <stdio.h>
static void *add(void *n) { return (void *)((long)n + 1); }
int main(void) {
    pthread_t thread;
    void *answer;
    pthread_create(&thread, NULL, add, (void *)41L);
    pthread_join(thread, &answer);
    printf("%ld\n", (long)answer);
    return 0;
}
"""
CPP = r"""
#include <algorithm>
#include <iostream>
#include <map>
#include <string>
#include <thread>
#include <vector>
int main() {
    std::vector<int> v{3, 1, 2};
    std::thread([&] { std::sort(v.begin(), v.end()); }).join();
    try { std::map<std::string, int>().at("nothing"); }
    catch (const std::out_of_range &) { std::cout << v[0] << v[1] << v[2] << std::endl; }
}
"""
JAVA = r"""
import java.nio.file.*;
import java.util.*;
import java.util.stream.*;
public class Main {
    public static void main(String[] args) throws Exception {
        Path file = Files.writeString(Path.of("out.txt"), "written\n");
        int sum = IntStream.range(0, 1000).parallel().sum();
        Thread thread = new Thread(() -> System.out.print(Files.exists(file) + " "));
        thread.start();
        thread.join();
        System.gc();
        System.out.println(sum);
    }
}
"""
NODE = r"""
const fs = require('fs'), {Worker} = require('worker_threads'), zlib = require('zlib');
fs.promises.writeFile('out.txt', 'written').then(async () => {
  const text = await fs.promises.readFile('out.txt', 'utf8');
  zlib.gzip(text, (_, z) => zlib.gunzip(z, (_, back) => {
    const source = "require('worker_threads').parentPort.postMessage(6 * 7)";
    const worker = new Worker(source, {eval: true});
    worker.on('message', n => { console.log(String(back), n); });
  }));
});
"""
PYTHON = {
    "threads": (
        "import threading,queue\n"
        "q = queue.Queue()\n"
        "ts = [threading.Thread(target=lambda n=n: q.put(n * n)) for n in range(20)]\n"
        "[t.start() for t in ts]; [t.join() for t in ts]\n"
        "print(sum(q.get() for _ in ts))\n",
        b"2470\n",
    ),
    "asyncio_and_a_subprocess": (
        "import asyncio\n"
        "async def main():\n"
        "  p = await asyncio.create_subprocess_exec('cat', stdin=-1, stdout=-1)\n"
        "  print(await p.communicate(b'through'), await asyncio.to_thread(sum, [1, 2]))\n"
        "asyncio.run(main())\n",
        b"(b'through', None) 3\n",
    ),
    "a_process_pool": (
        "import multiprocessing as m\n"
        "def f(n): return n * n\n"
        "if __name__ == '__main__':\n"
        "  with m.get_context('fork').Pool(3) as p: print(p.map(f, range(5)))\n",
        b"[0, 1, 4, 9, 16]\n",
    ),
    "shared_memory": (
        "from multiprocessing import shared_memory as s\n"
        "a = s.SharedMemory(create=True, size=100)\n"
        "b = s.SharedMemory(a.name)\n"
        "a.buf[3] = 7; print(b.buf[3]); b.close(); a.close(); a.unlink()\n",
        b"7\n",
    ),
    "a_server_on_loopback": (
        "import socket,threading\n"
        "s = socket.create_server(('127.0.0.1', 0))\n"
        "threading.Thread(target=lambda: s.accept()[0].sendall(b'hi')).start()\n"
        "print(socket.create_connection(s.getsockname()).recv(9))\n",
        b"b'hi'\n",
    ),
    "a_database_in_a_file": (
        "import sqlite3,tempfile\n"
        "with tempfile.NamedTemporaryFile() as f:\n"
        "  d = sqlite3.connect(f.name)\n"
        "  d.execute('pragma journal_mode=wal'); d.execute('create table t(x)')\n"
        "  d.execute('insert into t values (5)'); d.commit()\n"
        "  print(d.execute('select x from t').fetchall())\n",
        b"[(5,)]\n",
    ),
    "timers_and_signals": (
        "import signal,select,os\n"
        "signal.signal(signal.SIGALRM, lambda *_: print('rang'))\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.01); signal.pause()\n"
        "e = select.epoll(); r, w = os.pipe(); e.register(r, 1); os.write(w, b'x')\n"
        "print(e.poll(1)[0][1])\n"
        "print(len(os.sched_getaffinity(0)) > 0, os.getppid())\n",
        b"rang\n1\nTrue 1\n",
    ),
    "a_file_s_life": (
        "import os,shutil\n"
        "os.mkdir('life'); os.chdir('life'); os.makedirs('a/b'); open('a/b/c', 'w').write('x')\n"
        "os.link('a/b/c', 'd'); os.symlink('d', 'e'); os.rename('d', 'f'); os.chmod('f', 0o600)\n"
        "os.utime('f', (1, 2)); shutil.copytree('a', 'g')\n"
        "os.truncate('f', 5); print(sorted(os.listdir('.')), os.stat('f').st_mtime > 2)\n"
        "shutil.rmtree('a')\n",
        b"['a', 'e', 'f', 'g'] True\n",
    ),
}


def fine(result: Result) -> bytes:
    """What it printed, if it ended well and said nothing else."""
    assert result.verdict is Verdict.OK, (result.verdict, result.message, result.stderr[-2000:])
    return result.stdout


@pytest.mark.parametrize("what", PYTHON)
async def test_python_runs(open_jail: OpenJail, what: str) -> None:
    source, output = PYTHON[what]
    async with open_jail() as j:
        await j.put("main.py", source)
        assert fine(await j.run(["python3", "main.py"])) == output


async def test_numpy_computes_on_all_its_threads(open_jail: OpenJail) -> None:
    if not _system_numpy():
        require("python3-numpy")
    source = (
        "import numpy as np\n"
        "rng = np.random.default_rng(1)\n"
        "a = rng.random((300, 300))\n"
        "u, s, v = np.linalg.svd(a)\n"
        "assert np.allclose(u * s @ v, a)\n"
        "np.save('/tmp/a.npy', a)\n"
        "print(float(np.abs(np.load('/tmp/a.npy', mmap_mode='r') - a).max()))\n"
    )
    async with open_jail() as j:
        assert fine(await j.run(["/usr/bin/python3", "-c", source])) == b"0.0\n"


def _system_numpy() -> bool:
    command = ["/usr/bin/python3", "-c", "import numpy"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(
    ("compiler", "name", "source", "output"),
    [("gcc", "a.c", C, b"42\n"), ("g++", "a.cc", CPP, b"123\n")],
)
async def test_a_compiler_s_program_runs(
    open_jail: OpenJail, compiler: str, name: str, source: str, output: bytes
) -> None:
    require(compiler)
    async with open_jail() as j:
        await j.put(name, source)
        fine(await j.run([compiler, "-O2", "-pipe", "-Wall", "-o", "a", name, "-pthread"]))
        assert fine(await j.run(["./a"])) == output


async def test_make_builds(open_jail: OpenJail) -> None:
    require("gcc")
    require("make")
    async with open_jail() as j:
        await j.put("a.c", C)
        await j.put("Makefile", "LDLIBS=-pthread\nall: a\n\t./a > out; touch -d 2001-01-01 out\n")
        fine(await j.run(["make", "-j3"]))
        assert await j.get("out") == b"42\n"


async def test_node_runs(open_jail: OpenJail) -> None:
    """SC-08: libuv asks for io_uring at start, and is told that there is none."""
    require("node")
    async with open_jail() as j:
        await j.put("main.js", NODE)
        assert fine(await j.run(["node", "main.js"])) == b"written 42\n"


async def test_java_compiles_and_runs(supervisor: Supervisor) -> None:
    require("java")
    async with supervisor.open_jail() as j:
        await j.put("Main.java", JAVA)
        assert fine(await j.run(["java", "Main.java"])) == b"true 499500\n"


async def test_a_shell_s_pipeline_runs(open_jail: OpenJail) -> None:
    script = "set -e; seq 1000 | sort -rn | head -3 | tee t | wc -l; tar c t | tar t; date -r t +x"
    async with open_jail() as j:
        assert fine(await j.run(["sh", "-c", script])) == b"3\nt\nx\n"


async def test_a_program_opens_its_streams_by_name(open_jail: OpenJail) -> None:
    script = "echo out > /dev/stdout; echo err > /proc/self/fd/2; cat /dev/stdin | tee /dev/stderr"
    async with open_jail() as j:
        result = await j.run(["sh", "-c", script], input=b"in\n")
        assert fine(result) == b"out\nin\n"
        assert result.stderr == b"err\nin\n"
        assert fine(await j.run(["sh", "-c", "cat /dev/stdin; echo end"])) == b"end\n"


async def test_busybox_is_a_system_of_its_own(open_jail: OpenJail, rootfs: Path) -> None:
    script = (
        "set -e; cd /work; for n in 1 2 3; do echo line $n; done > f; sed -n 2p f;"
        "awk '{s+=$2} END {print s}' f; tar czf f.tgz f; tar tzf f.tgz;"
        "find /work -name f; (sleep 0.01 & wait); id -u; ps | wc -l"
    )
    async with open_jail(rootfs=rootfs) as j:
        lines = fine(await j.run(["sh", "-c", script])).split()
    assert lines[:5] == [b"line", b"2", b"6", b"f", b"/work/f"]
