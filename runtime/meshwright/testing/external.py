"""The contract of programs that work for external agents, in any language.

    python -m meshwright.testing.external -- ./agent --some-option

It starts the program with MESH_URL, MESH_AGENT and perhaps MESH_KEY in its environment, gives it tasks, kills
it before and behind each request, and says which of the promises held. The mesh is a process of its own, with
its data in a folder that is deleted. docs/external.md says what the program has to do with such a task.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from aiohttp import ClientError, ClientSession, ClientTimeout, web

from meshwright import Client, Outcome
from meshwright.core.folders import temporary_folder

_LANES = 4
"""How many programs work side by side, each for an agent of its own."""
_SECONDS = 60.0
"""Within which each scenario has to end."""
_LEASE_SECONDS = 1
_READY_SECONDS = 120.0


class ScenarioResult(NamedTuple):
    """The result of a scenario: `problem` is empty where the promise held."""

    name: str
    problem: str

    def __str__(self) -> str:
        problem = f": {self.problem}" if self.problem else ""
        return f"{'broken' if problem else 'held  '} {self.name}{problem}"


class _PromiseBroken(Exception):
    """A promise did not hold."""


class _MeshProcess:
    """A mesh as a process, at the same address after each start."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._environment = {**os.environ, **environment}
        self._process: asyncio.subprocess.Process | None = None
        self._port = "0"
        self.url = ""

    async def start(self) -> None:
        command = [sys.executable, "-m", "meshwright.cli", "up", "--port", self._port]
        with (self._folder / "mesh.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                "--data",
                str(self._folder / "data"),
                cwd=self._folder,
                env=self._environment,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        assert self._process.stdout is not None
        line = (await asyncio.wait_for(self._process.stdout.readline(), _READY_SECONDS)).decode().strip()
        if not line.startswith("ready "):
            raise _PromiseBroken(
                f"The mesh did not start: {(self._folder / 'mesh.log').read_text()[-2_000:]}"
            )
        self.url = line.partition(" ")[2]
        self._port = self.url.rpartition(":")[2]

    async def kill(self, number: int = signal.SIGKILL) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)
            await self._process.wait()


class _ProgramLane:
    """An agent, its program, and what passes between the program and the mesh."""

    def __init__(self, number: int, command: Sequence[str], relay: _ProgramRelay, log: Path) -> None:
        self.agent = f"contract-{number}"
        self._command, self._relay, self._log = command, relay, log
        self._processes: list[asyncio.subprocess.Process] = []
        self.instances = 0
        self.points: list[str] = []
        """The points that were passed since the task began, each once."""
        self.hook: Callable[[str, str], Awaitable[bool]] | None = None
        """Gets the program's instance and a point. Whether the exchange breaks off there."""
        self.effects: Counter[str] = Counter()
        self.step_ids: dict[str, str] = {}
        """The idempotency key with which the effect of each step came first."""
        self.reported: dict[str, Any] = {}
        self.faults: list[str] = []
        self.faulted = asyncio.Event()
        self.claims: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        """Set once an instance asks for a run."""
        self.beat = asyncio.Event()
        """Set with the first heartbeat that the mesh answers."""
        self.silent = ""
        """The instance whose heartbeats get lost."""
        self.statuses: list[tuple[str, str, int]] = []
        """(instance, verb, status) of each answer."""

    async def start(self) -> str:
        """Start another instance of the program; returns its name."""
        self.instances += 1
        instance = str(self.instances)
        environment = {
            **os.environ,
            "MESH_URL": f"{self._relay.url}/{self.agent}/{instance}",
            "MESH_AGENT": self.agent,
        }
        with self._log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        self._processes.append(process)
        return instance

    async def kill(self) -> None:
        """Kill -9 all instances, with the programs that they started."""
        processes, self._processes = self._processes, list[asyncio.subprocess.Process]()
        for process in processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()

    def begin(self) -> None:
        """Forget the task before."""
        self.hook = None
        self.points.clear()
        self.reported.clear()
        self.faults.clear()
        self.faulted.clear()
        self.effects.clear()
        self.step_ids.clear()
        self.claims.clear()
        self.statuses.clear()
        self.beat.clear()
        self.silent = ""

    def note_fault(self, fault: str) -> None:
        """Note a broken promise, which ends the scenario."""
        self.faults.append(fault)
        self.faulted.set()

    async def pass_point(self, instance: str, point: str) -> None:
        """Note a point; raises _ExchangeCut where the exchange breaks off there."""
        if point not in self.points:
            self.points.append(point)
        if self.hook is not None and await self.hook(instance, point):
            raise _ExchangeCut


class _ExchangeCut(Exception):
    """The connection breaks off without an answer."""


