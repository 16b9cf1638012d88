"""Programs in Python; those in other languages are in ``source/``."""

from __future__ import annotations

from typing import Final

PYTHON: Final = r"""
import asyncio, os, tempfile, threading

async def wake():
    pipe = os.pipe()
    heard = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().add_reader(pipe[0], lambda: heard.set_result(os.read(pipe[0], 9)))
    await asyncio.to_thread(os.write, pipe[1], b"awake")
    return (await heard).decode()

squares = []
threads = [threading.Thread(target=lambda n=n: squares.append(n * n)) for n in range(8)]
[each.start() for each in threads]
[each.join() for each in threads]
with tempfile.NamedTemporaryFile() as file:
    file.write(b"written")
    file.flush()
    print(sum(squares), os.stat(file.name).st_size, asyncio.run(wake()))
"""
PYTHON_PROCESSES: Final = r"""
import multiprocessing, socket, subprocess
from multiprocessing import shared_memory

def square(n):
    return n * n

if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        squares = pool.map(square, range(8))
    a = shared_memory.SharedMemory(create=True, size=100)
    b = shared_memory.SharedMemory(a.name)
    a.buf[3] = 7
    seen = b.buf[3]
    b.close(), a.close(), a.unlink()
    server = socket.socket(socket.AF_UNIX)
    server.bind("/tmp/socket")
    server.listen()
    client = socket.socket(socket.AF_UNIX)
    client.connect("/tmp/socket")
    server.accept()[0].sendall(b"over a path")
    said = client.recv(99).decode()
    print(sum(squares), seen, said, subprocess.check_output(["echo", "run"], text=True).strip())
"""
PYTHON_HTTP: Final = r"""
import http.client, http.server, threading

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"asked for {self.path}".encode())
    def log_message(self, *words):
        pass

server = http.server.ThreadingHTTPServer(("localhost", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = http.client.HTTPConnection("localhost", server.server_port)
client.request("GET", "/x")
print(client.getresponse().read().decode())
"""
NUMPY: Final = r"""
import numpy as np
rng = np.random.default_rng(1)
a = rng.random((300, 300))
u, s, v = np.linalg.svd(a)
assert np.allclose(u * s @ v, a)
np.save("/tmp/a.npy", a)
print(float(np.abs(np.load("/tmp/a.npy", mmap_mode="r") - a).max()))
"""
PYTHON_PAIR: Final = r"""
import os, socket
a, b = socket.socketpair()
r, w = os.pipe()
socket.send_fds(a, [b"here"], [w])
said, descriptors, _, _ = socket.recv_fds(b, 99, 1)
os.write(descriptors[0], said)
print(os.read(r, 99).decode())
"""
MPTCP: Final = r"""
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_MPTCP)
server.bind(("127.0.0.1", 0))
server.listen()
client = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_MPTCP)
client.connect(server.getsockname())
server.accept()[0].sendall(b"over two ways")
print(client.recv(99).decode())
"""
