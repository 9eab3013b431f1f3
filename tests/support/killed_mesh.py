"""A mesh on each store that a test kills with SIGKILL, and that goes on afterwards."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, Self

import pytest

from tests.run import DAPR
from tests.support.postgres import Address
from tests.support.running_mesh import MESH, ROOT, RunningMesh, mesh_up
from tests.support.running_stack import children_of, gone

_LOOK_SECONDS = 0.02
_SOAK = pytest.mark.soak("the same on SQLite; the turns and claims of each store have tests of their own")
STORES = [
    "sqlite",
    pytest.param("postgres", marks=_SOAK),
    pytest.param("dapr", marks=[_SOAK, pytest.mark.needs(*DAPR)]),
]


class KilledMesh:
    """A mesh as a process, or on Dapr as a stack of processes; `running` is the one that runs now."""

    running: RunningMesh

    def __init__(
        self,
        store: str,
        data: Path,
        url: Address | None,
        environment: dict[str, str],
        *,
        command: Sequence[str] = MESH,
        cwd: Path = ROOT,
    ) -> None:
        self._is_dapr = store == "dapr"
        self._data = data
        self._up = [*command, "up", *(["--host", "dapr"] if self._is_dapr else [])]
        self._cwd = cwd
        self._environment = environment | ({"MESH_DATABASE": url} if url else {})
        self._stack = AsyncExitStack()
        self._frozen: list[int] = []

    async def __aenter__(self) -> Self:
        up = mesh_up(self._data, up=self._up, cwd=self._cwd, **self._environment)
        self.running = await self._stack.enter_async_context(up)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    async def kill(self) -> None:
        """Kill -9 the process that works, and return once another serves in its place."""
        self._frozen.clear()
        if self._is_dapr:
            pids = self._workers()
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            await gone(pids)
            await self._answers()
        else:
            await self.running.kill()
            await self._stack.aclose()
            await self.__aenter__()

    def freeze(self) -> None:
        """Stop the process that works where it is, until it is killed, or goes on by `thaw`."""
        self._frozen = self._workers()
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let what was frozen go on."""
        self._signal(signal.SIGCONT)
        self._frozen.clear()

    def _signal(self, number: signal.Signals) -> None:
        for pid in self._frozen:
            with suppress(ProcessLookupError):  # it has ended by itself
                os.kill(pid, number)

    def _workers(self) -> list[int]:
        if self._is_dapr:
            return [pid for pid in children_of(self.running.process.pid) if _is_worker(pid)]
        return [self.running.server_pid]

    async def questions(self, count: int = 1) -> list[Any]:
        """The questions to people, once there are so many."""
        return await until(self._inbox, lambda found: len(found) >= count)

    async def approve(self) -> None:
        """Approve each change that waits for it."""
        for question in await self._inbox():
            await self.running.client.answer(question, {"approve": True})

    async def called(self) -> Counter[tuple[str, str]]:
        """The calls of tools that have ended, of all tasks: how often each agent made each.

        Of a call that a kill cut off a check may have said that it happened.
        """
        page = await self.running.get("/events", event_type="tool.called", limit=1_000)
        checks = await self.running.get("/events", event_type="step.checked", limit=1_000)
        happened = [event for event in checks.body["items"] if event["payload"]["outcome"] == "happened"]
        return Counter(
            (event["agent_id"], event["payload"].get("tool") or event["payload"]["name"])
            for event in [*page.body["items"], *happened]
        )

    async def _inbox(self) -> list[Any]:
        return await self.running.client.inbox()

    async def _answers(self) -> None:
        async def status() -> int:
            try:
                return (await self.running.get("/healthz")).status
            except OSError:
                return 0

        await until(status, lambda found: found == 200)


async def until(look: Callable[[], Awaitable[Any]], enough: Callable[[Any], bool]) -> Any:
    """Look until it is enough, and return that."""
    while not enough(found := await look()):
        await asyncio.sleep(_LOOK_SECONDS)
    return found


def _is_worker(pid: int) -> bool:
    return "worker" in Path(f"/proc/{pid}/cmdline").read_text().split("\0")


@pytest.fixture(params=STORES)
def killed_mesh(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[dict[str, str]], KilledMesh]:
    """Makes a mesh on each store, with an environment."""
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else None
    return lambda environment: KilledMesh(request.param, tmp_path / "data", url, environment)
