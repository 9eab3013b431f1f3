"""A program outside that works for a run by its gateway, in sessions: it dies with the run, or alone.

What it has heard is on its disk. Its next session goes on where that ends, or begins anew and knows nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from contextvars import Context, copy_context
from typing import Any

from meshwright import Run
from meshwright.core.ids import new_id
from meshwright.parts.coding.gateway import Gateway
from tests.support.walker.asks import SAY
from tests.support.walker.frameworks import body_of
from tests.support.walker.programs import READ, Op
from tests.support.walker.world import World

_MAX_SESSIONS = 200
_HOST = "box"


class _Gone(Exception):
    """The program has died."""


class Sessions:
    """The sessions of one operation."""

    def __init__(self, run: Run, world: World, op: Op) -> None:
        self._run = run
        self._world = world
        self._op = op
        self._claim = new_id()
        self._session_id = ""
        self._decisions: dict[str, asyncio.Future[str]] = {}

    async def result(self) -> list[Any]:
        """What the program has got, in the session that came to its end."""
        for number in range(_MAX_SESSIONS):
            if (ending := await self._session(number)) is not None:
                self._run.end_life()
                return ending
        raise RuntimeError("the program did not end its work")

    async def _session(self, number: int) -> list[Any] | None:
        run, earlier = self._run, self._session_id
        begun = await run.note(f"{self._op.name} begin", {"claim": self._claim})
        is_live = begun["claim"] == self._claim
        goes_on = bool(earlier) and self._op.way == "goes on"
        opened = (earlier if goes_on else new_id()) if is_live else None
        opened = await run.note(f"{self._op.name} session", opened)
        ending = None
        if opened is not None:
            self._session_id = opened
            if is_live:
                ending = await self._live(opened, goes_on=goes_on, number=number)
        return await run.note(f"{self._op.name} turn", ending)

    async def _live(self, session_id: str, *, goes_on: bool, number: int) -> list[Any] | None:
        gateway = Gateway(self._run)
        gateway.address = f"http://{_HOST}"
        if goes_on:
            gateway.go_on()
        may_go_on = self._op.way == "goes on"
        program = _Program(self, gateway, session_id, dies=self._op.seconds > number, goes_on=may_go_on)
        with self._run.program():
            working = asyncio.create_task(program.work(self._op.rounds), context=Context())
            try:
                await asyncio.wait([working, gateway.interrupted], return_when=asyncio.FIRST_COMPLETED)
                if gateway.interrupted.done():
                    await gateway.interrupted
                return await working
            except _Gone:
                return None
            finally:
                program.is_gone = True
                working.cancel()
                await gateway.close()

    async def decide(self, gateway: Gateway, context: Context, name: str) -> str:
        """The answer of a person, who is asked once for it in all sessions of a claim."""
        if name not in self._decisions:
            asking = context.copy().run(self._begin_asking, name)
            asking.add_done_callback(lambda asked: self._interrupt(gateway, asked))
            self._decisions[name] = asking
        return await asyncio.shield(self._decisions[name])

    def _begin_asking(self, name: str) -> asyncio.Task[str]:
        with self._run.program_block():
            return asyncio.create_task(self._ask(name))

    async def _ask(self, name: str) -> str:
        answer = await self._run.ask_person(name)
        self._world.read_answer(name, answer)
        return answer

    def _interrupt(self, gateway: Gateway, asked: asyncio.Future[str]) -> None:
        error = None if asked.cancelled() else asked.exception()
        if error is not None and not gateway.interrupted.done():
            gateway.interrupted.set_exception(error)

    @property
    def world(self) -> World:
        """The world that it works in."""
        return self._world

    @property
    def task_id(self) -> str:
        """The task that it works for."""
        return self._run.task.task_id


class _Program:
    """One life of the program."""

    def __init__(
        self, sessions: Sessions, gateway: Gateway, session_id: str, *, dies: bool, goes_on: bool
    ) -> None:
        self.is_gone = False
        self._sessions = sessions
        self._world = sessions.world
        self._gateway = gateway
        self._context = copy_context()
        self._memory = self._world.session(session_id)
        self._asked = self._world.session(f"{session_id} asked")
        """The calls of tools that it has asked for by now, by their places."""
        self._dies = dies
        self._goes_on = goes_on
        self._serving: set[asyncio.Task[None]] = set()

    async def work(self, rounds: tuple[tuple[Op, ...], ...]) -> list[Any]:
        """Do what is not done yet. One that dies does so in the middle of a round."""
        for at, ops in enumerate(rounds):
            if all(f"{at}.{number}" in self._memory for number in range(len(ops))):
                continue
            items = [
                asyncio.ensure_future(self._do(f"{at}.{number}", op))
                for number, op in enumerate(ops)
                if f"{at}.{number}" not in self._memory
            ]
            try:
                if self._dies and at == len(rounds) // 2:
                    # In one that goes on its own records say what it lost, which this has not.
                    await asyncio.wait(items, timeout=None if self._goes_on else 2.5 * self._world.pace)
                    raise _Gone
                await asyncio.gather(*items)
            finally:
                for item in items:
                    item.cancel()
        return [self._memory[f"{at}.{number}"] for at, ops in enumerate(rounds) for number in range(len(ops))]

    async def _do(self, place: str, op: Op) -> None:
        if op.kind == "ask":
            value: Any = await self._sessions.decide(self._gateway, self._context, op.name)
        elif op.kind == "say":
            value = await self._say(place, op)
        else:
            value = await self._call(place, op)
        self._memory[place] = value

    async def _say(self, place: str, op: Op) -> str:
        known = hashlib.sha256(json.dumps(self._known(place)).encode()).hexdigest()[:8]
        text = f"{SAY}{op.name} {known}"
        self._world.ask(self._sessions.task_id, f"{op.name} {place}", text)
        status, document = await self._post("/v1/chat/completions", body_of(text))
        self._world.asks.end(self._sessions.task_id, f"{op.name} {place}")
        if status != 200:
            return f"failed: {status}"
        return self._world.read_reply(text, document["choices"][0]["message"]["content"])

    def _known(self, place: str) -> list[Any]:
        """What it knows of rounds before; a program that begins anew looks anew."""
        number = int(place.partition(".")[0])
        known = [value for at, value in self._memory.items() if int(at.partition(".")[0]) < number]
        return sorted(value for value in known if not value.startswith(f"{READ} "))

    async def _call(self, place: str, op: Op) -> str:
        request = op.request
        assert request is not None
        if self._goes_on and place in self._asked:
            self._world.lose_answer(self._sessions.task_id, request)
        self._asked[place] = True
        arguments = {"account": request.account, "amount": request.amount}
        params = {"name": request.tool, "arguments": arguments}
        document = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        status, answer = await self._post("/mcp", document)
        if status != 200:
            raise _Gone
        result = answer["result"]["content"][0]["text"]
        result = f"failed: {result}" if answer["result"]["isError"] else result
        self._world.read_result(request, result)
        return result

    async def _post(self, path: str, document: dict[str, Any]) -> tuple[int, Any]:
        """The answer to a request, which is served on when the program is gone."""
        response: list[dict[str, Any]] = []
        ended = asyncio.Event()
        parts = [{"type": "http.request", "body": json.dumps(document).encode()}]

        async def receive() -> dict[str, Any]:
            if not parts:
                await asyncio.Event().wait()
            return parts.pop()

        async def send(message: dict[str, Any]) -> None:
            response.append(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                ended.set()

        headers = [(b"host", _HOST.encode()), (b"authorization", f"Bearer {self._gateway.token}".encode())]
        scope = {"type": "http", "path": path, "method": "POST", "headers": headers}
        serving = asyncio.create_task(self._gateway.answer(scope, receive, send))
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)
        serving.add_done_callback(lambda _: ended.set())
        await ended.wait()
        assert response, "the gateway gave no answer"
        if self.is_gone or response[0]["status"] == 503:
            raise _Gone
        body = b"".join(message.get("body", b"") for message in response[1:])
        return response[0]["status"], json.loads(body)
