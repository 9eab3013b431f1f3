"""Attempts to break out of a box, one for each mechanism that a machine may lack. Runs in the box.

Run as `python -I -S -c SOURCE BAIT`, where BAIT is JSON that names what lies outside of the box. Each attempt
is a function that returns whether it got out; an attempt with an effect outside alone returns False, and
`probe` looks there. The result is a line of JSON. Their docstrings say what holds in a box.

The tests try 44 more, which vary these: `tests/support/break_outs.py`.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import platform
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

Bait = Mapping[str, Any]
Attempt = Callable[[Bait], bool]
_SECONDS = 5
_OUTSIDE_SECONDS = 60
"""How long a process lives that got out of what is no box."""
NEW_USER, _NEW_NET = 0x1000_0000, 0x4000_0000
libc = ctypes.CDLL(None, use_errno=True)


class _CallNumbers(NamedTuple):
    clone: int
    add_key: int
    shmget: int
    userfaultfd: int
    perf_event_open: int
    bpf: int
    open_by_handle_at: int
    process_vm_readv: int


_NUMBERS = {
    "x86_64": _CallNumbers(56, 248, 29, 323, 298, 321, 304, 310),
    "aarch64": _CallNumbers(220, 217, 194, 282, 241, 280, 265, 270),
}
CALLS = _NUMBERS.get(platform.machine(), _NUMBERS["x86_64"])


def read_outside(bait: Bait) -> bool:
    """Files outside are out of sight."""
    return reads(bait["secret"], bait)


def write_outside(bait: Bait) -> bool:
    """Folders outside take no files."""
    with open(f"{bait['folder']}/written", "w") as file:
        file.write("out")
    return False


def change_modes_of_what_it_reads(bait: Bait) -> bool:
    """Landlock does not guard modes; the filter of system calls does."""
    with open(bait["readable"]) as file:
        os.fchmod(file.fileno(), 0o777)
    return False


def write_to_the_system(bait: Bait) -> bool:
    """The system's folders are read-only, also for root."""
    for folder in ("/usr", "/etc", "/usr/bin", os.path.dirname(os.path.realpath(sys.executable))):
        path = f"{folder}/meshwright-attempt"
        with suppress(OSError), open(path, "w"):
            os.unlink(path)
            return True
    return False


def read_environments(bait: Bait) -> bool:
    """The box has a /proc of its own, or none."""
    return sees_marker("environ", bait)


def read_memory_of_others(bait: Bait) -> bool:
    """No other process can be traced."""
    there = ctypes.create_string_buffer(16)
    pair = (ctypes.c_size_t * 2)(ctypes.addressof(there), 0)
    count = libc.syscall(CALLS.process_vm_readv, bait["process"], pair, 1, pair, 1, 0)
    with suppress(OSError):
        os.close(os.open(f"/proc/{bait['process']}/mem", os.O_RDONLY))
        return True
    return count >= 0


def outlive_the_box(bait: Bait) -> bool:
    """All processes of the box end with its program."""
    reading, writing = os.pipe()
    if not os.fork():
        os.setsid()
        if not os.fork():
            signal.alarm(_OUTSIDE_SECONDS)
            lock = os.open("lock", os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX)
            os.write(writing, b"locked")
            os.closerange(0, 3)
            while True:
                signal.pause()
        os._exit(0)
    os.close(writing)
    os.read(reading, 6)
    return False


def connect_by_tcp(bait: Bait) -> bool:
    """The box has a network of its own, or none."""
    with socket.create_connection(("127.0.0.1", bait["tcp"]), 2) as connection:
        connection.sendall(b"connect_by_tcp\n")
    return False


def connect_by_an_abstract_socket(bait: Bait) -> bool:
    """Abstract sockets belong to the network; Landlock has scopes for them."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect("\0" + bait["abstract"])
        connection.sendall(b"connect_by_an_abstract_socket\n")
    return False


def connect_by_a_socket_file(bait: Bait) -> bool:
    """A socket file outside takes no connection."""
    here = os.getcwd()
    os.chdir(bait["folder"])  # its path may be longer than addresses are
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect("socket")
            connection.sendall(b"connect_by_a_socket_file\n")
    finally:
        os.chdir(here)
    return False


def make_namespaces(bait: Bait) -> bool:
    """No user namespace gives capabilities back."""
    return any(libc.unshare(flag) == 0 for flag in (NEW_USER, _NEW_NET))


def load_into_the_kernel(bait: Bait) -> bool:
    """The filter of system calls is in force."""
    return is_reachable(CALLS.bpf, 0, None, 0)


def use_capabilities(bait: Bait) -> bool:
    """The program has no capabilities, also as root."""
    header = (ctypes.c_uint32 * 2)(0x2008_0522, 0)
    data = (ctypes.c_uint32 * 6)()
    return libc.capget(header, data) != 0 or any(data)


def kill_others(bait: Bait) -> bool:
    """Signals do not leave the box."""
    os.kill(bait["victim"], signal.SIGKILL)
    return False


ATTEMPTS: tuple[Attempt, ...] = (
    *(read_outside, write_outside, change_modes_of_what_it_reads, write_to_the_system),
    *(read_environments, read_memory_of_others, outlive_the_box),
    *(connect_by_tcp, connect_by_an_abstract_socket, connect_by_a_socket_file),
    *(make_namespaces, load_into_the_kernel, use_capabilities),
    kill_others,  # last: its victim is bait of others
)
NAMES = tuple(attempt.__name__ for attempt in ATTEMPTS)


def main(bait: str, attempts: Sequence[Attempt] = ATTEMPTS) -> None:
    """Make every attempt, each in a process of its own, and print the names of attempts that got out."""
    content = json.loads(bait)
    names = [attempt.__name__ for attempt in attempts if _gets_out(attempt, content)]
    sys.stdout.write(json.dumps(names))


def _gets_out(attempt: Attempt, bait: Bait) -> bool:
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 1
    signal.alarm(_SECONDS)
    try:
        os._exit(attempt(bait))
    except BaseException:  # noqa: BLE001 - whatever stops an attempt, it did not get out
        os._exit(0)


def reads(path: str, bait: Bait) -> bool:
    """Whether the secret can be read at a path. Raises OSError."""
    with open(path) as file:
        return bait["marker"] in file.read()


def sees_marker(name: str, bait: Bait) -> bool:
    """Whether a file of any process in /proc ends with the marker."""
    for process in filter(str.isdigit, os.listdir("/proc")):
        # Our own command line names the bait too, as the last argument of a Python.
        with suppress(OSError), open(f"/proc/{process}/{name}", "rb") as file:
            if file.read().rstrip(b"\0").endswith(f"bait={bait['marker']}".encode()):
                return True
    return False


def is_reachable(call: int, *arguments: int | None) -> bool:
    """Whether the kernel looks at the arguments, which are no good ones."""
    return libc.syscall(call, *arguments) >= 0 or ctypes.get_errno() not in (1, 38, 13)


if __name__ == "__main__":
    main(sys.argv[-1])
