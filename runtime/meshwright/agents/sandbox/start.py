"""The first program in a box: it gives up rights for good, then becomes the command.

Run as `python -I -S -c SOURCE FD`; it imports nothing of ours, since the box may not have it. FD is a socket
to the mesh: one line of JSON arrives, `ready` goes back with the process's id, and the command begins at the
mesh's `go`. A problem goes back as `failed: REASON`.

In a box it stays as the parent of everything there, and ends it when the command ends or the mesh does. In
bubblewrap it is process 1: the program that made the box lies outside, where a mode could be changed.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
from contextlib import suppress
from typing import Any

_NOT_STARTED = 125
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_CAPBSET_DROP, _PR_SET_SECUREBITS = 1, 22, 24, 28
_PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 36, 38
_NO_ROOT_FOR_GOOD = 0xEF  # uid 0 gives no capabilities, and nothing brings them back
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_EXECUTE, _WRITE, _READ, _READ_FOLDER = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_DEVICES, _CONTROL_DEVICES, _TRUNCATE = 1 << 6 | 1 << 11, 1 << 15, 1 << 14
_ALL = (1 << 16) - 1
_OF_FILES = _EXECUTE | _WRITE | _READ | _TRUNCATE | _CONTROL_DEVICES
_MAX_FILES = 1 << 16
_TCP, _OTHERS = 3, 3  # connect and bind; abstract sockets and signals of processes outside
_libc = ctypes.CDLL(None, use_errno=True)


def main(number: int) -> None:
    """Do what the mesh orders by the socket with that number."""
    control = socket.socket(fileno=number)
    control.set_inheritable(False)
    for first, last in ((3, number), (number + 1, _MAX_FILES)):
        os.closerange(first, last)  # some event loops leave copies of output and input open
    try:
        with control.makefile("rb") as lines:
            order = json.loads(lines.readline())
        if order["seccomp"]:
            _supervise(order, control)
        else:
            _become(order, control)
    except OSError as error:
        _say(error, control)
        os._exit(_NOT_STARTED)


def _say(error: OSError, control: socket.socket) -> None:
    where = f": {error.filename}" if isinstance(error.filename, str) else ""
    control.sendall(f"failed: {error.strerror or error}{where}".encode())


def _become(order: dict[str, Any], control: socket.socket) -> None:
    os.chdir(order["tree"])
    argv, environment = order["argv"], order["environment"]
    sent: list[socket.socket] = []
    if order["listens"] or order["mark"]:
        listener = socket.create_server(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        environment |= dict.fromkeys(order["listens"], address)
        sent = [listener]
        if order["mark"]:
            argv = [word.replace(order["mark"], address) for word in argv]
            environment = {name: value.replace(order["mark"], address) for name, value in environment.items()}
    socket.send_fds(control, [b"ready"], [listener.fileno() for listener in sent])
    if control.recv(2) != b"go":
        os._exit(_NOT_STARTED)
    for name, value in order["limits"].items():
        kind = getattr(resource, name)
        hardest = resource.getrlimit(kind)[1]
        most = value if hardest == resource.RLIM_INFINITY else min(value, hardest)
        resource.setrlimit(kind, (most, most))
    os.umask(0o022)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores, and a command would inherit
        signal.signal(number, signal.SIG_DFL)
    os.execvpe(argv[0], argv, environment)


def _install(program: bytes) -> None:
    code = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("H6xQ", len(program) // 8, ctypes.addressof(code))
    _checked(_libc.prctl(_PR_SET_SECCOMP, 2, ctypes.c_char_p(described), 0, 0))


def _supervise(order: dict[str, Any], control: socket.socket) -> None:
    """Run the command in a child, which no process of the box outlives."""
    _checked(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
    _drop_capabilities()
    _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    if order["landlock"]:
        _confine(order["landlock"])
    _check_signals()
    _install(bytes.fromhex(order["seccomp"]))
    child = os.fork()
    if not child:
        try:
            _checked(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
            if order["landlock"]:
                # A ruleset of its own: the command signals neither this program nor anything outside.
                _restrict(struct.pack("QQQ", 0, 0, _OTHERS))
            _become(order, control)
        except OSError as error:
            _say(error, control)
        finally:
            os._exit(_NOT_STARTED)
    events = select.poll()
    events.register(control, 0)  # the mesh is gone, or wants the end
    events.register(os.pidfd_open(child), select.POLLIN)
    events.poll()
    os._exit(_end_all(child))


def _end_all(child: int) -> int:
    """Kill every process of the box at once, and wait for them; returns the command's exit status."""
    status = 0
    _check_signals()
    with suppress(ProcessLookupError, PermissionError):  # none is left
        os.kill(-1, signal.SIGKILL)  # reaches those alone that the ruleset lets it signal: the box
    while True:
        try:
            process, code = os.waitpid(-1, 0)
        except ChildProcessError:
            return status
        if process == child:
            status = os.waitstatus_to_exitcode(code)
            status = 128 - status if status < 0 else status


def _check_signals() -> None:
    """Make sure that signals stay in the box: raises OSError where they reach the mesh, or init."""
    for process in {os.getppid(), 1} - {os.getpid(), 0}:  # 0: the parent has no number in this namespace
        try:
            os.kill(process, 0)
        except (PermissionError, ProcessLookupError):  # a mesh that is killed may be gone by now
            continue
        raise OSError(0, "signals leave the box")


def _confine(rules: dict[str, list[str]]) -> None:
    """Restrict this process and its children to files: `read` and `write` folders, and `devices`."""
    ruleset = _ruleset(struct.pack("QQQ", _ALL, _TCP, _OTHERS))
    rights = {
        "read": _EXECUTE | _READ | _READ_FOLDER,
        "write": _ALL & ~_DEVICES & ~_CONTROL_DEVICES,
        "devices": _READ | _WRITE,
    }
    for kind, right in rights.items():
        for path in rules[kind]:
            _allow(ruleset, path, right)
    _checked(_libc.syscall(_RESTRICT_SELF, ruleset, 0))
    os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    if not os.path.isdir(path):
        rights &= _OF_FILES
    _checked(_libc.syscall(_ADD_RULE, ruleset, 1, struct.pack("=Qi", rights, place), 0))
    os.close(place)


def _restrict(attributes: bytes) -> None:
    ruleset = _ruleset(attributes)
    _checked(_libc.syscall(_RESTRICT_SELF, ruleset, 0))
    os.close(ruleset)


def _ruleset(attributes: bytes) -> int:
    return _checked(_libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0))


def _drop_capabilities() -> None:
    """Give up all capabilities, and with them what root may do. A user without any keeps none either."""
    _libc.prctl(_PR_SET_SECUREBITS, _NO_ROOT_FOR_GOOD, 0, 0, 0)
    for capability in range(64):
        _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    header, none = struct.pack("Ii", 0x2008_0522, 0), bytes(24)
    _checked(_libc.capset(header, none))


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


if __name__ == "__main__":
    main(int(sys.argv[-1]))
