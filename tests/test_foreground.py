"""``jail run`` in somebody's hands: signals, closed pipes, terminals; nothing stays behind."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import subprocess
import termios
import time

import pytest

from tests.command import JAIL, PATIENCE_S, open_terminal, start_jail
from tests.sight import find_marked

DEAF = "trap '' HUP INT QUIT TERM; echo ready; while :; do sleep 0.05; done; : {}"
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def wait_until_gone(marker: str) -> None:
    deadline = time.monotonic() + 5
    while find_marked(marker):
        assert time.monotonic() < deadline, "it is still there"
        time.sleep(0.01)


@pytest.fixture
def marker() -> str:
    return f"marker-{os.urandom(8).hex()}"


@pytest.mark.parametrize("number", ENDING)
def test_an_ending_signal_ends_even_a_deaf_program_at_once(
    number: signal.Signals, marker: str
) -> None:
    with start_jail("--", "sh", "-c", DEAF.format(marker), stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        began = time.monotonic()
        process.send_signal(number)
        assert process.wait(PATIENCE_S) == 128 + number
        assert time.monotonic() - began < 3
        assert process.stderr is not None
        assert process.stderr.read() == f"jail: interrupted by {number.name}\n".encode()
    wait_until_gone(marker)


def test_a_second_signal_changes_nothing(marker: str) -> None:
    with start_jail("--", "sh", "-c", DEAF.format(marker)) as process:
        assert process.stdout is not None
        process.stdout.readline()
        for _ in range(20):
            process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 130
    wait_until_gone(marker)


@pytest.mark.parametrize("milliseconds", range(0, 400, 25))
def test_control_c_at_any_moment_leaves_nothing(milliseconds: int, marker: str) -> None:
    command = ["sh", "-c", f"sleep 0.05; : {marker}"]
    with start_jail("--", *command, stderr=subprocess.PIPE) as process:
        try:
            process.wait(milliseconds / 1000)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
        status = process.wait(PATIENCE_S)
        assert process.stderr is not None
        # Before any code of ours runs, the interpreter itself makes 1 of it.
        assert status in (0, 130, -signal.SIGINT) or b"init_import_site" in process.stderr.read()
    wait_until_gone(marker)


def test_an_ignored_hangup_stays_ignored() -> None:
    """As nohup(1) wants it."""
    words = ("--", "sh", "-c", "echo ready; read x; echo done")
    command = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh"]
    with subprocess.Popen(
        [*command, *JAIL, "run", "-i", *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGHUP)
        out, _ = process.communicate(b"\n", timeout=PATIENCE_S)
        assert (out, process.returncode) == (b"done\n", 0)


# -- pipes ----------------------------------------------------------------------------------------


def test_a_reader_that_goes_ends_a_writer(marker: str) -> None:
    with start_jail("--", "sh", "-c", f"yes; : {marker}") as process:
        assert process.stdout is not None
        assert process.stdout.read(4) == b"y\ny\n"
        process.stdout.close()
        assert process.wait(PATIENCE_S) == 128 + signal.SIGPIPE
    wait_until_gone(marker)


def test_a_reader_that_goes_ends_a_silent_program_too(marker: str) -> None:
    with start_jail("--", "sh", "-c", f"echo ready; sleep 60; : {marker}") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(PATIENCE_S) == 128 + signal.SIGPIPE
    wait_until_gone(marker)


def test_a_slow_reader_gets_everything_and_our_own_streams_stay_blocking() -> None:
    reader, writer = os.pipe()
    with start_jail("--", "head", "-c", "1000000", "/dev/zero", stdout=writer) as process:
        flags = fcntl.fcntl(writer, fcntl.F_GETFL)
        os.close(writer)
        size = 0
        while data := os.read(reader, 10_000):
            size += len(data)
        assert process.wait(PATIENCE_S) == 0
    os.close(reader)
    assert (size, flags & os.O_NONBLOCK) == (1_000_000, 0)


# -- terminals ------------------------------------------------------------------------------------


def test_a_program_gets_a_terminal_of_the_jail_s_own() -> None:
    script = "tty; test -t 0 && test -t 1 && test -t 2 && echo all; stty size; read x; echo got:$x"
    with open_terminal("-i", "-t", "--", "sh", "-c", script) as terminal:
        assert b"/dev/pts/0" in terminal.read_until(b"all")
        terminal.type(b"hello\r")
        text = terminal.read_until(b"got:hello")
        assert terminal.wait() == 0
    assert b"24 80" in text, "the size of ours"


def test_a_new_size_reaches_the_program() -> None:
    script = "trap 'stty size' WINCH; echo ready; while :; do sleep 0.02; done"
    with open_terminal("-i", "-t", "--", "sh", "-c", script) as terminal:
        terminal.read_until(b"ready")
        fcntl.ioctl(terminal.master, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 99, 0, 0))
        terminal.read_until(b"33 99")


def test_control_c_on_a_terminal_is_the_program_s_to_take() -> None:
    script = "trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 0.02; done"
    with open_terminal("-i", "-t", "--", "sh", "-c", script) as terminal:
        terminal.read_until(b"ready")
        terminal.type(b"\x03")
        terminal.read_until(b"caught")
        assert terminal.wait() == 5


def test_without_a_terminal_of_its_own_control_c_ends_the_jail(marker: str) -> None:
    with open_terminal("--", "sh", "-c", DEAF.format(marker)) as terminal:
        terminal.read_until(b"ready")
        terminal.type(b"\x03")
        assert terminal.wait() == 130
    wait_until_gone(marker)


@pytest.mark.parametrize("words", [(), ("-i", "-t"), ("-t",)])
def test_a_closed_terminal_ends_the_jail(words: tuple[str, ...], marker: str) -> None:
    with open_terminal(*words, "--", "sh", "-c", DEAF.format(marker)) as terminal:
        terminal.read_until(b"ready")
        os.close(terminal.master)
        terminal.master = -1
        assert terminal.wait() == 128 + signal.SIGHUP
    wait_until_gone(marker)


def test_the_terminal_is_put_back_as_it_was() -> None:
    with open_terminal("-i", "-t", "--", "true") as terminal:
        before = termios.tcgetattr(terminal.master)
        terminal.read_to_end()
        after = termios.tcgetattr(terminal.master)
        assert terminal.wait() == 0
    assert before[:4] == after[:4]


def test_nothing_typed_by_the_program_reaches_our_own_terminal() -> None:
    """TY-01 (CVE-2017-5226): TIOCSTI on every descriptor and on /dev/tty, with and without -t."""
    push = (
        "import fcntl,termios,os\n"
        "fds=[0,1,2]\n"
        "try: fds.append(os.open('/dev/tty',os.O_RDWR))\n"
        "except OSError: pass\n"
        "for fd in fds:\n"
        "  for c in b'echo pwned':\n"
        "    try: fcntl.ioctl(fd, termios.TIOCSTI, bytes([c])); print('pushed')\n"
        "    except OSError: pass\n"
        "print('tried')"
    )
    for words in ((), ("-i", "-t")):
        with open_terminal(*words, "--", "python3", "-c", push) as terminal:
            text = terminal.read_until(b"tried")
            assert terminal.wait() == 0
            waiting = struct.unpack("i", fcntl.ioctl(terminal.master, termios.TIOCOUTQ, b"\0" * 4))
        assert (b"pushed" in text, b"pwned" in text, waiting) == (False, False, (0,))