class _ProgramRelay:
    """Passes the requests of programs on to the mesh, and has the effects of their steps."""

    def __init__(self) -> None:
        self.url = ""
        self.mesh_url = ""
        self.lanes: dict[str, _ProgramLane] = {}
        self._session: ClientSession | None = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_post("/{lane}/{instance}/external/{path:.*}", self._pass_on)
        app.router.add_post("/effect/{lane}/{key}", self._effect)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            async with ClientSession(timeout=ClientTimeout(total=120)) as self._session:
                yield
        finally:
            await runner.cleanup()

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        lane, instance = self.lanes[request.match_info["lane"]], request.match_info["instance"]
        verb = request.match_info["path"].rpartition("/")[2]
        body = await request.json()
        name = f"{verb} {body['key']}" if "key" in body else verb
        if verb == "claim":
            lane.claims[instance].set()
        if verb == "heartbeat" and instance == lane.silent:
            return web.json_response({"state": "working"})
        is_counted = verb not in ("claim", "heartbeat")
        try:
            if is_counted:
                await lane.pass_point(instance, f"{name} before")
            status, data, answer = await self._send(request)
            lane.statuses.append((instance, verb, status))
            if verb == "heartbeat":
                lane.beat.set()
            if verb == "results" and status == 200 and answer.get("state") == "done":
                lane.reported.setdefault(body["key"], answer["value"])
            if is_counted or (verb == "claim" and status == 200 and answer["run"]):
                await lane.pass_point(instance, f"{name} behind")
        except (_ExchangeCut, ClientError):
            return _cut(request)
        return web.Response(body=data, status=status, content_type="application/json")

    async def _send(self, request: web.Request) -> tuple[int, bytes, Any]:
        assert self._session is not None
        headers = {"Content-Type": "application/json"}
        if "Authorization" in request.headers:
            headers["Authorization"] = request.headers["Authorization"]
        url = f"{self.mesh_url}/external/{request.match_info['path']}"
        async with self._session.post(url, data=await request.read(), headers=headers) as response:
            return response.status, await response.read(), await response.json(content_type=None)

    async def _effect(self, request: web.Request) -> web.StreamResponse:
        lane, key = self.lanes[request.match_info["lane"]], request.match_info["key"]
        try:
            await lane.pass_point("", f"effect {key} before")
            step_id = request.headers.get("Idempotency-Key", "")
            if not step_id:
                lane.note_fault(f"The effect of {key} came without the step's id as its Idempotency-Key")
            elif lane.step_ids.setdefault(key, step_id) != step_id:
                lane.note_fault(f"The effect of {key} came again with another Idempotency-Key")
            if key in lane.reported:
                lane.note_fault(f"The step {key} was done again though its result is recorded")
            lane.effects[key] += 1
            number = lane.effects[key]
            await lane.pass_point("", f"effect {key} behind")
        except _ExchangeCut:
            return _cut(request)
        return web.json_response({"n": number})


def _cut(request: web.Request) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=502)


