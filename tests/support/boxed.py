"""Tries a box as a user: `python -m tests.support.boxed KIND USER` prints JSON of how each trial ended.

The event loop is that of `mesh up`, whose processes inherit more than those of asyncio's own.

With a folder as third argument it runs a program there that leaves its parents, until it is killed.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pwd
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvloop

from meshwright.agents.sandbox.boxes import Bubblewrap, Landlock, NoBox
from meshwright.agents.sandbox.choice import Box, find_escapes
from meshwright.agents.sandbox.execution import BoxJob, Interpreter
from meshwright.agents.sandbox.port import BoxLimits, SandboxResult
from meshwright.agents.sandbox.process import ControlGroup
from tests.support.bait import SOURCE, WholeBait

BOXES: Mapping[str, type[Bubblewrap | Landlock | NoBox]] = {
    "bubblewrap": Bubblewrap,
    "landlock": Landlock,
    "none": NoBox,
}
SYSTEM_PYTHON = "/usr/bin/python3"
"""For a user who may not run the interpreter of the tests, as in the home of another user."""
# Two processes that left their session and their parents hold a lock each.
LEAVE = """
import fcntl, os, signal, sys
reading, writing = os.pipe()
for leave in (os.setsid, lambda: None):
    if not os.fork():
        leave()
        if not os.fork():
            fcntl.flock(os.open("lock", os.O_RDWR | os.O_CREAT), fcntl.LOCK_SH)
            os.write(writing, b"x")
            os.closerange(0, 3)
            while True:
                signal.pause()
        os._exit(0)
held = b""
while len(held) < 2:
    held += os.read(reading, 2)
os.mkdir("held")
print("held", flush=True)
signal.pause()
"""
FORK = """
import os, signal
for count in range(400):
    try:
        if not os.fork():
            signal.pause()
    except OSError:
        break
print(count, flush=True)
"""
ALLOCATE = """
import os, signal, sys
for _ in range(8):
    reading, writing = os.pipe()
    if not os.fork():
        block = b"x" * (64 << 20)
        os.write(writing, b"x")
        signal.pause()
    os.close(writing)
    if not os.read(reading, 1):
        sys.exit("one was killed")
if os.waitpid(-1, os.WNOHANG)[0]:
    sys.exit("one was killed")
print("all are there", flush=True)
signal.pause()
"""
PRIORITIES = """
import os
for kind in (os.PRIO_USER, os.PRIO_PGRP):
    try:
        os.setpriority(kind, 0, os.nice(0) + 1)
    except PermissionError:
        print("refused", kind)
"""
# Memory of the kernel: the buffers of as many pairs of sockets as there can be.
BUFFERS = """
import socket
pairs = []
try:
    while True:
        pairs.append(socket.socketpair())
        for end in pairs[-1]:
            end.setblocking(False)
            try:
                while True:
                    end.send(bytes(65536))
            except BlockingIOError:
                pass
except OSError:
    print(2 * len(pairs), flush=True)
"""
MODES = """
import os
with open("tool", "w") as file:
    file.write("#!/bin/sh")
os.chmod("tool", 0o755)
os.utime("tool", (1, 1))
os.chown("tool", -1, -1)
print(oct(os.stat("tool").st_mode & 0o7777), os.stat("tool").st_mtime == 1)
"""
ALLOCATE_ALONE = "block = b'x' * (300 << 20); print('all is there', flush=True)"
FLOOD = "import sys\nwhile True: sys.stdout.write('head of it' + 'x' * 90)"
LONG = "print('the head' + 'x' * 5000 + 'the tail')"


class Trials:
    """A box, and programs that try its limits."""

    def __init__(self, box: Box, python: Interpreter) -> None:
        self.box = box
        self.python = python

    async def run(self, source: str, folder: Path, **limits: Any) -> SandboxResult:
        usual = {"seconds": 20.0, "memory_mb": 256, "processes": 40, "output_bytes": 2_000}
        job = BoxJob(self.python.command(source), folder, BoxLimits(**(usual | limits)), {}, [])
        return await self.box.run(job)

    async def all(self) -> dict[str, Any]:
        """How each trial ended, by its name."""
        out = await find_escapes(self.box, self.python, source=SOURCE, make_bait=WholeBait)
        found: dict[str, Any] = {"attempts": out, "decisive": await find_escapes(self.box, self.python)}
        if isinstance(self.box, NoBox):  # its limits are those of the boxes; what gets out is the question
            return found
        before = os.nice(0)
        for name, source, limits in (
            ("forks", FORK, {}),
            ("many forks", FORK, {"processes": 128}),
            ("buffers", BUFFERS, {"memory_mb": 64}),
            ("modes", MODES, {}),
            ("memory", ALLOCATE, {}),
            ("memory of one", ALLOCATE_ALONE, {}),
            ("flood", FLOOD, {}),
            ("priorities", PRIORITIES, {}),
            ("long", LONG, {}),
            ("time", LEAVE, {"seconds": 1.0}),
        ):
            with tempfile.TemporaryDirectory() as folder:
                finished = await self.run(source, Path(folder), **limits)
                found[name] = finished.status, finished.ended_by, finished.cut, finished.output
                if name == "time":
                    found["left after time"] = is_locked(Path(folder))
        with tempfile.TemporaryDirectory() as folder:
            found["left after a cancel"] = await self.cancelled(Path(folder))
        found["slowed"] = os.nice(0) != before
        group = ControlGroup.make(BoxLimits())
        found["has group"] = group is not None
        if group is not None:
            await group.remove()
        return found

    async def cancelled(self, folder: Path) -> bool:
        """Cancel a run once its program has left; returns whether that is still there."""
        running = asyncio.create_task(self.run(LEAVE, folder))
        while not (folder / "held").exists() and not running.done():
            await asyncio.sleep(0.01)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        return is_locked(folder)


def is_locked(folder: Path) -> bool:
    """Whether a program of `LEAVE` still runs. Raises FileNotFoundError where none did."""
    with (folder / "lock").open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


async def _import_all() -> None:
    """Import what asyncio imports late: the user may not read where it is."""
    await asyncio.to_thread(int)
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "")
    await process.wait()


def become(user: str) -> None:
    """Go on as another user, for good."""
    known = pwd.getpwnam(user)
    if known.pw_uid != os.getuid():
        os.setgroups([])
        os.setgid(known.pw_gid)
        os.setuid(known.pw_uid)


def main(kind: str, user: str, folder: str = "") -> None:
    uvloop.run(_import_all())
    become(user)
    usable = os.access(Path(sys.executable).resolve(), os.X_OK)
    python = Interpreter(Path(sys.executable if usable else SYSTEM_PYTHON))
    trials = Trials(BOXES[kind](python), python)
    if folder:
        uvloop.run(trials.run(LEAVE, Path(folder), seconds=300.0))
    else:
        print(json.dumps(uvloop.run(trials.all())))


if __name__ == "__main__":
    main(*sys.argv[1:])
