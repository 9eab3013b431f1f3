"""The sandbox of a process: chooses a box, and tries it once before anything runs in it."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import logging
import os
import platform
import secrets
import socket
from asyncio import StreamReader, StreamWriter
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

from msgspec.structs import replace

from meshwright.agents.sandbox.boxes import Bubblewrap, Landlock, NoBox, remove_left_over_folders
from meshwright.agents.sandbox.execution import PROXY_VARIABLES, START, BoxJob, Interpreter
from meshwright.agents.sandbox.port import BoxConnection, BoxLimits, SandboxResult
from meshwright.agents.sandbox.process import remove_left_over_groups
from meshwright.agents.sandbox.proxy import HostProxy, Place, parse_place
from meshwright.agents.sandbox.settings import SandboxSettings
from meshwright.core.errors import InvalidInput, ToolFailed
from meshwright.core.folders import temporary_folder
from meshwright.engine.sql.folder import read_private, write_private

_logger = logging.getLogger("meshwright.sandbox")
_BOXES: Mapping[str, Callable[[], Box]] = {"bubblewrap": Bubblewrap, "landlock": Landlock}
_TRIED = "sandbox.json"
_USUAL_LIMITS = BoxLimits()
_NO_BOX = 'docs/sandbox.md says what each box needs; kind = "none" in [sandbox] runs programs without one'
ATTEMPTS = files("meshwright.agents.sandbox").joinpath("attempts.py").read_text()
_LIMITS = BoxLimits(seconds=30.0, memory_mb=512, processes=64, file_mb=8)
MODE = 0o600
_ANSWER_SECONDS = 0.2


class Box(Protocol):
    """One kind of box."""

    name: str
    about: str
    """The program or the part of the kernel that it rests on, with its version."""
    filter: bytes
    """Its filter of system calls."""
    has_network: bool

    async def run(self, job: BoxJob) -> SandboxResult:
        """Run a job in it."""
        ...


class ChosenSandbox:
    """The `Sandbox` of the settings. It chooses a box when the first program runs, or is asked which it is.

    A box is used only if none of the break-outs gets out of it. The result is kept in the data folder, for
    the same programs, kernel and user. `tell` hears of each host that a run was not let to.
    """

    def __init__(
        self,
        settings: SandboxSettings,
        data_dir: Path,
        *,
        tell: Callable[[Place, str], None] = lambda place, reason: None,
        boxes: Mapping[str, Callable[[], Box]] = _BOXES,
    ) -> None:
        self._settings = settings
        self._data_dir = data_dir.resolve()
        self._tell = tell
        self._boxes = boxes
        self._box: Box | None = NoBox() if settings.kind == "none" else None
        self._choosing = asyncio.Lock()
        self.reasons: dict[str, str] = {}
        """Why boxes are not used, by their names."""

    @property
    def name(self) -> str:
        """`bubblewrap`, `landlock` or `none`; `auto` before one is chosen."""
        return self._settings.kind if self._box is None else self._box.name

    async def run(
        self,
        argv: Sequence[str],
        tree: Path,
        *,
        limits: BoxLimits = _USUAL_LIMITS,
        network: Sequence[str] = (),
        env: Mapping[str, str] = {},
        read: Sequence[Path] = (),
    ) -> SandboxResult:
        """Run a program in the box, as `Sandbox` says it. Raises ToolFailed, InvalidInput."""
        _check_words(argv, env)
        folders = [*self._settings.read, *read]
        tree = self._checked(tree, folders)
        places = self._places(network)
        box = await self.choose()
        if places and not box.has_network:
            raise _no_network(box)
        is_private = self._settings.allow_private_addresses
        proxy = HostProxy(places, allow_private=is_private, tell=self._tell) if places else None
        bounded = limits.within(self._settings.limits)
        return await box.run(BoxJob(argv, tree, bounded, env, folders, proxy))

    async def run_connected(
        self,
        argv: Sequence[str],
        tree: Path,
        connection: BoxConnection,
        *,
        limits: BoxLimits = _USUAL_LIMITS,
        env: Mapping[str, str] = {},
        read: Sequence[Path] = (),
    ) -> SandboxResult:
        """Run a program that talks to the mesh, as `Sandbox` says it. Raises ToolFailed, InvalidInput."""
        _check_words(argv, env)
        folders = [*self._settings.read, *read]
        tree, home = self._checked(tree, folders), self._checked(connection.home, ())
        box = await self.choose()
        if not box.has_network:
            raise _no_network(box)
        bounded = limits.within(replace(self._settings.limits, seconds=limits.seconds))
        return await box.run(BoxJob(argv, tree, bounded, env, folders, None, connection._replace(home=home)))

    async def choose(self) -> Box:
        """The box, chosen and tried once. Raises ToolFailed, with the remedy, where none works here."""
        async with self._choosing:
            if self._box is None:
                remove_left_over_groups()
                remove_left_over_folders()
                self._box = await self._first_that_holds()
        return self._box

    async def _first_that_holds(self) -> Box:
        kind = self._settings.kind
        self.reasons.clear()
        for name in self._boxes if kind == "auto" else (kind,):
            try:
                box = await asyncio.to_thread(self._boxes[name])
                await self._try(box)
            except ToolFailed as error:
                self.reasons[name] = str(error)
                _logger.info("The box of %s is not used: %s", name, error)
            else:
                return box
        why = "; ".join(f"{name}: {reason}" for name, reason in self.reasons.items())
        raise ToolFailed(f"No program runs without a box, and none works here: {why}", remedy=_NO_BOX)

    async def _try(self, box: Box) -> None:
        """Raises ToolFailed where a box does not start, or lets a break-out through."""
        key = _fingerprint(box)
        file = self._data_dir / _TRIED
        with suppress(OSError, ValueError):
            if json.loads(read_private(file)).get(box.name) == key:
                return
        out = await find_escapes(box)
        if out:
            raise ToolFailed(f"Break-outs get out of it: {', '.join(out)}")
        fingerprints: dict[str, str] = {}
        with suppress(OSError, ValueError):
            fingerprints = dict(json.loads(read_private(file)))
        with suppress(OSError):  # without a data folder it is tried again
            write_private(file, json.dumps(fingerprints | {box.name: key}))

    def _checked(self, tree: Path, folders: Sequence[Path]) -> Path:
        """The tree without links. Raises ToolFailed where the mesh's own data would be in the box."""
        tree = tree.resolve()
        if not tree.is_dir():
            raise ToolFailed(f"{tree} is no folder to run a program in")
        for folder in (tree, *(folder.resolve() for folder in folders)):
            if self._data_dir.is_relative_to(folder):
                raise ToolFailed(
                    f"{folder} holds the data of the mesh, which no program in a box may see",
                    remedy="Name a smaller folder, or move the data folder",
                )
        return tree

    def _places(self, network: Sequence[str]) -> list[Place]:
        """The places that a run may call. Raises ToolFailed for places that the settings do not allow."""
        allowed = [parse_place(text) for text in self._settings.allow_hosts]
        places = [parse_place(text) for text in network]
        for place in places:
            if not any(other.covers(place) for other in allowed):
                remedy = f'Add "{place}" to allow_hosts in [sandbox] of mesh.toml'
                raise ToolFailed(f"No run may call {place}", remedy=remedy)
        return places