class _Suite:
    """The scenarios, against one mesh."""

    def __init__(
        self, command: Sequence[str], folder: Path, environment: Mapping[str, str], only: str
    ) -> None:
        self._command = command
        self._only = only
        self._folder = folder
        names = [f"contract-{number}" for number in range(_LANES)]
        tables = {f"MESH_EXTERNAL__{name}__LEASE_SECONDS": str(_LEASE_SECONDS) for name in names}
        agents = {"MESH_AGENTS__DIR": str(folder / "actors"), "MESH_MODELS__ADAPTER": "offline"}
        self._mesh = _MeshProcess(folder, {**agents, **tables, **environment})
        self._relay = _ProgramRelay()
        self._stack = AsyncExitStack()
        self._client: Client
        self._free: asyncio.Queue[_ProgramLane] = asyncio.Queue()

    async def run(self) -> list[ScenarioResult]:
        (self._folder / "actors").mkdir()
        results: list[ScenarioResult] = []
        async with self._stack as stack:
            await stack.enter_async_context(self._relay.open())
            stack.push_async_callback(self._mesh.kill, signal.SIGTERM)
            await self._mesh.start()
            self._relay.mesh_url = self._mesh.url
            self._client = await stack.enter_async_context(Client(self._mesh.url))
            for number in range(_LANES):
                lane = _ProgramLane(
                    number, self._command, self._relay, self._folder / f"program-{number}.log"
                )
                self._relay.lanes[lane.agent] = lane
                stack.push_async_callback(lane.kill)
                self._free.put_nowait(lane)
            results.append(await self._scenario("a task is done and has its result", self._done))
            if results[0].problem:  # the others would all say the same
                return results
            scenarios: list[tuple[Any, ...]] = [
                ("a question is answered", self._question),
                ("a sleep outlives its program", self._sleep),
                ("a failure has its words", self._failure, False),
                ("a refusal is apart from a failure", self._failure, True),
                ("a cancelled task is left", self._cancelled),
                ("a task past its deadline is left", self._late),
                ("a program that lost its run is refused, and goes on", self._lost),
                *((f"killed at {point!r}", self._killed, point) for point in self._points),
            ]
            results += await asyncio.gather(
                *[self._scenario(*scenario) for scenario in scenarios if self._only in scenario[0]]
            )
            for point in ("steps pay behind", "effect pay behind", "results pay behind"):
                if self._only in (name := f"mesh killed at {point!r}"):
                    results.append(await self._scenario(name, self._mesh_killed, point))
        return results

    async def _scenario(
        self, name: str, play: Callable[..., Coroutine[Any, Any, None]], *arguments: Any
    ) -> ScenarioResult:
        lane = await self._free.get()
        lane.begin()
        try:
            async with asyncio.timeout(_SECONDS):
                await lane.start()
                await _first(play(lane, *arguments), lane.faulted.wait())
            problem = "; ".join(lane.faults)
        except TimeoutError:
            problem = f"It did not end within {_SECONDS:g} seconds, behind {lane.points[-1:] or 'nothing'}"
        except _PromiseBroken as error:
            problem = str(error)
        finally:
            lane.hook = None
            await lane.kill()
            self._free.put_nowait(lane)
        return ScenarioResult(name, problem)

    # Scenarios

    async def _done(self, lane: _ProgramLane) -> None:
        outcome = await self._outcome(await self._submit(lane, self._steps(lane)))
        self._check(lane, outcome)
        if any(count != 1 for count in lane.effects.values()):
            raise _PromiseBroken(f"Each step was to be done once, and they were done {dict(lane.effects)}")
        self._points = [*lane.points]

    async def _killed(self, lane: _ProgramLane, point: str) -> None:
        killed = False

        async def kill(instance: str, passed: str) -> bool:
            nonlocal killed
            if killed or passed != point:
                return False
            killed = True
            await lane.kill()
            await lane.start()
            return True

        lane.hook = kill
        outcome = await self._outcome(await self._submit(lane, self._steps(lane)))
        if not killed:
            raise _PromiseBroken("The point was not passed")
        self._check(lane, outcome)

    async def _mesh_killed(self, lane: _ProgramLane, point: str) -> None:
        killed, restarted = False, asyncio.Event()

        async def kill(instance: str, passed: str) -> bool:
            nonlocal killed
            if killed or passed != point:
                return False
            killed = True
            await self._mesh.kill()
            await self._mesh.start()
            restarted.set()
            return True

        lane.hook = kill
        task_id = await self._submit(lane, self._steps(lane))
        await restarted.wait()
        self._check(lane, await self._outcome(task_id))

    async def _question(self, lane: _ProgramLane) -> None:
        script = [*self._steps(lane)[:1], _ask("size", "Which size?"), _effect(self._relay, lane, "note")]
        outcome = await self._outcome(await self._submit(lane, script))
        values = self._values(outcome)
        if values.get("size") != "L":
            raise _PromiseBroken(f"The answer was 'L', and the program's value is {values.get('size')!r}")
        if lane.effects["look"] != 1:
            raise _PromiseBroken("The step before the question was done again")

    async def _sleep(self, lane: _ProgramLane) -> None:
        line = {"do": "sleep", "key": "pause", "request": {"seconds": 0.5}}
        script = [*self._steps(lane)[:1], line, _effect(self._relay, lane, "note")]
        self._values(await self._outcome(await self._submit(lane, script)))
        if lane.effects["look"] != 1:
            raise _PromiseBroken("The step before the pause was done again")

    async def _failure(self, lane: _ProgramLane, declined: bool) -> None:
        line = {"do": "fail", "message": "no tea today", "declined": declined}
        outcome = await self._outcome(await self._submit(lane, [line]))
        expected = "ToolFailed" if declined else "ExternalTaskFailed"
        error = outcome.error
        if outcome.success or error is None or (error.type, error.message) != (expected, "no tea today"):
            raise _PromiseBroken(f"The outcome was to fail as {expected} with 'no tea today', and is {error}")

    async def _cancelled(self, lane: _ProgramLane) -> None:
        task_id = await self._submit(lane, [{"do": "work"}])
        await lane.beat.wait()
        lane.claims.clear()
        await self._client.cancel(task_id)
        await self._left(lane, await self._client.outcome(task_id), "cancelled")

    async def _late(self, lane: _ProgramLane) -> None:
        task_id = await self._submit(lane, [{"do": "work"}], deadline=6.0)
        await lane.beat.wait()
        lane.claims.clear()
        await self._left(lane, await self._client.outcome(task_id), "timed_out")

    async def _left(self, lane: _ProgramLane, outcome: Outcome, status: str) -> None:
        if outcome.status != status:
            raise _PromiseBroken(f"The task was to be {status}, and is {outcome.status}")
        await lane.claims[str(lane.instances)].wait()

    async def _lost(self, lane: _ProgramLane) -> None:
        first = str(lane.instances)
        held, ended = asyncio.Event(), asyncio.Event()

        async def hold(instance: str, passed: str) -> bool:
            if instance == first and passed == "results look before":
                held.set()
                await ended.wait()
            return False

        lane.hook = hold
        lane.silent = first
        task_id = await self._submit(lane, self._steps(lane))
        await held.wait()
        await lane.start()
        outcome = await self._outcome(task_id)
        lane.claims.clear()
        ended.set()
        self._values(outcome)
        await lane.claims[first].wait()
        late = [status for instance, verb, status in lane.statuses if (instance, verb) == (first, "results")]
        if late not in ([409], [404], []):
            raise _PromiseBroken(f"The late result was answered with {late}")

    # Helpers

    def _steps(self, lane: _ProgramLane) -> list[dict[str, Any]]:
        look, note = (_effect(self._relay, lane, key) for key in ("look", "note"))
        return [look, {**_effect(self._relay, lane, "pay"), "idempotent": False}, note]

    async def _submit(self, lane: _ProgramLane, script: Sequence[Mapping[str, Any]], **fields: Any) -> str:
        task = await self._client.submit(agent_id=lane.agent, payload={"script": [*script]}, **fields)
        return task.task_id

    async def _outcome(self, task_id: str) -> Outcome:
        """Wait for the end of a task; answers what it asks meanwhile."""
        answering = asyncio.create_task(self._answer(task_id))
        try:
            while True:
                with suppress(ClientError, OSError):
                    return await self._client.outcome(task_id)
                await asyncio.sleep(0.2)
        finally:
            answering.cancel()

    async def _answer(self, task_id: str) -> None:
        while True:
            await asyncio.sleep(0.2)
            with suppress(Exception):  # it is answered by now, or the mesh is away
                for question in await self._client.inbox():
                    if question.task_id == task_id:
                        is_ask = question.subject.get("kind") == "question"
                        value = "L" if is_ask else {"approve": False, "result": {"n": 1}}
                        await self._client.answer(question, value)

    def _check(self, lane: _ProgramLane, outcome: Outcome) -> None:
        values = self._values(outcome)
        if missing := [key for key in ("look", "pay", "note") if key not in values]:
            raise _PromiseBroken(f"The result has no value of {', '.join(missing)}")
        for key, value in lane.reported.items():
            if values[key] != value:
                raise _PromiseBroken(
                    f"{key} has the recorded result {value}, and the program's is {values[key]}"
                )
        if lane.effects["pay"] > 1:
            raise _PromiseBroken(f"pay, which is not idempotent, was done {lane.effects['pay']} times")

    def _values(self, outcome: Outcome) -> dict[str, Any]:
        if not outcome.success:
            raise _PromiseBroken(f"The task ended as {outcome.status}: {outcome.error}")
        return dict((outcome.result or {}).get("values") or {})


