"""Attempts to break out of a box, each a function that returns whether it got out. Runs in the box.

Run as `python -I -S -c SOURCE BAIT`, where BAIT is JSON that names what lies outside of the box. Attempts
that show their effect outside alone return False, and `probe` looks there. The result is a line of JSON.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import platform
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

_SECONDS = 5
_OUTSIDE_SECONDS = 60
"""How long a process lives that got out of what is no box."""
_KNOWN = ("PATH", "HOME", "TMPDIR", "LANG", "LC_CTYPE", "PWD", "GIT_CONFIG_NOSYSTEM")
_FOLDERS = ("/", "/dev", "/dev/shm", "/run", "/tmp", "/var/tmp", "/etc", "/usr")
_NEW_USER, _NEW_NET = 0x1000_0000, 0x4000_0000
_X32 = 0x4000_0000
_MEGABYTE = bytes(1024 * 1024)
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_SET_IDS = 0o6755
_libc = ctypes.CDLL(None, use_errno=True)


class _Calls(NamedTuple):
    clone: int
    add_key: int
    shmget: int
    userfaultfd: int
    perf_event_open: int
    bpf: int
    open_by_handle_at: int
    process_vm_readv: int


_CALLS = {
    "x86_64": _Calls(56, 248, 29, 323, 298, 321, 304, 310),
    "aarch64": _Calls(220, 217, 194, 282, 241, 280, 265, 270),
}
_calls = _CALLS.get(platform.machine(), _CALLS["x86_64"])
_bait: dict[str, Any] = {}


def _read_outside() -> bool:
    return _reads(_bait["secret"])


def _read_by_parent_folder() -> bool:
    return _reads("../secret")


def _read_through_a_link() -> bool:
    os.symlink(_bait["secret"], "link-to-read")
    return _reads("link-to-read")


def _read_through_a_hard_link() -> bool:
    os.link(_bait["secret"], "hard-link")
    return _reads("hard-link")


def _list_outside() -> bool:
    return "secret" in os.listdir(_bait["folder"])


def _write_outside() -> bool:
    with open(f"{_bait['folder']}/written", "w") as file:
        file.write("out")
    return False


def _write_through_a_link() -> bool:
    os.symlink(f"{_bait['folder']}/linked", "link-to-write")
    with open("link-to-write", "w") as file:
        file.write("out")
    return False


def _move_out() -> bool:
    with open("moved", "w") as file:
        file.write("out")
    os.rename("moved", f"{_bait['folder']}/moved")
    return False


def _truncate_outside() -> bool:
    os.truncate(_bait["secret"], 0)
    return False


def _delete_outside() -> bool:
    os.unlink(f"{_bait['folder']}/deletable")
    return False


def _change_modes_outside() -> bool:
    os.chmod(_bait["secret"], 0o777)
    return False


def _change_modes_of_what_it_reads() -> bool:
    with open(_bait["readable"]) as file:
        os.fchmod(file.fileno(), 0o777)
    return False


def _change_times_of_what_it_reads() -> bool:
    os.utime(_bait["readable"], (1, 1))
    return False


def _change_what_started_it() -> bool:
    return _changes("/proc/1/exe")


def _change_devices() -> bool:
    return any(_changes(f"/dev/{name}") for name in _DEVICES)


def _change_its_input() -> bool:
    return _changes(0)


def _make_setuid_programs() -> bool:
    how = (ctypes.c_uint64 * 3)(os.O_CREAT, _SET_IDS)
    os.close(os.open("changed", os.O_CREAT, 0o755))
    ways: tuple[Callable[[], object], ...] = (
        lambda: os.open("opened", os.O_CREAT, _SET_IDS),
        lambda: _libc.syscall(437, -100, b"opened-2", how, ctypes.sizeof(how)),  # openat2
        lambda: os.mknod("node", _SET_IDS),
        lambda: os.chmod("changed", _SET_IDS),
        lambda: os.fchmod(os.open("changed", os.O_RDONLY), _SET_IDS),
        lambda: _libc.syscall(452, -100, b"changed", _SET_IDS, 0),  # fchmodat2
    )
    for way in ways:
        with suppress(OSError):
            way()
    programs = [entry for entry in os.scandir() if entry.stat(follow_symlinks=False).st_mode & 0o6000]
    for entry in programs:
        os.unlink(entry)
    return bool(programs)


def _watch_the_machine() -> bool:
    with suppress(OSError):
        fcntl.fcntl(os.open("/usr", os.O_RDONLY), fcntl.F_NOTIFY, 1)
        return True
    return _libc.inotify_add_watch(_libc.inotify_init(), b"/usr", 1) >= 0


def _hold_up_who_opens_a_file() -> bool:
    fcntl.fcntl(os.open(_bait["readable"], os.O_RDONLY), fcntl.F_SETLEASE, fcntl.F_RDLCK)
    return True


def _write_what_it_reads() -> bool:
    with open(_bait["readable"], "a") as file:
        file.write("out")
    return False


def _write_to_the_system() -> bool:
    for folder in ("/usr", "/etc", "/usr/bin", os.path.dirname(os.path.realpath(sys.executable))):
        path = f"{folder}/meshwright-attempt"
        with suppress(OSError), open(path, "w"):
            os.unlink(path)
            return True
    return False


def _fill_memory_by_files() -> bool:
    return any(_fills(f"{folder}/meshwright-fill", 3 * _bait["file_mb"]) for folder in _FOLDERS)


def _write_a_larger_file() -> bool:
    return _fills("large", 2 * _bait["file_mb"], pieces=1)


def _read_settings_of_the_kernel() -> bool:
    for path in ("/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/sys/kernel/uevent_helper"):
        with suppress(OSError):
            os.close(os.open(path, os.O_WRONLY))
            return True
    return False


def _read_environments() -> bool:
    return _finds("environ")


def _read_command_lines() -> bool:
    return _finds("cmdline")


def _read_memory_of_others() -> bool:
    there = ctypes.create_string_buffer(16)
    pair = (ctypes.c_size_t * 2)(ctypes.addressof(there), 0)
    read = _libc.syscall(_calls.process_vm_readv, _bait["process"], pair, 1, pair, 1, 0)
    with suppress(OSError):
        os.close(os.open(f"/proc/{_bait['process']}/mem", os.O_RDONLY))
        return True
    return read >= 0


def _trace_others() -> bool:
    return _libc.ptrace(0x4206, _bait["process"], None, None) == 0  # PTRACE_SEIZE


def _kill_others() -> bool:
    os.kill(_bait["victim"], signal.SIGKILL)
    return False


def _limit_others() -> bool:
    resource.prlimit(_bait["process"], resource.RLIMIT_NOFILE, (17, 17))
    return False


def _slow_others() -> bool:
    os.setpriority(os.PRIO_PROCESS, _bait["process"], 19)
    return False


def _pin_others() -> bool:
    os.sched_setaffinity(_bait["process"], {min(os.sched_getaffinity(0))})
    return False


def _outlive_the_box() -> bool:
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


def _connect_by_tcp() -> bool:
    with socket.create_connection(("127.0.0.1", _bait["tcp"]), 2) as connection:
        connection.sendall(b"connect_by_tcp\n")
    return False


def _send_by_udp() -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"send_by_udp\n", ("127.0.0.1", _bait["udp"]))
    return False


def _connect_by_an_abstract_socket() -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect("\0" + _bait["abstract"])
        connection.sendall(b"connect_by_an_abstract_socket\n")
    return False


def _connect_by_a_socket_file() -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(f"{_bait['folder']}/socket")
        connection.sendall(b"connect_by_a_socket_file\n")
    return False


def _send_by_a_pair_of_sockets() -> bool:
    for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW):
        with suppress(OSError):
            socket.socketpair(socket.AF_UNIX, kind)[0].sendto(
                b"send_by_a_pair_of_sockets\n", f"{_bait['folder']}/datagrams"
            )
    return False


def _send_packets() -> bool:
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()
    return True


def _reach_the_hypervisor() -> bool:
    socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).close()
    return True


def _make_namespaces() -> bool:
    return any(_libc.unshare(flag) == 0 for flag in (_NEW_USER, _NEW_NET))


def _make_namespaces_by_clone() -> bool:
    process = _libc.syscall(_calls.clone, _NEW_USER | signal.SIGCHLD, 0, 0, 0, 0)
    if process == 0:
        os._exit(0)
    return process > 0


def _mount() -> bool:
    mounted = _libc.mount(b"none", os.getcwdb(), b"tmpfs", 0, None) == 0
    return mounted and _libc.umount2(os.getcwdb(), 2) == 0


def _change_root() -> bool:
    os.chroot(".")
    return True


def _make_a_device() -> bool:
    os.mknod("device", 0o600 | 0o060000, os.makedev(8, 0))
    os.unlink("device")
    return True


def _open_by_handle() -> bool:
    return _is_reachable(_calls.open_by_handle_at, -1, None, 0)


def _load_into_the_kernel() -> bool:
    return _is_reachable(_calls.bpf, 0, None, 0)


def _measure_others() -> bool:
    return _is_reachable(_calls.perf_event_open, None, _bait["process"], -1, -1, 0)


def _hold_up_the_kernel() -> bool:
    return _libc.syscall(_calls.userfaultfd, 1) >= 0


def _use_rings() -> bool:
    return _libc.syscall(425, 1, ctypes.create_string_buffer(256)) >= 0


def _keep_keys() -> bool:
    return _libc.syscall(_calls.add_key, b"user", b"meshwright", b"x", 1, -2) >= 0


def _share_memory() -> bool:
    segment = _libc.syscall(_calls.shmget, 0, 4096, 0o600)
    if segment >= 0:
        _libc.shmctl(segment, 0, None)
    return segment >= 0


def _use_another_abi() -> bool:
    return platform.machine() == "x86_64" and _libc.syscall(_X32 | 39) > 0  # getpid


def _gain_privileges() -> bool:
    return _libc.prctl(39, 0, 0, 0, 0) != 1  # PR_GET_NO_NEW_PRIVS


def _use_capabilities() -> bool:
    header = (ctypes.c_uint32 * 2)(0x2008_0522, 0)
    data = (ctypes.c_uint32 * 6)()
    return _libc.capget(header, data) != 0 or any(data)


def _use_a_terminal() -> bool:
    os.close(os.open("/dev/tty", os.O_RDWR))
    return True


def _use_inherited_files() -> bool:
    return bool(_bait["inherited"])


def _read_variables_of_the_mesh() -> bool:
    return not os.environ.keys() <= {*_KNOWN}


_ATTEMPTS: tuple[Callable[[], bool], ...] = (
    *(_read_outside, _read_by_parent_folder, _read_through_a_link, _read_through_a_hard_link, _list_outside),
    *(_write_outside, _write_through_a_link, _move_out, _truncate_outside, _delete_outside),
    *(_change_modes_outside, _change_modes_of_what_it_reads, _change_what_started_it, _change_its_input),
    *(_change_devices, _make_setuid_programs, _watch_the_machine, _hold_up_who_opens_a_file),
    _write_what_it_reads,
    *(_change_times_of_what_it_reads, _write_to_the_system, _fill_memory_by_files, _write_a_larger_file),
    *(_read_settings_of_the_kernel, _read_environments, _read_command_lines, _read_memory_of_others),
    *(
        _trace_others,
        _limit_others,
        _slow_others,
        _pin_others,
        _outlive_the_box,
        _connect_by_tcp,
        _send_by_udp,
    ),
    *(_connect_by_an_abstract_socket, _connect_by_a_socket_file, _send_by_a_pair_of_sockets),
    *(_send_packets, _reach_the_hypervisor),
    *(_make_namespaces, _make_namespaces_by_clone, _mount, _change_root, _make_a_device, _open_by_handle),
    *(_load_into_the_kernel, _measure_others, _hold_up_the_kernel, _use_rings, _keep_keys, _share_memory),
    *(_use_another_abi, _gain_privileges, _use_capabilities, _use_a_terminal, _use_inherited_files),
    *(_read_variables_of_the_mesh, _kill_others),
)
NAMES = tuple(attempt.__name__[1:] for attempt in _ATTEMPTS)


def main(bait: str) -> None:
    """Make every attempt, each in a process of its own, and print the names of those that got out."""
    _bait.update(json.loads(bait))
    _bait["inherited"] = [number for number in range(3, 256) if _is_open(number)]
    sys.stdout.write(json.dumps([attempt.__name__[1:] for attempt in _ATTEMPTS if _gets_out(attempt)]))


def _gets_out(attempt: Callable[[], bool]) -> bool:
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 1
    signal.alarm(_SECONDS)
    try:
        os._exit(attempt())
    except BaseException:  # noqa: BLE001 - whatever stops an attempt, it did not get out
        os._exit(0)


def _reads(path: str) -> bool:
    with open(path) as file:
        return _bait["marker"] in file.read()


def _changes(file: str | int) -> bool:
    """Whether a file changes by setting the mode and the times that it has, so that no harm is done."""
    before = os.stat(file)
    ways: tuple[Callable[[], None], ...] = (
        lambda: os.chmod(file, before.st_mode & 0o7777),
        lambda: os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns)),
        lambda: os.utime(file),  # to now, which anyone may who may write to it
    )
    for way in ways:
        with suppress(OSError):
            way()
        if os.stat(file).st_ctime_ns != before.st_ctime_ns:
            return True
    return False


def _finds(name: str) -> bool:
    for process in filter(str.isdigit, os.listdir("/proc")):
        # Our own command line names the bait too, as the last argument of a Python.
        with suppress(OSError), open(f"/proc/{process}/{name}", "rb") as file:
            if file.read().rstrip(b"\0").endswith(f"bait={_bait['marker']}".encode()):
                return True
    return False


def _fills(path: str, megabytes: int, pieces: int = 3) -> bool:
    with _removed(path, pieces):
        for piece in range(pieces):
            with open(f"{path}-{piece}", "wb") as file:
                for _ in range(megabytes // pieces):
                    file.write(_MEGABYTE)
        return True
    return False


@contextmanager
def _removed(path: str, pieces: int) -> Iterator[None]:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        yield
    except OSError:
        return
    finally:
        for piece in range(pieces):
            with suppress(OSError):
                os.unlink(f"{path}-{piece}")


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _is_reachable(call: int, *arguments: int | None) -> bool:
    """Whether the kernel looks at the arguments, which are no good ones."""
    return _libc.syscall(call, *arguments) >= 0 or ctypes.get_errno() not in (1, 38, 13)


if __name__ == "__main__":
    main(sys.argv[-1])
