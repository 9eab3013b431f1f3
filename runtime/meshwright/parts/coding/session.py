"""One session with a coding agent: its process in the box of the tree, and the gateway of its run."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from meshwright.agents.sandbox.port import BoxConnection, SandboxResult
from meshwright.core.streams import PEER_GONE
from meshwright.models.errors import BudgetExceeded
from meshwright.parts.coding.acp import PromptEnd
from meshwright.parts.coding.conversation import AcpConversation
from meshwright.parts.coding.errors import CodingAgentFailed
from meshwright.parts.coding.gateway import Gateway
from meshwright.parts.coding.headless_conversation import HeadlessConversation
from meshwright.parts.coding.known_calls import KnownCalls
from meshwright.parts.coding.pipes import ProgramPipes, last_words
from meshwright.parts.coding.programs import Launch, make_launch
from meshwright.parts.coding.settings import CodingProgram
from meshwright.parts.coding.work import (
    AgentConversation,
    CallReport,
    CodingWork,
    OpenedSession,
    render_prompt,
)
from meshwright.tools import BoxLimits

_BOX = BoxLimits(processes=512, file_mb=1024, output_bytes=200_000)
_GOODBYE_SECONDS = 5.0  # for what it still writes, once its input has ended
_QUIET_SECONDS, _LOOK_SECONDS = 1.0, 0.1  # its transcript grows for half a second after a turn
_MAX_STATE_FILES, _MAX_STATE_PATH = 20_000, 4_000  # of its home, whose last write is looked for
_ResultT = TypeVar("_ResultT")


class CodingSession:
    """A session with the program that runs in the box."""

    def __init__(
        self,
        work: CodingWork,
        talk: AgentConversation,
        report: CallReport,
        gateway: Gateway,
        box: asyncio.Task[SandboxResult],
    ) -> None:
        self._work, self._talk, self._report = work, talk, report
        self._gateway, self._box = gateway, box

    @property
    def refused(self) -> list[str]:
        """The hosts that the programs of the box tried in vain."""
        return self._gateway.refused

    async def open(self, text: str, *, is_lost: bool) -> OpenedSession:
        """Begin or go on, and ask for the work; `is_lost` says that an earlier session cannot go on."""
        with self._work.run.program():
            opened = await self._within_box(
                self._talk.open(render_prompt("restarted", text) if is_lost else text)
            )
        return opened._replace(how="restarted") if is_lost else opened

    async def ended(self) -> PromptEnd:
        """How the agent ended the work. Raises CodingAgentFailed with the last words of its program."""
        with self._work.run.program():
            end = await self._within_box(self._talk.ended())
            await self._report.complete()
        self._check_money()
        return end

    async def _within_box(self, work: Awaitable[_ResultT]) -> _ResultT:
        working = asyncio.ensure_future(work)
        try:
            await asyncio.wait([working, self._gateway.interrupted], return_when=asyncio.FIRST_COMPLETED)
            if self._gateway.interrupted.done():
                await self._gateway.interrupted
            return await working
        except CodingAgentFailed as error:
            self._check_money()
            running = f" while it ran: {self._report.running}" if self._report.running else ""
            problem = f"{self._work.name}: {error.message}{running}{await self._ending()}"
            raise type(error)(problem, remedy=error.remedy) from error
        finally:
            working.cancel()

    def _check_money(self) -> None:
        """Raise the error of the last call of a model, where there was no money for it."""
        if isinstance(self._gateway.refusal, BudgetExceeded):
            raise self._gateway.refusal

    async def _ending(self) -> str:
        """How the program ended, with its last words. Raises ToolFailed where it could not be started."""
        await asyncio.wait([self._box], timeout=1.0)
        if not self._box.done() or self._box.cancelled():
            return ""
        return last_words(self._box.result())


@asynccontextmanager
async def coding_session(work: CodingWork, earlier: str) -> AsyncGenerator[CodingSession]:
    """Start the program in the box of the tree, for a new session or an `earlier` one.

    The gateway of the run answers as long as the block lasts. At its end nothing of the program is left but
    its home and its files.
    """
    known = KnownCalls(work.tree.folder / f"calls-{work.name}.json")
    gateway = Gateway(work.run, work.settings.model, known)
    home = work.tree.home(work.name)
    launch = make_launch(work.name, work.settings, home, gateway.token, earlier)
    pipes = await ProgramPipes.open()
    box = asyncio.create_task(_run(work, launch, BoxConnection(pipes.stdin, pipes.stdout, gateway, home)))
    box.add_done_callback(lambda _: pipes.close_program())
    reader, writer = pipes.reader, pipes.writer
    report = CallReport(work)
    talk: AgentConversation
    if work.settings.protocol == "acp":
        talk = AcpConversation(work, launch, report, gateway, (reader, writer), earlier)
    else:
        talk = HeadlessConversation(work, report, reader, writer, earlier)
        if earlier:
            gateway.go_on()
    session = CodingSession(work, talk, report, gateway, box)
    with work.run.program_block():  # what it asks people need not come again
        listening = asyncio.create_task(talk.listen())
    try:
        yield session
        with suppress(*PEER_GONE):
            writer.write_eof()
        await _goodbye(box, home)
    finally:
        await gateway.close()
        pipes.abort()
        for task in (listening, box):
            task.cancel()
        await asyncio.wait([listening, box])
        _forget(listening, box)


async def _goodbye(box: asyncio.Task[SandboxResult], home: Path) -> None:
    """Wait until the program has ended, or writes nothing more.

    claude-code-acp takes no notice of the end of its input, and the protocol has no request for its end.
    """
    loop = asyncio.get_running_loop()
    ends, quiet_since = loop.time() + _GOODBYE_SECONDS, loop.time()
    state = await asyncio.to_thread(_write_state, home)
    while not box.done() and loop.time() < min(ends, quiet_since + _QUIET_SECONDS):
        await asyncio.wait([box], timeout=_LOOK_SECONDS)
        if (latest := await asyncio.to_thread(_write_state, home)) != state:
            state, quiet_since = latest, loop.time()


def _write_state(folder: Path) -> tuple[int, int]:
    """The time of the last write below a folder, and the size of its files."""
    newest = size = count = 0
    folders = [str(folder)]
    while folders and count < _MAX_STATE_FILES:
        with suppress(OSError), os.scandir(folders.pop()) as entries:  # a program still works there
            for entry in entries:
                stat = entry.stat(follow_symlinks=False)
                newest, size, count = max(newest, stat.st_mtime_ns), size + stat.st_size, count + 1
                if entry.is_dir(follow_symlinks=False) and len(entry.path) < _MAX_STATE_PATH:
                    folders.append(entry.path)
    return newest, size


def _forget(*tasks: asyncio.Task[Any]) -> None:
    """Have looked at the errors of tasks whose result is not used."""
    for task in tasks:
        if not task.cancelled():
            task.exception()


async def _run(work: CodingWork, launch: Launch, connection: BoxConnection) -> SandboxResult:
    limits = _limits(work.settings)
    return await work.tree.run_connected(launch.argv, connection, limits, env=launch.env, read=launch.read)


def _limits(settings: CodingProgram) -> BoxLimits:
    # A session is bounded by its prompt; the box is the bound of an agent that does not end.
    return BoxLimits(
        seconds=settings.max_seconds + 300.0,
        memory_mb=settings.max_memory_mb,
        processes=_BOX.processes,
        file_mb=_BOX.file_mb,
        output_bytes=_BOX.output_bytes,
    )
