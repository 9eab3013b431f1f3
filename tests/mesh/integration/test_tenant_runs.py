"""A run sees nothing of another tenant, whatever of the mesh its code and its tools can ask."""

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from meshwright import Agent, Capability, File, Run
from meshwright.agents.context.memory import MemoryItem, MemoryStore
from meshwright.agents.tools.tool import ToolContext
from meshwright.core.errors import MeshError
from meshwright.core.files import TaskFile
from meshwright.core.messages import Caller, MemoryScope, TaskRequest
from meshwright.engine.events.filter import EventFilter
from meshwright.mesh.orchestration.tasks import Tasks
from tests.support.http_mesh import Api, http_mesh
from tests.support.tenants import SECRET, THREAD, Asker, fill, finished_task, holder

QUESTION = "What is the word of the owner, the one to be kept?"


class Giver(Agent):
    """Gives a file."""

    agent_id = "giver"
    capabilities = (Capability("giving"),)

    async def run(self, run: Run) -> str:
        await run.attach(File(name="it.txt", data=SECRET.encode()))
        return SECRET


async def of_files(run: Run) -> Any:
    task_id = run.task.payload["file_of"]
    file = TaskFile(name="it.txt", media_type="text/plain", url=f"/tasks/{task_id}/files/1")
    return (await run.read_file(file)).data.decode()


async def of_delegation(run: Run) -> Any:
    return await run.delegate("remembering", QUESTION)


async def of_memories(run: Run) -> Any:
    await run.remember("a note that is to be kept", "global")
    prepared = await run._prepare()
    assert prepared.memory_error is None and prepared.error is None
    return prepared.system, prepared.recalled, prepared.history


async def of_recall(run: Run) -> Any:
    return await run.recall(QUESTION)


async def of_activity(run: Run) -> Any:
    return (await run.activity(datetime(2020, 1, 1, tzinfo=UTC))).model_dump_json()


async def of_events(run: Run) -> Any:
    return await run.wait_event("app.#")


ASKED: dict[str, Callable[[Run], Awaitable[Any]]] = {
    "read_file": of_files,
    "delegate": of_delegation,
    "remember": of_memories,
    "recall": of_recall,
    "activity": of_activity,
    "wait_event": of_events,
}
OWN = {
    "as_current",
    "ask",
    "ask_person",
    "attach",
    "call",
    "changes",
    "charge",
    "complete",
    "converse",
    "gather",
    "note",
    "delegate_all",
    "park",
    "prepare",
    "progress",
    "publish",
    "skills",
    "sleep",
    "state",
    "step",
    "title",
    "tree",
    "until_durable",
}
"""Methods that take no name of others: `delegate_all` is `delegate`, `prepare` is asked with `remember`."""
HARNESS = {"recover", "booked", "close", "confirm", "tell_thread"}
"""Methods that the runtime calls."""


class Remembering(Agent):
    """Says what it was given to know."""

    agent_id = "remembering"
    capabilities = (Capability("remembering"),)
    reads_log = True

    async def run(self, run: Run) -> str:
        prepared = await run._prepare()
        return f"{prepared.system} {prepared.recalled} {prepared.history}"


class Spy(Agent):
    """Asks for all that a run can ask for."""

    agent_id = "spy"
    capabilities = (Capability("spying"),)
    delegates_to = ("remembering",)
    reads_log = True

    async def run(self, run: Run) -> str:
        found = {}
        for name, ask in ASKED.items():
            try:
                found[name] = str(await ask(run))
            except MeshError as error:
                found[name] = type(error).__name__
        return json.dumps(found)


async def spied(api: Api, tenant_id: str, file_of: str) -> dict[str, str]:
    caller = Caller(tenant_id=tenant_id, roles=frozenset({"contents"}))
    payload = {"text": QUESTION, "file_of": file_of}
    request = TaskRequest(agent_id="spy", payload=payload, thread_id=THREAD)
    task_id = (await api.mesh.get(Tasks).submit(request, caller)).task_id
    waits = EventFilter(tenant_id=tenant_id, task_id=task_id, event_type="task.waiting", after_seq=0)
    async with asyncio.timeout(240):
        async for event in api.mesh.log.tail(waits):
            if event.fields.get("kind") == "event":
                break
        for name, said in (("acme", SECRET), ("other", "own")):
            headers = await holder(api, name)
            body = {"topic": "app.x", "event_type": "x.more", "payload": {"what": said}}
            assert (await api.call("POST", "/events", json=body, headers=headers))[0] == 202
        outcome = await api.mesh.get(Tasks).outcome(task_id, tenant_id)
    assert outcome.success, outcome
    return json.loads(outcome.text or "")


async def test_no_run_sees_anything_of_another_tenant(tmp_path: Path) -> None:
    methods = {
        name
        for kind in (Run, ToolContext)
        for name, method in inspect.getmembers(kind, inspect.isroutine)
        if not name.startswith("_")
        and (inspect.iscoroutinefunction(method) or hasattr(method, "__wrapped__"))
    }
    assert methods - OWN - HARNESS == ASKED.keys(), "say how a run of another tenant would use it, in ASKED"
    async with http_mesh(tmp_path, Asker, Giver, Spy, Remembering) as api:
        owned = await fill(api, "acme")
        given = await finished_task(api, owned.headers, "giver", SECRET)
        scopes: tuple[MemoryScope, ...] = ("global", "agent", "project")
        for scope in scopes:
            of = {"agent": "spy"}.get(scope, "")
            text = f"The word of the owner, to be kept: {SECRET} ({scope})"
            item = MemoryItem(memory_id=scope, tenant_id="acme", scope=scope, scope_id=of, text=text)
            await api.mesh.get(MemoryStore).remember(item)
        for name, text in (await spied(api, "other", given)).items():
            assert not any(mark in text for mark in (SECRET, owned.waiting, owned.finished)), (name, text)
        for name, text in (await spied(api, "acme", given)).items():  # which finds it by each of them
            assert SECRET in text, (name, text)
