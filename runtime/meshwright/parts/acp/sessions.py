"""The sessions of an editor: each is a thread of the mesh, and each prompt is a task in it.

A task goes on without its editor, which may load the thread again. Questions of a task stand in the inbox as
well: the first answer counts.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Any, TypeVar
from urllib.parse import quote

import click

from meshwright import Event, MeshError
from meshwright.client import Client, MeshUnreachable
from meshwright.core import __version__
from meshwright.engine.events.answers import parse_reply
from meshwright.engine.events.tasks import TaskSummary
from meshwright.engine.work.forms import Form
from meshwright.engine.work.people import asks_for_money, asks_person, is_decision
from meshwright.engine.work.protocol import APPROVED_BY, Wait
from meshwright.engine.work.record import TaskView
from meshwright.kit import Backoff, Connection, HostError, InvalidInput, NotFound, new_id
from meshwright.parts.acp import wire
from meshwright.parts.acp.peer import (
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    RESOURCE_NOT_FOUND,
    EditorPeer,
    RpcError,
)

ResultT = TypeVar("ResultT")
Params = Mapping[str, Any]
_MAX_TASKS = 50  # of a thread, the newest, that are loaded
_MAX_LISTED = 200  # tasks, the newest, whose threads are listed
_PAGE_SIZE = 500  # events
_NOTHING: Mapping[str, Any] = {}
_LOOK_SECONDS = 1.0  # between two looks at a task that asks and works
_TRANSIENT = (MeshUnreachable, HostError)


async def _persist(call: Callable[[], Awaitable[ResultT]]) -> ResultT:
    """The result of a call that may be sent again, once the mesh is there."""
    pauses = Backoff(0.2, 5.0, jitter=0.5)
    while True:
        try:
            return await call()
        except _TRANSIENT:
            await asyncio.sleep(pauses.next())


class TaskWatch:
    """Shows one task in a session, and asks the editor what it asks people, until it ends."""

    def __init__(
        self, session: EditorSession, translation: wire.TaskTranslation, task_id: str, after_seq: int
    ) -> None:
        self.task_id = task_id
        """The task."""
        self.questions: dict[str, Wait] = {}
        """The questions that the next prompt answers, the oldest first."""
        self.view: TaskView | None = None
        """The task once it has ended."""
        self._session, self._agent, self._translation = session, session.agent, translation
        self._client = session.agent.client
        self._after_seq = after_seq
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._answering: set[str] = set()
        self._ends: dict[str, Mapping[str, Any]] = {}
        self._changed = asyncio.Event()
        self._following = asyncio.create_task(self._follow())
        self._following.add_done_callback(lambda _: self._changed.set())

    async def turn(self) -> TaskView | None:
        """Returns the task once it has ended; None once it waits for the next prompt. Raises MeshError."""
        while True:
            self._changed.clear()
            if self._following.done():
                self._following.result()
                return self.view
            if self.questions and not self._asking:
                view = await _persist(lambda: self._client.task(self.task_id))
                if view.status == "waiting":
                    return None
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS if self.questions else None):
                    await self._changed.wait()

    async def close(self) -> None:
        """Stop showing the task, which goes on."""
        tasks = [self._following, *self._asking.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def reply(self, text: str) -> None:
        """Answer the oldest question. Raises InvalidInput for a text that does not fit it."""
        key, wait = next(iter(self.questions.items()))
        value = parse_reply(wait.answer_schema, text)
        if await self._answer(key, value):
            self.questions.pop(key, None)

    async def _follow(self) -> None:
        try:
            async with aclosing(self._events()) as events:
                async for event in events:
                    self._show(event)
        finally:
            for asking in self._asking.values():
                asking.cancel()
        self.view = await _persist(lambda: self._client.task(self.task_id))
        self._session.end(self, self.view, self._translation)

    async def _events(self) -> AsyncGenerator[Event]:
        """The events of the task until it ends, over restarts of the mesh."""
        pauses = Backoff(0.2, 5.0, jitter=0.5)
        while True:
            try:
                followed = self._client.follow(self.task_id, after_seq=self._after_seq)
                async with aclosing(followed) as events:
                    async for event in events:
                        pauses.reset()
                        self._after_seq = event.seq or self._after_seq
                        yield event
                return
            except _TRANSIENT:
                await asyncio.sleep(pauses.next())

    def _show(self, event: Event) -> None:
        for update in self._translation.updates(event):
            self._session.update(update)
        fields = event.fields
        if event.event_type == "task.waiting":
            if fields.get("kind") == "person" or fields.get("on_empty") == "ask":
                self.ask(str(fields.get("key")))
        elif event.event_type == "wait.ended":
            self._end_question(str(fields.get("key")), fields)
        self._changed.set()

    # Questions

    def ask(self, key: str) -> None:
        """Ask the editor a question of the task."""
        if key in self._asking or key in self.questions:
            return
        asking = self._asking[key] = asyncio.create_task(self._ask(key))
        asking.add_done_callback(lambda _: self._forget(key, asking))

    def _forget(self, key: str, asking: asyncio.Task[None]) -> None:
        if self._asking.get(key) is asking:
            del self._asking[key]
        self._changed.set()
        if not asking.cancelled() and (error := asking.exception()) is not None:
            self._session.update(wire.message(f"{error}\n", "agent_thought_chunk"))

    async def _ask(self, key: str) -> None:
        view = await _persist(lambda: self._client.task(self.task_id))
        wait = next((wait for wait in view.waits if wait.wait_id == key), None)
        if wait is None:  # it was answered meanwhile
            return
        if not self._agent.may_answer(view, wait):
            return self._tell(key, f"It waits for an answer of others, in the inbox: {wait.reason}")
        if wire.is_approval(wait):
            params = {"toolCall": self._translation.pending_call(wait), "options": [*wire.PERMISSIONS]}
            with suppress(RpcError):  # then it is asked as text
                result = await self._session.call("session/request_permission", params)
                decision = wire.read_permission(result)
                if decision is not None:
                    await self._answer_or_tell(key, decision)
                return None
        elif self._agent.has_forms:
            with suppress(RpcError):
                if await self._ask_form(key, wait):
                    return None
        self.questions[key] = wait
        self._session.update(wire.message(f"\n\n{wait.reason}"))
        return None

    async def _ask_form(self, key: str, wait: Wait) -> bool:
        """Whether a form of the editor has answered a question."""
        form = Form.from_schema(wait.answer_schema)
        params = {"mode": "form", "message": wait.reason, "requestedSchema": form.schema}
        result = await self._session.call("elicitation/create", params)
        content = result.get("content")
        if result.get("action") != "accept" or not isinstance(content, dict):
            return False
        try:
            await self._answer_or_tell(key, form.answer(content))
        except InvalidInput as error:
            self._session.update(wire.message(f"\n\n{error}"))
            return False
        return True

    async def _answer_or_tell(self, key: str, value: Any) -> None:
        """Answer a question; a refusal is told, and the question stays in the inbox. Raises InvalidInput."""
        try:
            await self._answer(key, value)
        except InvalidInput:
            raise
        except MeshError as error:
            self._tell(key, f"{error} It stays in the inbox.")

    async def _answer(self, key: str, value: Any) -> bool:
        """Answer a question; False where somebody else was faster, which is told. Raises MeshError."""
        self._answering.add(key)
        try:
            await _persist(lambda: self._client.answer(self.task_id, value, key=key))
        except MeshError as error:
            self._answering.discard(key)
            if error.status not in (404, 409) or error.field == "anyway":
                raise
            if (fields := self._ends.get(key)) is not None:
                self._end_question(key, fields)
            return False
        return True

    def _end_question(self, key: str, fields: Mapping[str, Any]) -> None:
        """End the question in the editor, and say who has answered it elsewhere."""
        self._ends[key] = fields
        if key in self._answering:  # by the editor, or at the same moment
            return
        was_open = self.questions.pop(key, None) is not None
        asking = self._asking.pop(key, None)
        if asking is not None:
            asking.cancel()
        words = {"expired": "Nobody answered in time", "withdrawn": "It is asked no longer"}
        by, what = fields.get("answered_by") or "Somebody", fields.get("decision")
        text = words.get(str(fields.get("how")), f"{by} has {what or 'answered'} it in the inbox")
        if was_open or asking is not None or what:
            self._tell(key, text, what)

    def _tell(self, key: str, text: str, decision: Any = None) -> None:
        update = self._translation.decided_call(key, text, decision)
        self._session.update(update or wire.message(f"{text}\n", "agent_thought_chunk"))


class EditorSession:
    """A thread, as the editor sees it."""

    def __init__(self, agent: EditorAgent, session_id: str) -> None:
        self.agent, self.session_id = agent, session_id
        self.watches: dict[str, TaskWatch] = {}
        """The tasks that are open."""
        self.is_prompted = False
        """Whether a prompt is worked on."""
        self._prompted: TaskWatch | None = None
        self._is_cancelled = False
        self._client = agent.client

    def update(self, update: wire.Update) -> None:
        """Send an update."""
        self.agent.peer.notify("session/update", {"sessionId": self.session_id, "update": update})

    async def call(self, method: str, params: Params) -> Mapping[str, Any]:
        """Send a request to the editor. Raises RpcError."""
        return await self.agent.peer.call(method, {"sessionId": self.session_id, **params})

    def end(self, watch: TaskWatch, view: TaskView, translation: wire.TaskTranslation) -> None:
        """Show the end of a task."""
        self.watches.pop(watch.task_id, None)
        # The failure of a prompt is the error that answers it.
        is_told = self._prompted is watch and view.outcome is not None and not wire.stop_reason(view.outcome)
        if view.outcome is not None and not is_told:
            for update in translation.end(view.outcome):
                self.update(update)

    async def close(self) -> None:
        """Stop showing the tasks, which go on."""
        await asyncio.gather(*(watch.close() for watch in self.watches.values()))
        self.watches.clear()

    def check_idle(self) -> None:
        """Raises RpcError while a prompt is worked on."""
        if self.is_prompted:
            problem = "A prompt of this session is worked on: wait for its end, or cancel it"
            raise RpcError(INVALID_REQUEST, problem, field="sessionId")

    async def prompt(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        """Work on a prompt: a task of its own, or the answer to the oldest question. Raises MeshError."""
        self.check_idle()
        self.is_prompted, self._is_cancelled = True, False
        try:
            watch = next((watch for watch in self.watches.values() if watch.questions), None)
            if watch is None:
                watch = await self._begin(payload)
            else:
                try:
                    await watch.reply(str(payload["text"]))
                except InvalidInput as error:
                    self.update(wire.message(f"{error}"))
            self._prompted = watch
            view = await watch.turn()
        finally:
            self.is_prompted, self._prompted = False, None
        meta = {"_meta": {"meshwright.task_id": watch.task_id}}
        if view is None or view.outcome is None:
            return {"stopReason": "end_turn", **meta}
        if not (reason := wire.stop_reason(view.outcome)):
            raise _failure(view)
        return {"stopReason": reason, **meta}

    async def _begin(self, payload: Mapping[str, Any]) -> TaskWatch:
        task_id = new_id()
        await self._client.submit(
            self.agent.agent_id, payload=payload, thread_id=self.session_id, task_id=task_id
        )
        translation = wire.TaskTranslation(task_id, self.agent.where)
        watch = self.watches[task_id] = TaskWatch(self, translation, task_id, 0)
        if self._is_cancelled:
            await self.cancel()
        return watch

    async def cancel(self) -> None:
        """Ask for the end of the open tasks."""
        self._is_cancelled = True
        for task_id in [*self.watches]:
            with suppress(NotFound):
                await _persist(lambda task_id=task_id: self._client.cancel(task_id))

    async def replay(self, task_id: str, *, is_shown: bool) -> None:
        """Show a task as it stands, and from then on what comes."""
        view = await self._client.task(task_id)
        events = await self._events(task_id)
        translation = wire.TaskTranslation(task_id, self.agent.where)
        updates = [*wire.user_messages(view)]
        updates += [update for event in events for update in translation.updates(event)]
        if view.outcome is not None:
            updates += translation.end(view.outcome)
        for update in updates if is_shown else ():
            self.update(update)
        if view.outcome is None:
            after_seq = events[-1].seq or 0 if events else 0
            watch = self.watches[task_id] = TaskWatch(self, translation, task_id, after_seq)
            for wait in filter(asks_person, view.waits):
                watch.ask(wait.wait_id)

    async def _events(self, task_id: str) -> list[Event]:
        """The events of a task so far."""
        path, seq, events = f"/tasks/{quote(task_id, safe='')}/events", None, list[Event]()
        while True:
            page = await self._client.call("GET", path, after_seq=seq, limit=_PAGE_SIZE)
            events += map(Event.model_validate, page["items"])
            if (seq := page.get("next_seq")) is None:
                return events


class EditorAgent:
    """The methods of the protocol, for one agent of a mesh."""

    def __init__(self, mesh: Connection, agent_id: str, peer: EditorPeer) -> None:
        self.client: Client = mesh.client
        """The client of the mesh."""
        self.where, self.agent_id, self.peer = mesh.where, agent_id, peer
        self.has_forms = False
        """Whether the editor shows forms."""
        self._caller: Mapping[str, Any] = {}
        self._is_initialized = False
        self._sessions: dict[str, EditorSession] = {}
        self._methods: dict[str, Callable[[Params], Awaitable[Any]]] = {
            "initialize": self._initialize,
            "session/new": self._new,
            "session/load": self._load,
            "session/resume": self._resume,
            "session/list": self._list,
            "session/prompt": self._prompt,
            "session/cancel": self._cancel,
        }

    async def begin(self) -> None:
        """Learn who the caller is, where the mesh says so."""
        with suppress(NotFound):
            self._caller = await self.client.call("GET", "/me")

    async def close(self) -> None:
        """Stop showing tasks, which go on."""
        await asyncio.gather(*(session.close() for session in self._sessions.values()))

    def may_answer(self, view: TaskView, wait: Wait) -> bool:
        """Whether the caller may answer a question, as far as is known here: the mesh decides."""
        name, roles = self._caller.get("name"), self._caller.get("roles", ())
        if not name:
            return True
        if name in wait.subject.get(APPROVED_BY, ()) or (wait.may_answer and name not in wait.may_answer):
            return False
        is_own = view.requested_by == name
        is_named = name in (*wait.may_answer, *wait.escalated_to)
        is_money = asks_for_money(wait.subject)
        return "approver" in roles or is_named or (is_own and not is_decision(wait) and not is_money)

    async def handle(self, method: str, params: Any) -> Any:
        """Answer a request. Raises MeshError."""
        handler = self._methods.get(method)
        if handler is None:
            raise RpcError(METHOD_NOT_FOUND, f"There is no method {method[:100]!r}")
        if not isinstance(params, dict):
            raise RpcError(INVALID_PARAMS, "params has to be an object", field="params")
        if not self._is_initialized and method != "initialize":
            raise RpcError(INVALID_REQUEST, f"{method} came before initialize")
        return await handler(params)

    async def _initialize(self, params: Params) -> dict[str, Any]:
        self._is_initialized = True
        capabilities = params.get("clientCapabilities")
        forms = capabilities.get("elicitation") if isinstance(capabilities, dict) else None
        self.has_forms = isinstance(forms, dict) and isinstance(forms.get("form"), dict)
        return {
            "protocolVersion": wire.VERSION,
            "agentCapabilities": {
                "loadSession": True,
                "promptCapabilities": {"image": True, "audio": True, "embeddedContext": True},
                "mcpCapabilities": {"http": False, "sse": False},
                "sessionCapabilities": {"list": _NOTHING, "resume": _NOTHING},
            },
            "agentInfo": {"name": self.agent_id, "title": self.agent_id, "version": __version__},
            "authMethods": (),
        }

    async def _new(self, params: Params) -> Any:
        _check_place(params)
        session_id = new_id()
        self._sessions[session_id] = EditorSession(self, session_id)
        return {"sessionId": session_id}

    async def _load(self, params: Params) -> Any:
        return await self._take_up(params, is_shown=True)

    async def _resume(self, params: Params) -> Any:
        return await self._take_up(params, is_shown=False)

    async def _take_up(self, params: Params, *, is_shown: bool) -> Any:
        session_id = wire.text_field(params, "sessionId")
        _check_place(params)
        tasks = await self._tasks(session_id)
        if not tasks and session_id not in self._sessions:
            raise _unknown_session(session_id, self.agent_id)
        if (earlier := self._sessions.get(session_id)) is not None:
            earlier.check_idle()
            await earlier.close()
        session = self._sessions[session_id] = EditorSession(self, session_id)
        for task in reversed(tasks):
            if is_shown or task.completed_at is None:
                await session.replay(task.task_id, is_shown=is_shown)
        return _NOTHING

    async def _tasks(self, thread_id: str) -> Sequence[TaskSummary]:
        """The newest tasks of a thread for this agent that the caller may see, the newest first."""
        with suppress(NotFound, InvalidInput):
            return await self.client.tasks(thread_id=thread_id, agent_id=self.agent_id, limit=_MAX_TASKS)
        return []

    async def _list(self, params: Params) -> Any:
        cwd = params.get("cwd")
        folder = cwd if isinstance(cwd, str) else os.getcwd()
        tasks = list[TaskSummary]()
        with suppress(NotFound):
            tasks = await self.client.tasks(agent_id=self.agent_id, order="changed", limit=_MAX_LISTED)
        sessions: dict[str, dict[str, Any]] = {}
        for task in tasks:
            thread_id = task.thread_id or task.task_id
            if task.parent_task_id is None:
                session = {"sessionId": thread_id, "cwd": folder, "updatedAt": task.updated_at.isoformat()}
                session = sessions.setdefault(thread_id, session)
                if task.title:
                    session.setdefault("title", task.title)
        return {"sessions": [*sessions.values()]}

    async def _prompt(self, params: Params) -> Any:
        session = self._session(params)
        return await session.prompt(wire.read_prompt(params.get("prompt")))

    async def _cancel(self, params: Params) -> None:
        await self._session(params).cancel()

    def _session(self, params: Params) -> EditorSession:
        session_id = wire.text_field(params, "sessionId")
        if (session := self._sessions.get(session_id)) is None:
            raise _unknown_session(session_id, self.agent_id)
        return session


def _check_place(params: Params) -> None:
    """Raises RpcError for a folder that is none. MCP servers of the editor are not used."""
    if not os.path.isabs(wire.text_field(params, "cwd")):
        raise RpcError(INVALID_PARAMS, "cwd has to be an absolute path", field="cwd")
    servers = params.get("mcpServers", [])
    if not isinstance(servers, list):
        raise RpcError(INVALID_PARAMS, "mcpServers has to be a list", field="mcpServers")
    if servers:
        click.echo("mesh: the agent has its own tools; MCP servers of the editor are not used", err=True)


def _unknown_session(session_id: str, agent_id: str) -> RpcError:
    return RpcError(
        RESOURCE_NOT_FOUND,
        f"There is no session {session_id[:100]!r} of {agent_id}",
        remedy="session/list has those there are, and session/load takes one up",
        field="sessionId",
    )


def _failure(view: TaskView) -> MeshError:
    assert view.outcome is not None
    return MeshError(wire.error_text(view.outcome), remedy=f"mesh task {view.task_id} shows it")