def _effect(relay: _ProgramRelay, lane: _ProgramLane, key: str) -> dict[str, Any]:
    return {"do": "step", "key": key, "idempotent": True, "url": f"{relay.url}/effect/{lane.agent}/{key}"}


def _ask(key: str, question: str) -> dict[str, Any]:
    return {"do": "ask", "key": key, "request": {"question": question}}


async def _first(*works: Coroutine[Any, Any, object]) -> None:
    """Return, or raise what it raises, once the first of some works has ended."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            await task
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def check_program(
    command: Sequence[str], environment: Mapping[str, str] | None = None, only: str = ""
) -> list[ScenarioResult]:
    """Run the contract with a program; `environment` has further settings of the mesh, like MESH_DATABASE.

    With `only` the scenarios whose names have that text are run, and the first.
    """
    with temporary_folder("mesh-contract-") as folder:
        return await _Suite(command, folder, environment or {}, only).run()


def main() -> int:
    """Run the contract with the program of the command line, and print what held."""
    parser = argparse.ArgumentParser(prog="python -m meshwright.testing.external", description=__doc__)
    parser.add_argument("command", nargs="+", help="the program and its arguments, behind --")
    parser.add_argument("--only", default="", help="run the scenarios whose names have this text")
    arguments = parser.parse_args()
    results = asyncio.run(check_program(arguments.command, only=arguments.only))
    sys.stdout.write("".join(f"{result}\n" for result in results))
    return int(any(result.problem for result in results))


if __name__ == "__main__":
    sys.exit(main())
