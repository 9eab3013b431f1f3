"""The port to a box: a place where a program runs that cannot be trusted."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from msgspec import Struct


class BoxLimits(Struct, frozen=True):
    """Limits of a run in the box, for everything that it starts, together."""

    seconds: float = 60.0
    """Seconds until it is ended."""
    memory_mb: int = 1024
    """Memory in MB."""
    processes: int = 128
    """Processes and threads."""
    file_mb: int = 256
    """The size of one file in MB, and in bubblewrap of /tmp."""
    output_bytes: int = 1_000_000
    """Bytes of its output that are kept. A program that writes twenty times as much is ended."""

    def within(self, most: BoxLimits) -> BoxLimits:
        """The same limits, none of them above `most`."""
        pairs = {name: (getattr(self, name), getattr(most, name)) for name in self.__struct_fields__}
        return BoxLimits(**{name: min(pair) for name, pair in pairs.items()})


Limits = BoxLimits
"""The name under which toolsets may have imported it."""


class SandboxResult(Struct, frozen=True):
    """How a run in the box ended.

    `status` is the exit status of its program, 128 + N after signal N, None where a limit ended it; then
    `ended_by` names that limit. `output` is stdout and stderr as they came, the head and the tail of it where
    it was `cut`. `refused` lists each host that it was not let to, with the reason.
    """

    status: int | None
    output: str
    cut: bool = False
    ended_by: Literal["", "time", "memory", "processes", "output"] = ""
    seconds: float = 0.0
    refused: tuple[str, ...] = ()


class BoxServer(Protocol):
    """Answers the programs of a box: nothing else is in its network. `refused` lists what it did not let."""

    refused: list[str]

    async def serve(self, listener: socket.socket) -> None:
        """Accept connections at a listening socket, until it is closed."""
        ...

    async def close(self) -> None:
        """End all connections, and accept no more."""
        ...


ADDRESS = "{server}"
"""Stands for the address of a `BoxServer` in the arguments and variables of a connected program."""


class BoxConnection(NamedTuple):
    """A program's ties to the mesh: `stdin` and `stdout` are its own ends, `server` all of its network.

    They are two, since a program may take a socket that becomes readable for one whose reader has gone: the
    event loop of Python does for its output. `home` is a folder beside the tree that it may write to, its
    HOME, which stays.
    """

    stdin: socket.socket
    stdout: socket.socket
    server: BoxServer
    home: Path


class Sandbox(Protocol):
    """Runs programs in a box. `name` is "bubblewrap", "landlock", or "none" where there is no box.

    In the box there are the system's programs, the Python of the mesh and the folders that `[sandbox] read`
    and the call name, all of them read-only, and `tree`. It has no other files of the machine, sees no other
    processes, has no environment but `env` and a few usual names, and no network but the hosts of a call.
    """

    @property
    def name(self) -> str:
        """The kind of the box; `auto` before the first run has chosen one."""
        ...

    async def run(
        self,
        argv: Sequence[str],
        tree: Path,
        *,
        limits: BoxLimits = BoxLimits(),  # noqa: B008 - it is frozen
        network: Sequence[str] = (),
        env: Mapping[str, str] = {},
        read: Sequence[Path] = (),
    ) -> SandboxResult:
        """Run a program in `tree`, its working directory and the only folder that it may write to.

        `network` lists the hosts that it may call, as `host:port` or `host` (port 443), each of which
        `[sandbox] allow_hosts` has to allow; `read` are further folders that it may read. `limits` are cut to
        those of the settings. Once this returns, raises or is cancelled, nothing that it started is left.
        Raises ToolFailed, with the remedy, where no box works here and where the program cannot be started.
        """
        ...

    async def run_connected(
        self,
        argv: Sequence[str],
        tree: Path,
        connection: BoxConnection,
        *,
        limits: BoxLimits = BoxLimits(),  # noqa: B008 - it is frozen
        env: Mapping[str, str] = {},
        read: Sequence[Path] = (),
    ) -> SandboxResult:
        """Run a program that talks to the mesh while it runs; the output of the result is its stderr.

        It is as `run` says, but for its home, its network and the seconds of `limits`, which are not cut. In
        arguments and variables `{server}` is replaced by the address of the server. Raises ToolFailed where
        the box has no network.
        """
        ...
