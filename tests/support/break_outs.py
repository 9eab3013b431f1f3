"""Break-outs beside those that decide whether a box is used: each varies one of them. Runs in the box.

`tests.support.bait` makes a program of it that needs no packages, and sees their effects outside.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from meshwright.agents.sandbox.attempts import (
    ATTEMPTS,
    CALLS,
    NEW_USER,
    Attempt,
    Bait,
    is_reachable,
    libc,
    main,
    reads,
    sees_marker,
)

_INHERITED_BY_ALL = ("PATH", "HOME", "TMPDIR", "LANG", "LC_CTYPE", "PWD", "GIT_CONFIG_NOSYSTEM")
_FOLDERS = ("/", "/dev", "/dev/shm", "/run", "/tmp", "/var/tmp", "/etc", "/usr")
_X32 = 0x4000_0000
_MEGABYTE = bytes(1024 * 1024)
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_SET_IDS = 0o6755


def read_by_parent_folder(bait: Bait) -> bool:
    return reads("../secret", bait)


def read_through_a_link(bait: Bait) -> bool:
    os.symlink(bait["secret"], "link-to-read")
    return reads("link-to-read", bait)


def read_through_a_hard_link(bait: Bait) -> bool:
    os.link(bait["secret"], "hard-link")
    return reads("hard-link", bait)


def list_outside(bait: Bait) -> bool:
    return "secret" in os.listdir(bait["folder"])


def write_through_a_link(bait: Bait) -> bool:
    os.symlink(f"{bait['folder']}/linked", "link-to-write")
    with open("link-to-write", "w") as file:
        file.write("out")
    return False


def move_out(bait: Bait) -> bool:
    with open("moved", "w") as file:
        file.write("out")
    os.rename("moved", f"{bait['folder']}/moved")
    return False


def truncate_outside(bait: Bait) -> bool:
    os.truncate(bait["secret"], 0)
    return False


def delete_outside(bait: Bait) -> bool:
    os.unlink(f"{bait['folder']}/deletable")
    return False


def change_modes_outside(bait: Bait) -> bool:
    os.chmod(bait["secret"], 0o777)
    return False


def change_times_of_what_it_reads(bait: Bait) -> bool:
    os.utime(bait["readable"], (1, 1))
    return False


def change_what_started_it(bait: Bait) -> bool:
    return _changes("/proc/1/exe")


def change_devices(bait: Bait) -> bool:
    return any(_changes(f"/dev/{name}") for name in _DEVICES)


def change_its_input(bait: Bait) -> bool:
    return _changes(0)


def make_setuid_programs(bait: Bait) -> bool:
    how = (ctypes.c_uint64 * 3)(os.O_CREAT, _SET_IDS)
    os.close(os.open("changed", os.O_CREAT, 0o755))
    ways: tuple[Callable[[], object], ...] = (
        lambda: os.open("opened", os.O_CREAT, _SET_IDS),
        lambda: libc.syscall(437, -100, b"opened-2", how, ctypes.sizeof(how)),  # openat2
        lambda: os.mknod("node", _SET_IDS),
        lambda: os.chmod("changed", _SET_IDS),
        lambda: os.fchmod(os.open("changed", os.O_RDONLY), _SET_IDS),
        lambda: libc.syscall(452, -100, b"changed", _SET_IDS, 0),  # fchmodat2
    )
    for way in ways:
        with suppress(OSError):
            way()
    programs = [entry for entry in os.scandir() if entry.stat(follow_symlinks=False).st_mode & 0o6000]
    for entry in programs:
        os.unlink(entry)
    return bool(programs)


def watch_the_machine(bait: Bait) -> bool:
    with suppress(OSError):
        fcntl.fcntl(os.open("/usr", os.O_RDONLY), fcntl.F_NOTIFY, 1)
        return True
    return libc.inotify_add_watch(libc.inotify_init(), b"/usr", 1) >= 0


def hold_up_who_opens_a_file(bait: Bait) -> bool:
    fcntl.fcntl(os.open(bait["readable"], os.O_RDONLY), fcntl.F_SETLEASE, fcntl.F_RDLCK)
    return True


def write_what_it_reads(bait: Bait) -> bool:
    with open(bait["readable"], "a") as file:
        file.write("out")
    return False


def fill_memory_by_files(bait: Bait) -> bool:
    return any(_fills(f"{folder}/meshwright-fill", 3 * bait["file_mb"]) for folder in _FOLDERS)


def write_a_larger_file(bait: Bait) -> bool:
    return _fills("large", 2 * bait["file_mb"], pieces=1)


def read_settings_of_the_kernel(bait: Bait) -> bool:
    for path in ("/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/sys/kernel/uevent_helper"):
        with suppress(OSError):
            os.close(os.open(path, os.O_WRONLY))
            return True
    return False


def read_command_lines(bait: Bait) -> bool:
    return sees_marker("cmdline", bait)


def trace_others(bait: Bait) -> bool:
    return libc.ptrace(0x4206, bait["process"], None, None) == 0  # PTRACE_SEIZE


def limit_others(bait: Bait) -> bool:
    resource.prlimit(bait["process"], resource.RLIMIT_NOFILE, (17, 17))
    return False


def slow_others(bait: Bait) -> bool:
    os.setpriority(os.PRIO_PROCESS, bait["process"], 19)
    return False


def pin_others(bait: Bait) -> bool:
    os.sched_setaffinity(bait["process"], {min(os.sched_getaffinity(0))})
    return False


def send_by_udp(bait: Bait) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"send_by_udp\n", ("127.0.0.1", bait["udp"]))
    return False


def send_by_a_pair_of_sockets(bait: Bait) -> bool:
    for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW):
        with suppress(OSError):
            socket.socketpair(socket.AF_UNIX, kind)[0].sendto(
                b"send_by_a_pair_of_sockets\n", f"{bait['folder']}/datagrams"
            )
    return False


def send_packets(bait: Bait) -> bool:
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()
    return True


def reach_the_hypervisor(bait: Bait) -> bool:
    socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).close()
    return True


def make_namespaces_by_clone(bait: Bait) -> bool:
    process = libc.syscall(CALLS.clone, NEW_USER | signal.SIGCHLD, 0, 0, 0, 0)
    if process == 0:
        os._exit(0)
    return process > 0


def mount(bait: Bait) -> bool:
    mounted = libc.mount(b"none", os.getcwdb(), b"tmpfs", 0, None) == 0
    return mounted and libc.umount2(os.getcwdb(), 2) == 0


def change_root(bait: Bait) -> bool:
    os.chroot(".")
    return True


def make_a_device(bait: Bait) -> bool:
    os.mknod("device", 0o600 | 0o060000, os.makedev(8, 0))
    os.unlink("device")
    return True


def open_by_handle(bait: Bait) -> bool:
    return is_reachable(CALLS.open_by_handle_at, -1, None, 0)


def measure_others(bait: Bait) -> bool:
    return is_reachable(CALLS.perf_event_open, None, bait["process"], -1, -1, 0)


def hold_up_the_kernel(bait: Bait) -> bool:
    return libc.syscall(CALLS.userfaultfd, 1) >= 0


def use_rings(bait: Bait) -> bool:
    return libc.syscall(425, 1, ctypes.create_string_buffer(256)) >= 0


def keep_keys(bait: Bait) -> bool:
    return libc.syscall(CALLS.add_key, b"user", b"meshwright", b"x", 1, -2) >= 0


def share_memory(bait: Bait) -> bool:
    segment = libc.syscall(CALLS.shmget, 0, 4096, 0o600)
    if segment >= 0:
        libc.shmctl(segment, 0, None)
    return segment >= 0


def use_another_abi(bait: Bait) -> bool:
    return platform.machine() == "x86_64" and libc.syscall(_X32 | 39) > 0  # getpid


def gain_privileges(bait: Bait) -> bool:
    return libc.prctl(39, 0, 0, 0, 0) != 1  # PR_GET_NO_NEW_PRIVS


def use_a_terminal(bait: Bait) -> bool:
    os.close(os.open("/dev/tty", os.O_RDWR))
    return True


def use_inherited_files(bait: Bait) -> bool:
    return any(map(_is_open, range(3, 256)))


def read_variables_of_the_mesh(bait: Bait) -> bool:
    return not os.environ.keys() <= {*_INHERITED_BY_ALL}


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


VARIATIONS: tuple[Attempt, ...] = (
    *(read_by_parent_folder, read_through_a_link, read_through_a_hard_link, list_outside),
    *(write_through_a_link, move_out, truncate_outside, delete_outside, change_modes_outside),
    *(change_what_started_it, change_its_input, change_devices, make_setuid_programs),
    *(watch_the_machine, hold_up_who_opens_a_file, write_what_it_reads, change_times_of_what_it_reads),
    *(fill_memory_by_files, write_a_larger_file, read_settings_of_the_kernel, read_command_lines),
    *(trace_others, limit_others, slow_others, pin_others, send_by_udp, send_by_a_pair_of_sockets),
    *(send_packets, reach_the_hypervisor, make_namespaces_by_clone, mount, change_root, make_a_device),
    *(open_by_handle, measure_others, hold_up_the_kernel, use_rings, keep_keys, share_memory),
    *(use_another_abi, gain_privileges, use_a_terminal, use_inherited_files, read_variables_of_the_mesh),
)
ALL = (*ATTEMPTS[:-1], *VARIATIONS, ATTEMPTS[-1])
"""The last one kills a process that others use."""

if __name__ == "__main__":
    main(sys.argv[-1], ALL)
