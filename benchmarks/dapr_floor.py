"""The floor of the lifecycle on Dapr: the same work written by hand for this one purpose, on the same parts.

For each task as many turns (accept, enqueue, claim, complete, settle) and topics (the task's, its result's),
and the same documents, steps and events as the mesh writes (`sample.py`). Documents by compare-and-swap with
foretold etags, inserts without a read, a watch list of open tasks written beside the accepting commit, what
waits behind a call sent together with the next one, messages of a topic taken in groups, and events of 20 ms
in one message. `by_calls` sends accept,
enqueue and settle through actor calls, so that Dapr's placement says where they run; else a turn runs where
its message lands.

It has no recovery, no outbox, no fences, no slots, no traces and no second kind of task.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
from dapr.proto import api_service_v1, api_v1, common_v1
from pydantic_core import from_json, to_json

from benchmarks.dapr_wire import Group, actor_calls, app_callback
from benchmarks.floor import Writer, split
from benchmarks.instant import QUESTION, InstantModel
from meshwright.core.ids import new_id
from meshwright.models.port import CallContext, ChatMessage, ModelRequest

TASKS, RESULTS, EVENTS = "bus/bench/tasks/bench-agent", "bus/bench/task-results", "bus/bench/events"
EVENTS_SECONDS = 0.02
READY_SECONDS = 0.1
RAW = {"rawPayload": "true"}
FIRST_WRITE = common_v1.StateOptions(concurrency=common_v1.StateOptions.CONCURRENCY_FIRST_WRITE)
WHERE = "where"
ACTORS = ("Orchestrator", "bench-agent", WHERE)
PING = b'{"ping":1}'


class Floor:
    """Runs tasks beside a sidecar. With a `log` it is the worker that keeps the events."""

    def __init__(
        self, place: dict[str, Any], sample: dict[str, Any], *, by_calls: bool, log: Writer | None
    ) -> None:
        self._app = place["app"]
        self._by_calls = by_calls
        self._log = log
        self._model = InstantModel()
        self._parts = split(sample)
        self._task, self._thread = sample["documents"][0], sample["documents"][-1]
        self._saves = Group(self._save)
        self._arming = Group(self._write_watch_list, width=1)
        self._messages = Group(self._publish)
        self._events = Group(self._publish_events, width=1, pause=EVENTS_SECONDS)
        self._etags: dict[str, int] = {}
        self._ends: dict[str, asyncio.Future[str]] = {}
        self._open: dict[str, None] = {}
        self._watch_key = f"watch/{new_id()}"
        self._seq = itertools.count(1)
        self._arrived: set[str] = set()
        self._running: set[asyncio.Task[None]] = set()
        self._stub: Any = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Floor]:
        """At work within the block."""
        app, topics = self._app, {f"$share/mesh/{topic}": topic for topic in (TASKS, RESULTS)}
        if self._log is not None:
            topics[f"$share/event-logger/{EVENTS}"] = EVENTS
        server = grpc.aio.server()
        server.add_generic_rpc_handlers(app_callback(topics, (TASKS, RESULTS), self._on_topic, RAW))
        server.add_insecure_port(f"127.0.0.1:{app['port']}")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{app['grpc_port']}") as channel:
            self._stub = api_service_v1.DaprStub(channel)
            if self._by_calls:
                self._start(actor_calls(self._stub, self._token, ACTORS, self._on_call))
            await self._ready()
            yield self
            for task in self._running:
                task.cancel()
        await server.stop(0)

    async def _ready(self) -> None:
        """Return when messages come, and placement knows who is here."""
        known = not self._by_calls
        while not (self._arrived and known):
            await asyncio.gather(*(self._send(topic, [PING]) for topic in (TASKS, RESULTS)))
            await asyncio.sleep(READY_SECONDS)
            facts = await self._ask("GetMetadata", api_v1.GetMetadataRequest())
            known = known or facts.actor_runtime.host_ready

    # The lifecycle

    async def task(self, body: bytes) -> str:
        """Run one task through its lifecycle, and return the answer."""
        task_id = new_id()
        end = self._ends[task_id] = asyncio.get_running_loop().create_future()
        await self._turn("accept", task_id, to_json({**from_json(body), "task_id": task_id}))
        return await end

    async def accept(self, task_id: str, body: bytes) -> None:
        """Keep the task, and give it to its agent."""
        await asyncio.gather(self._put(f"task/{task_id}", self._task, new=True), self._arm(task_id))
        self._tell("accept", task_id)
        self._messages.add((TASKS, to_json({"task_id": task_id, "task": self._task})))

    async def enqueue(self, task_id: str, body: bytes) -> None:
        """Put the task into its thread's inbox."""
        await self._put(f"thread/{task_id}", self._thread, new=True)
        self._start(self._work(task_id))

    async def _work(self, task_id: str) -> None:
        """Claim the task, do it, and complete it."""
        await self._put(f"thread/{task_id}", self._thread)
        self._tell("claim", task_id)
        answer = await self._ask_model(task_id)
        steps = enumerate(self._parts["complete"]["steps"])
        await asyncio.gather(*(self._put(f"step/{task_id}/{n}", step, new=True) for n, step in steps))
        await self._put(f"thread/{task_id}", self._thread)
        self._tell("complete", task_id)
        self._messages.add((RESULTS, to_json({"task_id": task_id, "answer": answer})))

    async def settle(self, task_id: str, body: bytes) -> None:
        """Keep the outcome, and tell whoever waits for it."""
        answer = from_json(body)["answer"]
        await self._put(f"task/{task_id}", {**self._task, "answer": answer})
        self._open.pop(task_id, None)
        self._tell("settle", task_id, answer=answer)
        self._end(task_id, answer)

    async def _ask_model(self, task_id: str) -> str:
        messages = (
            ChatMessage(role="system", content="You do tasks."),
            ChatMessage(role="user", content=QUESTION),
        )
        reply = await self._model.complete(
            ModelRequest(messages=messages, user="bench-agent", context=CallContext(task_id=task_id))
        )
        return reply.content

    def _end(self, task_id: str, answer: str) -> None:
        end = self._ends.pop(task_id, None)
        if end is not None:
            end.set_result(answer)

    # What daprd brings

    async def _turn(self, method: str, task_id: str, body: bytes) -> None:
        if not self._by_calls:
            await self._run(method, task_id, body)
            return
        actor = ACTORS[method == "enqueue"]
        request = api_v1.InvokeActorRequest(actor_type=actor, actor_id=task_id, method=method, data=body)
        await self._ask("InvokeActor", request)

    async def _on_call(self, actor_id: str, method: str, body: bytes) -> bytes:
        if method == WHERE:
            return b"%d" % os.getpid()
        await self._run(method, actor_id, body)
        return b"null"

    async def _run(self, method: str, task_id: str, body: bytes) -> None:
        await {"accept": self.accept, "enqueue": self.enqueue, "settle": self.settle}[method](task_id, body)

    async def _on_topic(self, topic: str, body: bytes) -> None:
        if body == PING:
            self._arrived.add(topic)
        elif topic == EVENTS:
            await self._keep(from_json(body)["events"])
        else:
            await self._turn("enqueue" if topic == TASKS else "settle", from_json(body)["task_id"], body)

    async def _keep(self, events: list[dict[str, Any]]) -> None:
        assert self._log is not None
        rows = [("events", (next(self._seq), *event["row"], to_json(event["payload"]))) for event in events]
        await self._log.commit(rows)
        for event in events:
            if event["answer"] is not None:
                self._end(event["task_id"], event["answer"])

    # What daprd is asked

    async def _put(self, key: str, document: Any, *, new: bool = False) -> None:
        """Write a document over the version that is known; a new one needs no reading."""
        etag = 0 if new else self._etags.get(key) or await self._read_etag(key)
        await self._saves.add((key, to_json(document), etag))
        self._etags[key] = etag + 1

    async def _read_etag(self, key: str) -> int:
        reply = await self._ask("GetState", api_v1.GetStateRequest(store_name="state", key=f"bench/{key}"))
        return int(reply.etag or 0)

    async def _save(self, group: list[tuple[str, bytes, int]]) -> None:
        items = [
            common_v1.StateItem(
                key=f"bench/{key}",
                value=value,
                etag=common_v1.Etag(value=str(etag)) if etag else None,
                options=FIRST_WRITE,
            )
            for key, value, etag in group
        ]
        await self._ask("SaveState", api_v1.SaveStateRequest(store_name="state", states=items))

    async def _arm(self, task_id: str) -> None:
        self._open[task_id] = None
        await self._arming.add(task_id)

    async def _write_watch_list(self, group: list[str]) -> None:
        await self._put(self._watch_key, {"open": list(self._open)})

    def _tell(self, stage: str, task_id: str, answer: str | None = None) -> None:
        for kind, topic, payload in self._parts[stage]["events"]:
            event_id = f"{task_id}/{next(self._seq)}"
            row = (event_id, time.time(), kind, topic, "default", task_id, "bench-agent", task_id)
            told = answer if kind == "task.succeeded" else None
            self._events.add(to_json({"row": row, "task_id": task_id, "payload": payload, "answer": told}))

    async def _publish_events(self, group: list[bytes]) -> None:
        await self._send(EVENTS, [b'{"events":[%b]}' % b",".join(group)])

    async def _publish(self, group: list[tuple[str, bytes]]) -> None:
        bodies = {topic: [body for to, body in group if to == topic] for topic in (TASKS, RESULTS)}
        await asyncio.gather(*(self._send(topic, each) for topic, each in bodies.items() if each))

    async def _send(self, topic: str, bodies: list[bytes]) -> None:
        if len(bodies) == 1:
            one = api_v1.PublishEventRequest(pubsub_name="bus", topic=topic, data=bodies[0], metadata=RAW)
            await self._ask("PublishEvent", one)
            return
        entries = [
            api_v1.BulkPublishRequestEntry(entry_id=str(n), event=body) for n, body in enumerate(bodies)
        ]
        many = api_v1.BulkPublishRequest(pubsub_name="bus", topic=topic, entries=entries, metadata=RAW)
        assert not (await self._ask("BulkPublishEvent", many)).failedEntries

    async def _ask(self, method: str, request: Any) -> Any:
        return await getattr(self._stub, method)(request, metadata=self._token)

    @property
    def _token(self) -> tuple[tuple[str, str], ...]:
        return (("dapr-api-token", self._app["api_token"]),)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
