"""What the programs are made of, language by language."""

from __future__ import annotations

from typing import Final

C: Final = r"""
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
static volatile sig_atomic_t rang;
static void ring(int number) { rang = number == SIGALRM; }
static void *square(void *n) { return (void *)((long)n * (long)n); }
int main(void) {
    pthread_t threads[8];
    long sum = 0;
    for (long n = 0; n < 8; n++) pthread_create(&threads[n], NULL, square, (void *)n);
    for (long n = 0; n < 8; n++) {
        void *answer;
        pthread_join(threads[n], &answer);
        sum += (long)answer;
    }
    signal(SIGALRM, ring);
    ualarm(1000, 0);
    pause();
    char name[] = "XXXXXX", text[9] = "";
    int fd = mkstemp(name);
    if (write(fd, "written", 7) != 7 || pread(fd, text, 8, 0) != 7 || rename(name, "out.txt")) return 1;
    void *big = mmap(NULL, 1 << 24, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (big == MAP_FAILED || madvise(big, 1 << 24, MADV_HUGEPAGE) * errno > EINVAL) return 2;
    printf("%ld %s %d\n", sum, text, rang);
    return 0;
}
"""
CPP: Final = r"""
#include <chrono>
#include <filesystem>
#include <fstream>
#include <future>
#include <iostream>
#include <map>
#include <numeric>
#include <vector>
int main() {
    std::vector<std::future<int>> answers;
    for (int n = 0; n < 8; n++) answers.push_back(std::async(std::launch::async, [n] { return n * n; }));
    int sum = 0;
    for (auto &each : answers) sum += each.get();
    std::ofstream("out.txt") << "written";
    try { std::map<std::string, int>().at("nothing"); }
    catch (const std::out_of_range &) { std::cout << sum << ' '; }
    std::cout << std::filesystem::file_size("out.txt") << std::endl;
}
"""
GO: Final = r"""
package main

import (
    "fmt"
    "net"
    "os"
    "os/exec"
    "sync"
    "time"
)

func main() {
    if len(os.Args) > 1 {
        talk()
        return
    }
    var group sync.WaitGroup
    squares := make(chan int, 8)
    for n := 0; n < 8; n++ {
        group.Add(1)
        go func(n int) {
            defer group.Done()
            time.Sleep(time.Millisecond)
            squares <- n * n
        }(n)
    }
    group.Wait()
    close(squares)
    sum := 0
    for each := range squares {
        sum += each
    }
    if err := os.WriteFile("out.txt", []byte("written"), 0o644); err != nil {
        panic(err)
    }
    text, _ := os.ReadFile("out.txt")
    fmt.Println(sum, string(text))
}

func talk() {
    listener, err := net.Listen("tcp", "127.0.0.1:0")
    if err != nil {
        panic(err)
    }
    go func() {
        one, _ := listener.Accept()
        heard, _ := exec.Command("echo", "-n", "over lo").Output()
        one.Write(heard)
        one.Close()
    }()
    one, err := net.Dial("tcp", listener.Addr().String())
    if err != nil {
        panic(err)
    }
    buffer := make([]byte, 99)
    count, _ := one.Read(buffer)
    fmt.Println(string(buffer[:count]))
}
"""
RUST: Final = r"""
use std::io::{Read, Write};
use std::{env, fs, net, process, sync::mpsc, thread};

fn main() {
    if env::args().count() > 1 {
        return talk();
    }
    let (sender, receiver) = mpsc::channel();
    for n in 0..8 {
        let sender = sender.clone();
        thread::spawn(move || sender.send(n * n).unwrap());
    }
    drop(sender);
    fs::write("out.txt", "written").unwrap();
    println!("{} {}", receiver.iter().sum::<i32>(), fs::read_to_string("out.txt").unwrap());
}

fn talk() {
    let listener = net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let heard = process::Command::new("echo").arg("-n").arg("over lo").output().unwrap();
        listener.accept().unwrap().0.write_all(&heard.stdout).unwrap();
    });
    let mut heard = String::new();
    net::TcpStream::connect(address).unwrap().read_to_string(&mut heard).unwrap();
    println!("{}", heard);
}
"""
JAVA: Final = r"""
import java.io.*;
import java.net.*;
import java.nio.file.*;
import java.util.stream.*;
public class Main {
    public static void main(String[] args) throws Exception {
        if (args.length == 0) compute();
        else if (args[0].equals("process")) start();
        else talk();
    }
    static void compute() throws Exception {
        Path file = Files.writeString(Path.of("out.txt"), "written");
        int sum = IntStream.range(0, 8).parallel().map(n -> n * n).sum();
        Thread thread = new Thread(() -> System.out.print(Files.exists(file) + " "));
        thread.start();
        thread.join();
        System.gc();
        System.out.println(sum);
    }
    static void start() throws Exception {
        Process echo = new ProcessBuilder("echo", "from a process").start();
        System.out.print(new String(echo.getInputStream().readAllBytes()));
    }
    static void talk() throws Exception {
        try (ServerSocket server = new ServerSocket(0, 1, InetAddress.getLoopbackAddress())) {
            new Thread(() -> {
                try (Socket one = server.accept()) { one.getOutputStream().write("over lo\n".getBytes()); }
                catch (IOException error) { error.printStackTrace(); }
            }).start();
            Socket one = new Socket(server.getInetAddress(), server.getLocalPort());
            System.out.print(new String(one.getInputStream().readAllBytes()));
        }
    }
}
"""
NODE: Final = r"""
const fs = require('fs'), {Worker} = require('worker_threads'), zlib = require('zlib');
fs.promises.writeFile('out.txt', 'written').then(async () => {
  const text = await fs.promises.readFile('out.txt', 'utf8');
  zlib.gzip(text, (_, z) => zlib.gunzip(z, (_, back) => {
    const source = "require('worker_threads').parentPort.postMessage(6 * 7)";
    new Worker(source, {eval: true}).on('message', n => console.log(String(back), n));
  }));
});
"""
NODE_PROCESS: Final = r"""
const {fork, execFileSync} = require('child_process'), net = require('net');
if (process.send) process.on('message', n => { process.send(n * n); process.disconnect(); });
else {
  const child = fork(__filename);
  child.on('message', n => {
    const server = net.createServer(one => one.end('over a path')).listen('/tmp/socket', () =>
      net.connect('/tmp/socket').on('data', text => {
        console.log(n, String(text), String(execFileSync('echo', ['run'])).trim());
        server.close();
      }));
  });
  child.send(6);
}
"""
NODE_HTTP: Final = r"""
const http = require('http');
const server = http.createServer((ask, answer) => answer.end('asked for ' + ask.url));
server.listen(0, '127.0.0.1', () =>
  http.get({port: server.address().port, host: '127.0.0.1', path: '/x'}, answer =>
    answer.on('data', text => { console.log(String(text)); server.close(); server.closeAllConnections(); })));
"""
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
