"""What every process that serves a mesh does around it: how its loop runs, and how its work ends."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from socket import socket
from typing import TYPE_CHECKING

import click

from meshwright.waiting import unless

if TYPE_CHECKING:
    from meshwright.mesh import Mesh
    from meshwright.settings import Settings

PRIVATE_UMASK = 0o077
"""What this process writes is for its user alone: data, logs, and what the tools of agents make."""
_LISTENER = "MESHWRIGHT_LISTENER"
"""The variable by which a run hands its listening socket to the one that replaces it."""
DRAIN_SECONDS = 10
_SWITCH_SECONDS = 0.001
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The fastest event loop that this machine has; None is Python's own."""
    try:
        import uvloop
    except ImportError:  # not made for every system
        return None
    return uvloop.new_event_loop


def switch_often() -> None:
    """Let the writer's thread in sooner while the loop is busy.

    It lets go of the interpreter at each statement, and by default waits up to 5 ms to get it back: a commit
    of a dozen statements then takes longer than its tasks.
    """
    sys.setswitchinterval(_SWITCH_SECONDS)


def writes_apart(settings: Settings) -> bool:
    """Whether a process of its own is to write to SQLite, in a mesh that serves."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return settings.writer == "process" or (settings.writer == "auto" and cores > 1)


def start_again(listener: socket) -> None:
    """Replace this process by a new run of the same command, which goes on with the listening socket.

    Safe at any moment: what is accepted is on disk, and the new run goes on as after kill -9.
    """
    listener.set_inheritable(True)  # callers wait in its queue meanwhile
    os.environ[_LISTENER] = str(listener.fileno())
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def inherited_listener() -> socket | None:
    """The listening socket of the run that this one replaces."""
    given = os.environ.pop(_LISTENER, None)
    if given is None:
        return None
    listener = socket(fileno=int(given))
    listener.set_inheritable(False)
    return listener


def reread_prompts_on_sighup(mesh: Mesh) -> None:
    """Read changed prompt files at once when SIGHUP comes."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, mesh.prompts.refresh)


async def drain(mesh: Mesh) -> None:
    """Let running work end for some seconds; asked to stop once more, leave it for the next start."""
    if not mesh.worker.running:
        return
    loop = asyncio.get_running_loop()
    hurry = asyncio.Event()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, hurry.set)
    running = f"{mesh.worker.running} running, with {DRAIN_SECONDS} s to end"
    click.echo(f"{running}; Ctrl-C leaves them for the next start", err=True)
    await unless(hurry, mesh.worker.drain(DRAIN_SECONDS))
    await mesh.worker.drain(0)
    for number in STOP_SIGNALS:
        loop.remove_signal_handler(number)