def _check_words(argv: Sequence[str], env: Mapping[str, str]) -> None:
    if not argv or any("\0" in word for word in (*argv, *env, *env.values())):
        raise InvalidInput("expected a program and its arguments, without null characters", field="argv")


def _no_network(box: Box) -> ToolFailed:
    remedy = "Install bubblewrap, whose box can have a network"
    return ToolFailed(f"The box of {box.name} has no network", remedy=remedy)


def _fingerprint(box: Box) -> str:
    """Stands for all that decides whether a box holds."""
    parts = (box.about, platform.release(), platform.version(), os.getuid(), START, ATTEMPTS, box.filter)
    return hashlib.sha256(repr((*parts, PROXY_VARIABLES)).encode()).hexdigest()


class Bait:
    """Outside of the box: files, processes and sockets, and whether an attempt has reached them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.secret, self.readable = folder / "secret", folder / "readable" / "file"
        self.marker = secrets.token_hex(16)
        self.processes: list[Process] = []
        self.reached = set[str]()
        self._servers: list[asyncio.Server] = []

    async def start(self, interpreter: Interpreter) -> dict[str, Any]:
        """Lay it out. Returns its description for the attempts."""
        (self.folder / "tree").mkdir()
        self.readable.parent.mkdir()
        for file in (self.secret, self.readable):
            file.write_text(self.marker)
            file.chmod(MODE)
        abstract = f"meshwright-{self.marker}"
        tcp = socket.create_server(("127.0.0.1", 0))
        listeners = [tcp, *_local(abstract, self.folder / "socket")]
        self._servers = [await asyncio.start_server(self._receive, sock=listener) for listener in listeners]
        sign = f"bait={self.marker}"
        for _ in range(2):
            process = await asyncio.create_subprocess_exec(
                *(*interpreter.command("import sys; sys.stdin.read()"), sign),
                stdin=PIPE,
                stdout=DEVNULL,
                env={"bait": self.marker},
            )
            self.processes.append(process)
        return {
            "marker": self.marker,
            "folder": str(self.folder),
            "secret": str(self.secret),
            "readable": str(self.readable),
            "tcp": tcp.getsockname()[1],
            "abstract": abstract,
            "process": self.processes[0].pid,
            "victim": self.processes[1].pid,
            "file_mb": _LIMITS.file_mb,
        }

    async def affected(self) -> set[str]:
        """The attempts whose effect is seen outside."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_ANSWER_SECONDS):
                await self.processes[1].wait()
        return self.reached | {name for name, is_out in self.effects().items() if is_out()}

    def effects(self) -> Mapping[str, Callable[[], bool]]:
        """Returns, by the names of attempts, what shows that one got out."""
        return {
            "change_modes_of_what_it_reads": lambda: self.readable.stat().st_mode & 0o777 != MODE,
            "write_outside": lambda: (self.folder / "written").exists(),
            "outlive_the_box": self._is_locked,
            "kill_others": lambda: self.processes[1].returncode is not None,
        }

    def _is_locked(self) -> bool:
        try:
            with (self.folder / "tree" / "lock").open() as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    async def _receive(self, reader: StreamReader, writer: StreamWriter) -> None:
        line = await reader.readline()
        self.reached.add(line.decode(errors="replace").strip())
        writer.close()

    async def stop(self) -> None:
        """Take it away, but for the folder."""
        for server in self._servers:
            server.close()
        for process in self.processes:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def find_escapes(
    box: Box,
    interpreter: Interpreter | None = None,
    *,
    source: str = ATTEMPTS,
    make_bait: Callable[[Path], Bait] = Bait,
) -> list[str]:
    """The names of the attempts that got out of a box; `attempts.NAMES` has all.

    `source` is the program that makes them. Raises ToolFailed where the box cannot be started, or did not let
    the attempts end.
    """
    interpreter = interpreter or Interpreter.own()
    with temporary_folder("meshwright-probe-") as folder:
        bait = make_bait(folder)
        try:
            description = json.dumps(await bait.start(interpreter))
            argv = [*interpreter.command(source), description]
            finished = await box.run(BoxJob(argv, folder / "tree", _LIMITS, {}, [folder / "readable"]))
            lines = finished.output.splitlines() or [""]
            try:
                inside = json.loads(lines[-1])
            except ValueError:
                why = finished.ended_by or lines[-1] or f"status {finished.status}"
                raise ToolFailed(f"The break-outs did not run in the box: {why}") from None
            return list(dict.fromkeys((*inside, *sorted(await bait.affected()))))
        finally:
            await bait.stop()


def _local(abstract: str, path: Path) -> Iterator[socket.socket]:
    """Listen at an abstract address and at a file, whose path may be longer than addresses are."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        for address in (f"\0{abstract}", f"/proc/self/fd/{folder}/{path.name}"):
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(address)
            listener.listen()
            yield listener
    finally:
        os.close(folder)
