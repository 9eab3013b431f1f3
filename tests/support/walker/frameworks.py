"""Code of a framework, as the mesh sees it: legs side by side that ask, call tools, and give calls up."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import CancelledError
from functools import partial
from typing import Any

import httpx
import httpx2
import openai

from meshwright import Run
from meshwright.core.errors import AgentError, HostError, ToolFailed
from tests.support.walker.asks import SAY
from tests.support.walker.programs import SHIELD, Op, Request
from tests.support.walker.world import World

GAVE_UP = "gave it up"
_URL = "http://any/v1/chat/completions"
_TIE_SECONDS = 0.01
"""No nap or timeout ends at the moment of a result, as it may in simulated time: their order is unknown."""
_Results = list[Any]


class Leg:
    """One leg: its place, and what it has got."""

    def __init__(self, place: str, before: Sequence[Any] = ()) -> None:
        self.place = place
        self.results: _Results = []
        self._before = before

    def inner(self, place: str) -> Leg:
        """A leg within it, which knows what it knows."""
        return Leg(place, [*self._before, *self.results])

    def text(self, op: Op) -> str:
        """The request of an operation: with what the leg has got, where it says so."""
        if op.way != "mixed":
            return f"{SAY}{op.name}"
        known = hashlib.sha256(json.dumps([*self._before, *self.results]).encode()).hexdigest()[:8]
        return f"{SAY}{op.name} {known}"


class Legs:
    """The legs of one operation, through one of the ways in which the run answers a framework."""

    def __init__(self, run: Run, world: World, op: Op) -> None:
        self._run = run
        self._world = world
        self._op = op
        self._functions = {function.__name__: function for function in run.functions()}
        self._openai: Any = run.openai() if op.way == "openai" else None
        self._http: Any = httpx2.AsyncClient(transport=run.transport("httpx2")) if op.way == "http" else None
        self._transport = run.transport() if op.way == "threads" else None
        self._shielded: list[asyncio.Future[Any]] = []

    async def results(self) -> list[_Results]:
        """What each leg has got, once what it left to itself has ended too."""
        results = await self._results()
        await asyncio.gather(*self._shielded)
        return results

    async def _results(self) -> list[_Results]:
        legs = [(Leg(f"{self._op.name}.{at}"), ops) for at, ops in enumerate(self._op.branches)]
        match self._op.way:
            case "own":
                return await self._run.gather(*(self._all(leg, ops) for leg, ops in legs))
            case "threads":
                loop = asyncio.get_running_loop()
                works = [partial(self._all_in_thread, loop, leg, ops) for leg, ops in legs]
                return await asyncio.gather(*(self._world.in_thread(work) for work in works))
            case "openai":
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(self._all(leg, ops)) for leg, ops in legs]
                return [task.result() for task in tasks]
        return await asyncio.gather(*(self._all(leg, ops) for leg, ops in legs))

    async def _all(self, leg: Leg, ops: Sequence[Op]) -> _Results:
        for at, op in enumerate(ops):
            if op.way == SHIELD and ops[at + 1 :] and ops[at + 1].kind in ("say", "tool"):
                leg.results.append(await self._shield(leg, at, op))
            else:
                leg.results.append(await self._do(leg, f"{leg.place}.{at}", op))
        return leg.results

    async def _do(self, leg: Leg, place: str, op: Op) -> Any:
        match op.kind:
            case "say":
                return self._heard(place, await self._say(place, leg.text(op)))
            case "stream":
                return self._heard(place, await self._stream(place, leg.text(op), int(op.seconds)))
            case "tool":
                assert op.request is not None
                return self._heard(place, await self._call(op.request))
            case "timed":
                return self._heard(place, await self._timed(leg.inner(f"{place}.t"), op))
            case "hedge":
                legs = [leg.inner(f"{place}.h{at}") for at in range(len(op.branches))]
                return self._heard(place, await self._hedge(legs, op))
            case "nap":
                return await asyncio.sleep(op.seconds * self._world.pace + _TIE_SECONDS)
            case "sleep":
                return await self._run.sleep(op.seconds * self._world.pace)
            case "ask":
                answer = await self._run.ask_person(op.name)
                self._world.read_answer(op.name, answer)
                return answer
        raise ValueError(f"a leg has no {op.kind}")

    def _heard(self, place: str, value: Any) -> Any:
        self._world.hear(self._run.task.task_id, place, value)
        return value

    # What it gives up

    async def _timed(self, leg: Leg, op: Op) -> Any:
        try:
            async with asyncio.timeout(op.seconds * self._world.pace + _TIE_SECONDS):
                return await self._all(leg, op.branches[0])
        except TimeoutError:
            return GAVE_UP

    async def _shield(self, leg: Leg, at: int, op: Op) -> Any:
        """The results in time, else none: what was asked for goes on, and its results come to nobody.

        The leg asks for something right behind it, else no journal knew that it did not wait.
        """
        place = f"{leg.place}.{at}"
        inner = leg.inner(f"{place}s")  # it is not within the place, which ends before
        work = asyncio.ensure_future(self._all(inner, op.branches[0]))
        work.add_done_callback(lambda done: done.cancelled() or done.exception())  # it may be left behind
        self._shielded.append(work)
        try:
            async with asyncio.timeout(op.seconds * self._world.pace + _TIE_SECONDS):
                return self._heard(place, await asyncio.shield(work))
        except TimeoutError:
            self._world.hear(self._run.task.task_id, place, GAVE_UP, known_by=f"{leg.place}.{at + 1}")
            return GAVE_UP

    async def _hedge(self, legs: Sequence[Leg], op: Op) -> Any:
        """The result of the first that has one; the others are given up."""
        tasks = [
            asyncio.ensure_future(self._all(leg, ops)) for leg, ops in zip(legs, op.branches, strict=True)
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            first = next(task for task in tasks if task.done())
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return first.result()

    # Models

    async def _say(self, place: str, text: str) -> str:
        self._world.ask(self._run.task.task_id, place, text)
        ways: dict[str, Callable[[str], Awaitable[str]]] = {
            "openai": self._say_openai,
            "http": self._say_http,
        }
        try:
            return self._world.read_reply(text, await ways.get(self._op.way, self._complete)(text))
        except HostError:  # the process ends
            raise
        except Exception as error:  # noqa: BLE001 frameworks catch all
            return failure(error)

    async def _complete(self, text: str) -> str:
        return (await self._run.complete([{"role": "user", "content": text}])).content

    async def _say_openai(self, text: str) -> str:
        try:
            reply = await self._openai.chat.completions.create(**body_of(text))
        except openai.AuthenticationError as error:
            raise HostError("the run has ended") from error
        return reply.choices[0].message.content

    async def _say_http(self, text: str) -> str:
        response = await self._http.post(_URL, json=body_of(text))
        check(response)
        return response.json()["choices"][0]["message"]["content"]

    async def _stream(self, place: str, text: str, pieces: int) -> str:
        """The first pieces of a streamed reply, which is closed behind them."""
        self._world.ask(self._run.task.task_id, place, text)
        ways: dict[str, Callable[[str, int], Awaitable[list[str]]]] = {
            "openai": self._stream_openai,
            "http": self._stream_http,
        }
        try:
            return "".join(await ways.get(self._op.way, self._stream_complete)(text, pieces))
        except HostError:
            raise
        except Exception as error:  # noqa: BLE001 as above
            return failure(error)

    async def _stream_openai(self, text: str, pieces: int) -> list[str]:
        taken: list[str] = []
        stream = await self._openai.chat.completions.create(**body_of(text), stream=True)
        async for chunk in stream:
            if chunk.choices and (piece := chunk.choices[0].delta.content):
                taken.append(piece)
                if len(taken) >= pieces:
                    break
        await stream.close()
        return taken

    async def _stream_http(self, text: str, pieces: int) -> list[str]:
        taken: list[str] = []
        async with self._http.stream("POST", _URL, json={**body_of(text), "stream": True}) as response:
            check(response)
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                choices = json.loads(line.removeprefix("data: "))["choices"]
                if choices and (piece := choices[0]["delta"].get("content")):
                    taken.append(piece)
                    if len(taken) >= pieces:
                        break
        return taken

    async def _stream_complete(self, text: str, pieces: int) -> list[str]:
        taken: list[str] = []
        has_enough = asyncio.Event()

        def take(piece: str) -> None:
            if not has_enough.is_set():
                taken.append(piece)
                if len(taken) >= pieces:
                    has_enough.set()

        messages = [{"role": "user", "content": text}]
        waits = [
            asyncio.ensure_future(self._run.complete(messages, on_delta=take)),
            asyncio.ensure_future(has_enough.wait()),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if not has_enough.is_set():
                await waits[0]
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        return taken

    # Tools

    async def _call(self, request: Request) -> str:
        arguments = {"account": request.account, "amount": request.amount}
        try:
            if self._op.way == "own":
                result = await self._run.call(request.tool, **arguments)
            else:
                result = await self._functions[request.tool](**arguments)
        except ToolFailed as error:
            result = f"failed: {error}"
        self._world.read_result(request, result)
        return result

    # Threads

    def _all_in_thread(self, loop: asyncio.AbstractEventLoop, leg: Leg, ops: Sequence[Op]) -> _Results:
        with httpx.Client(transport=self._transport) as client:
            for at, op in enumerate(ops):
                leg.results.append(self._do_in_thread(loop, client, leg, f"{leg.place}.{at}", op))
        return leg.results

    def _do_in_thread(
        self, loop: asyncio.AbstractEventLoop, client: httpx.Client, leg: Leg, place: str, op: Op
    ) -> Any:
        if op.kind == "say":
            return self._heard(place, self._say_in_thread(client, place, leg.text(op)))
        timeout = None
        if op.kind == "timed":
            timeout, op = op.seconds * self._world.pace, op.branches[0][0]
        assert op.request is not None
        call = asyncio.run_coroutine_threadsafe(self._call(op.request), loop)
        try:
            return self._heard(place, call.result(timeout))
        except TimeoutError:
            call.cancel()
            return self._heard(place, GAVE_UP)

    def _say_in_thread(self, client: httpx.Client, place: str, text: str) -> str:
        self._world.ask(self._run.task.task_id, place, text)
        try:
            response = client.post(_URL, json=body_of(text), timeout=None)
            check(response)
            reply = response.json()["choices"][0]["message"]["content"]
            return self._world.read_reply(text, reply)
        except (CancelledError, HostError):  # the process ends
            raise
        except Exception as error:  # noqa: BLE001 as above
            return f"failed: {type(error).__name__}"


def failure(error: Exception) -> str:
    """What code hears of an error; raise HostError where its run has ended, and it was left behind."""
    if isinstance(error, AgentError) and error.message.startswith("The run of this call has ended"):
        raise HostError("the run has ended") from error
    return f"failed: {type(error).__name__}"


def check(response: Any) -> None:
    """Raise HostError where the run has ended, with its process, else the error of httpx."""
    if response.status_code == 401:
        raise HostError("the run has ended")
    response.raise_for_status()


def body_of(text: str) -> dict[str, Any]:
    """A request of OpenAI's API."""
    return {"model": "default", "messages": [{"role": "user", "content": text}]}
