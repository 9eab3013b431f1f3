"""Each operation of a task and of its readers takes as many steps of SQLite, whatever others have done."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from zlib import crc32

import pytest

from benchmarks.grown import grow
from meshwright import Agent, Capability, Run
from meshwright.core.messages import Caller
from meshwright.engine.events.table import BLOCK_EVENTS
from meshwright.engine.events.task_lists import TaskSubject, subject_tasks
from meshwright.engine.events.tasks import recount_ended
from meshwright.engine.sql.sqlite import SqliteSession
from meshwright.money.task_costs import recount_hours
from meshwright.parts.retention.operations import Retention
from meshwright.testing import ScriptedModel
from tests.support.http_mesh import Api, http_mesh
from tests.support.sqlite_steps import Steps

Reading = Callable[[], Awaitable[object]]
FEW, MANY, VERY_MANY = 1_000, 20_000, 100_000
PER_GROUP = 200
"""Tasks for each tenant and each agent: twenty times as many tasks are of twenty times as many of both."""
MAX_MORE = 4_000
"""An index is a level deeper, the newest block of events fuller, and a wait is looked at more often. One step
for each task is 19,000."""
BOUNDED = {
    "tree of many": 5_000,
    "story": 10_000,
    "trends": 10_000,
    "flows of a tenant": 1_200,
    "costs by task": 10_000,
    "costs by tree": 10_000,
    "costs of a minute": 10_000,
    "costs of an agent in a minute": 10_000,
    "costs until now": 10_000,
}
"""Reports that read the newest rows, and how many."""


class Writer(Agent):
    """Asks a model."""

    agent_id = "writer"
    capabilities = (Capability("writing"),)
    prompt_text = "Write."


class Asker(Agent):
    """Asks a person."""

    agent_id = "asker"
    capabilities = (Capability("asking"),)
    prompt_text = "Ask."

    async def run(self, run: Run) -> str:
        return str(await run.ask_person("Which color?"))


class Listener(Agent):
    """Waits for an event."""

    agent_id = "listener"
    capabilities = (Capability("listening"),)

    async def run(self, run: Run) -> str:
        await run.wait_event("app.news", {"event_type": "news.said"})
        return "heard"


class Parent(Agent):
    """Delegates twice."""

    agent_id = "parent"
    capabilities = (Capability("delegating"),)
    delegates_to = ("writer",)

    async def run(self, run: Run) -> str:
        return await run.delegate("writer", "one") + await run.delegate("writer", "two")


_ROOT, _CHILD, _OF_THREAD = (f"{copy:026d}" for copy in (10, 16, 11))
"""A copy below which one in ten of the others is, one of these, and one of the long thread."""
_A2A = {"A2A-Version": "1.0"}
_MCP = {"Accept": "application/json, text/event-stream"}
_MESSAGES = [{"role": "user", "content": "a"}]
_COPY = "CAST(substr(task_id, -8) AS INTEGER)"
_IS_COPY = "task_id LIKE '00%'"
_TIMES = tuple(
    f"UPDATE {table} SET {name} = {name} - 10 + 10.0 * {_COPY} / :tasks WHERE {_IS_COPY}"
    for table, name in (
        ("calls", "time"),
        ("tasks", "created_at"),
        ("tasks", "updated_at"),
        ("tasks", "completed_at"),
    )
)
"""Others are of the last seconds, one after another."""
_OTHERS = tuple(
    f"UPDATE {table} SET {change} WHERE {_IS_COPY} AND {_COPY} % 10 = {digit}"
    for digit, table, change in (
        (1, "tasks", "thread_id = 'long'"),
        (1, "calls", "thread_id = 'long'"),
        (2, "tasks", "parent_task_id = 'parent' || rowid % 100"),
        (3, "tasks", f"tenant_id = 'tenant' || {_COPY} / 10 % :groups"),
        (3, "calls", f"tenant_id = 'tenant' || {_COPY} / 10 % :groups"),
        (4, "tasks", "status = 'failed', error = 'ToolFailed'"),
        (5, "tasks", f"agent_id = 'other' || {_COPY} / 10 % :groups"),
        (5, "calls", f"agent_id = 'other' || {_COPY} / 10 % :groups"),
        (6, "tasks", f"parent_task_id = '{_ROOT}'"),
        (7, "tasks", f"requested_by = 'requester' || {_COPY}"),
    )
)
"""A copy has its own thread, the same tenant, no parent, and has succeeded. One in ten differs in each."""
_IS_RARE = f"{_IS_COPY} AND {_COPY} ="
_RARE = (
    f"UPDATE calls SET tags = '[\"rare\"]', model = 'rare' WHERE {_IS_RARE} 518",
    f"UPDATE tasks SET model = 'rare' WHERE {_IS_RARE} 518",
    f"UPDATE tasks SET error = NULL WHERE {_IS_RARE} 524",
    f"UPDATE tasks SET agent_id = NULL WHERE {_IS_RARE} 528",
)
"""One has a tag and a model that others lack, one failed without an error, and one never got an agent."""
_STATES = (
    "INSERT OR IGNORE INTO event_keys SELECT 'event_type=' || event_type, block FROM event_blocks, "
    "(SELECT 'run.state' AS event_type UNION SELECT 'run.title')"
)
"""Others set states and titles in each block of the log."""


async def measure(folder: Path, tasks: int, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The steps of each operation beside so many tasks of the last hour."""
    folder.mkdir()
    script = ScriptedModel(*["Done."] * 1_000)
    agents = Writer, Asker, Parent, Listener
    price = {"input": 1, "output": 1}
    async with http_mesh(folder, *agents, script=script, default_price=price) as api:
        old, *_ = [
            await api.finished(agent_id="writer", payload={"text": f"t{number}"}) for number in range(3)
        ]
        await api.mesh.log.flush()
        data = folder / api.mesh.settings.data_dir
    grow(data, tasks)
    with closing(sqlite3.connect(data / "mesh.db", isolation_level=None)) as store:
        store.execute("BEGIN")
        for statement in (*_TIMES, *_OTHERS, *_RARE, _STATES):
            store.execute(statement, {"groups": tasks // PER_GROUP, "tasks": tasks})
        for recount in (recount_hours, recount_ended):
            recount(SqliteSession(store))
        _summarize(store)
        store.execute("COMMIT")
    steps = Steps(monkeypatch, folder / "steps")
    budgets = [
        {"name": "all", "scope": "mesh", "limit_usd": 500},
        {"name": "each", "scope": "agent", "limit_usd": 500},
        {"name": "task", "scope": "task", "limit_usd": 5},
    ]
    others = {"budgets": budgets, "default_price": price, "retention": {"succeeded_days": 1}}
    others["external"] = {"buyer": {}}
    async with http_mesh(folder, *agents, script=script, **others) as api:
        return await Operations(api, steps, old).measure()


def _summarize(store: sqlite3.Connection) -> None:
    """Let the summaries of blocks name the task of a requester."""
    of_requester = "SELECT task_id, seq, last_seq FROM tasks WHERE requested_by = 'requester517'"
    for task_id, first, last in store.execute(of_requester).fetchall():
        key = crc32(f"task_id={task_id}".encode()).to_bytes(4, "little")
        summarize = "UPDATE event_blocks SET keys = CAST(keys || ? AS BLOB) WHERE block BETWEEN ? AND ?"
        store.execute(summarize, (key, first // BLOCK_EVENTS, last // BLOCK_EVENTS))


class Operations:
    """All that a task and its readers do, in a mesh; a task ended before the others."""

    def __init__(self, api: Api, steps: Steps, old: str) -> None:
        self._api, self._steps, self._old = api, steps, old

    async def measure(self) -> dict[str, int]:
        """The steps of each."""
        api = self._api
        ended = await api.finished(agent_id="writer", payload={"text": "read"}, thread_id="mine")
        failed = await api.finished(agent_id="echo", payload={"text": "read", "fail": True})
        tree = await api.finished(agent_id="parent", payload={"text": "read"})
        view = await api.get(f"/tasks/{ended}")
        assert view["status"] == "succeeded", view
        assert (await api.get(f"/tasks/{tree}"))["status"] == "succeeded"
        [first, *_] = (await api.get("/events", requested_by="requester517"))["items"]
        assert first["task_id"].endswith("517"), first
        await api.mesh.log.flush()
        await self._steps.rest()
        counts = dict[str, int]()
        for name, reading in self._readings(ended, tree, failed).items():
            counts[name] = await self._steps.fewest(reading)
        for name, action in self._actions(ended, failed).items():
            counts[name] = await self._steps.fewest(action, and_rest=True)
        return counts

    def _readings(self, task_id: str, tree: str, failed: str) -> dict[str, Reading]:
        return {
            **self._of_task(task_id, tree, failed),
            **self._of_others(),
            **self._of_protocols(task_id),
            **self._of_lists(tree),
            **self._of_money(tree),
            **self._of_mesh(),
            **self._of_duties(tree),
        }

    def _get(self, path: str, tenant: str | None = None, expected: int = 200, **params: str) -> Reading:
        headers = {"Mesh-Tenant": tenant} if tenant else {}

        async def read() -> None:
            async with self._api.session.get(path, params=params, headers=headers) as response:
                assert response.status == expected, f"{path}: {await response.text()}"
                await response.read()

        return read

    def _post(self, path: str, headers: dict[str, str] | None = None, **body: object) -> Reading:
        async def post() -> None:
            async with self._api.session.post(path, json=body, headers=headers) as response:
                text = await response.text()
                assert response.status < 300, f"{path}: {text}"
                assert "jsonrpc" not in body or '"result":' in text, f"{path}: {text}"

        return post

    def _of_others(self) -> dict[str, Reading]:
        """One of a tree and of a thread with many, and pages of what is seldom changed."""
        get = self._get
        return {
            "task of many": get(f"/tasks/{_ROOT}"),
            "child of many": get(f"/tasks/{_CHILD}"),
            "steps of a child of many": get(f"/tasks/{_CHILD}/steps"),
            "tree of a child of many": get(f"/tasks/{_CHILD}/tree"),
            "export of a child of many": get(f"/tasks/{_CHILD}/export"),
            "task of a long thread": get(f"/tasks/{_OF_THREAD}"),
            "steps of a task of a long thread": get(f"/tasks/{_OF_THREAD}/steps"),
            "export of a task of a long thread": get(f"/tasks/{_OF_THREAD}/export"),
            **{
                path: get(path)
                for path in (
                    *("/health", "/healthz", "/me", "/deployments", "/deployments/route", "/allowances"),
                    *("/channels", "/webhooks", "/schedules", "/api/agents", "/v1/models", "/v1/prompts"),
                    *("/v1/evaluations", "/v1/experiments"),
                )
            },
        }

    def _of_protocols(self, task_id: str) -> dict[str, Reading]:
        def a2a(method: str, **params: str) -> Reading:
            return self._post("/a2a/agents/writer", _A2A, jsonrpc="2.0", id=1, method=method, params=params)

        return {
            "response": self._get(f"/v1/responses/resp_{task_id}"),
            "task by A2A": a2a("GetTask", id=task_id),
            "thread by A2A": a2a("ListTasks", contextId="mine"),
            "task by MCP": self._call_tool("mesh_get_task", task_id=task_id),
        }

    def _call_tool(self, name: str, **arguments: str) -> Reading:
        params = {"name": name, "arguments": arguments}
        return self._post("/mcp", _MCP, jsonrpc="2.0", id=1, method="tools/call", params=params)

    def _of_task(self, task_id: str, tree: str, failed: str) -> dict[str, Reading]:
        api, get, path = self._api, self._get, f"/tasks/{task_id}"

        async def follow() -> None:
            async with api.stream(f"{path}/events") as stream:
                await stream.rest()

        return {
            "task": get(path),
            "old task": get(f"/tasks/{self._old}"),
            "wait for an old task": get(f"/tasks/{self._old}", wait="1"),
            "outcome": lambda: api.client.outcome(task_id),
            "steps": get(f"{path}/steps"),
            "step": get(f"{path}/steps/1"),
            "export": get(f"{path}/export"),
            "tree": get(f"/tasks/{tree}/tree"),
            "tree of many": get(f"/tasks/{_ROOT}/tree"),
            "stream": follow,
            "events of a task": get("/events", task_id=task_id),
            "plan of a retry": get(f"/tasks/{failed}/retry"),
        }

    def _of_lists(self, tree: str) -> dict[str, Reading]:
        get = self._get
        return {
            "tasks": get("/tasks"),
            "tasks of a status": get("/tasks", status="succeeded"),
            "tasks of a thread": get("/tasks", thread_id="mine"),
            "changed tasks of a thread": get("/tasks", thread_id="mine", order="changed"),
            "tasks of a long thread": get("/tasks", thread_id="long"),
            "changed tasks of a long thread": get("/tasks", thread_id="long", order="changed"),
            "tasks of an agent": get("/tasks", agent_id="parent"),
            "tasks of a requester": get("/tasks", requested_by="requester517"),
            "tasks of a while": get("/tasks", since="0s"),
            "failed tasks of a while": get("/tasks", since="0s", dead="true"),
            "changed tasks of a while": get("/tasks", since="0s", order="changed"),
            "changed failed tasks of an agent": get("/tasks", agent_id="echo", dead="true", order="changed"),
            "changed waiting tasks": get("/tasks", status="waiting", order="changed"),
            "changed tasks of an agent": get("/tasks", agent_id="parent", order="changed"),
            "changed tasks of a requester": get("/tasks", requested_by="requester517", order="changed"),
            "changed tasks by words": get("/tasks", text="read", order="changed"),
            "tasks of an agent's error": get("/tasks", error="ToolFailed", agent_id="echo"),
            "tasks of an error": get("/tasks", error="ToolFailed"),
            "tasks of an error that there never was": get("/tasks", expected=404, error="Nothing"),
            "costs of an error that there never was": get("/costs", expected=404, error="Nothing"),
            "tasks of a prompt that there never was": get("/tasks", expected=404, prompt="nothing"),
            "tasks of a tag that no call has": get("/tasks", tag="nothing"),
            "tasks of a rare tag": get("/tasks", tag="rare"),
            "changed tasks of a rare tag": get("/tasks", tag="rare", order="changed"),
            "events of a rare tag": get("/events", tag="rare"),
            "tasks of a rare model": get("/tasks", model="rare"),
            "changed tasks of a rare model": get("/tasks", model="rare", order="changed"),
            "tasks of an agent's rare model": get("/tasks", model="rare", agent_id="writer"),
            "tasks of a model that there never was": get("/tasks", expected=404, model="nothing"),
            "tasks until long ago": get("/tasks", until="52w"),
            "changed tasks until long ago": get("/tasks", until="52w", order="changed"),
            "an agent's tasks until long ago": get("/tasks", until="52w", agent_id="writer"),
            "tasks without an agent": get("/tasks", lacks="agent_id"),
            "changed tasks without an agent": get("/tasks", lacks="agent_id", order="changed"),
            "failed tasks without an error": get("/tasks", lacks="error", status="failed"),
            "dead tasks without an error": get("/tasks", lacks="error", dead="true", order="changed"),
            "tasks of a parent": get("/tasks", parent_task_id=tree),
            "children of many": get("/tasks", parent_task_id=_ROOT),
            "tasks of a capability": get("/tasks", capability="writing"),
            "open tasks": get("/tasks", waits_for="person"),
            "a task's own thread": get("/tasks", thread_id=tree),
            "tasks by words": get("/tasks", text="read"),
            "task by the end of its id": get("/tasks", task_id=tree[-6:]),
            "task by the beginning of its id": get("/tasks", task_id=tree[:12]),
            "no task by the end of its id": get("/tasks", task_id="ZZZZZZ"),
            "changed tasks": get("/tasks", order="changed"),
            "tasks of a tenant": get("/tasks", "tenant3"),
            "failed tasks": get("/tasks", dead="true"),
            "failed tasks of an agent": get("/tasks", status="failed", agent_id="echo"),
            "failed tasks of a capability": get("/tasks", dead="true", capability="echoing"),
            "tasks to retry": self._post("/retry", dry_run=True, agent_id="echo"),
            "dead letters": get("/dead-letters"),
            "dead letters of an agent": get("/dead-letters", agent_id="writer"),
            "dead letters of a capability": get("/dead-letters", capability="writing"),
            "dead letters of a tenant": get("/dead-letters", "tenant3"),
            "dead letters of a while": get("/dead-letters", since="0s"),
            "dead letters of an agent in a while": get("/dead-letters", since="0s", agent_id="echo"),
            "dead letters until then": get("/dead-letters", until="52w"),
            "dead letters of a thread": get("/dead-letters", thread_id="mine"),
            "dead letters below a task": get("/dead-letters", parent_task_id=tree),
            "events": get("/events", order="desc", limit="20"),
            "events of a thread": get("/events", thread_id="mine"),
            "events of a tag that no call has": get("/events", tag="nothing"),
            "events of a requester": get("/events", requested_by="requester517"),
            "last events of a requester": get("/events", requested_by="requester517", order="desc"),
            "events of a task by its id's end": get("/events", task_id=tree[-6:]),
            "events below a task": get("/events", parent_task_id=tree),
            "inbox": get("/inbox"),
            "ended questions": get("/inbox", ended="true"),
            "memories": get("/memories"),
        }

    def _of_money(self, tree: str) -> dict[str, Reading]:
        get = self._get
        return {
            "budgets": get("/budgets"),
            "costs": get("/costs"),
            "costs of a day": get("/costs", since="24h"),
            "costs of a minute": get("/costs", since="1m"),
            "costs of an agent in a minute": get("/costs", since="1m", agent_id="parent"),
            "costs until now": get("/costs", until="0s"),
            "costs of a thread": get("/costs", thread_id="mine"),
            "costs below a task": get("/costs", parent_task_id=tree),
            "costs below many": get("/costs", parent_task_id=_ROOT),
            "costs of an agent": get("/costs", agent_id="parent"),
            "costs of a capability": get("/costs", capability="delegating"),
            "costs of a requester": get("/costs", requested_by="requester517"),
            "costs of a tenant": get("/costs", "tenant3"),
            "costs by tenant": get("/costs", by="tenant"),
            "costs by day": get("/costs", bucket="day", since="7d"),
            "costs of a thread by task": get("/costs", by="task", thread_id="mine"),
            "costs of a tenant by task": get("/costs", "tenant3", by="task"),
            "costs of a tenant by tree": get("/costs", "tenant3", by="tree"),
            "costs by task": get("/costs", by="task"),
            "costs by tree": get("/costs", by="tree"),
            "costs of a model that there never was": get("/costs", expected=404, model="nothing"),
            "costs of a rare tag": get("/costs", tag="rare"),
            "costs of a rare model": get("/costs", model="rare"),
            "costs of nobody": get("/costs", expected=404, agent_id="nobody"),
            "estimate": get("/costs/estimate", tenant="default", agent_id="writer"),
        }

    def _of_mesh(self) -> dict[str, Reading]:
        get = self._get
        return {
            "status": get("/status"),
            "scale": get("/scale/writer"),
            "agents": get("/agents"),
            "scores": get("/agents/score/writing"),
            "figures": get("/figures"),
            "figures of a tenant": get("/figures", tenant="tenant3"),
            "metrics": get("/metrics"),
            "trends": get("/figures/trends"),
            "trends of a tenant": get("/figures/trends", "tenant3"),
            "flows": get("/figures/flows"),
            "story": get("/story", since="12h"),
            "story of a tenant": get("/story", "tenant3", since="12h"),
            "flows of a tenant": get("/figures/flows", "default"),
            "readyz": get("/readyz"),
            "trees": get("/trees"),
        }

    def _of_duties(self, tree: str) -> dict[str, Reading]:
        api = self._api

        async def prune() -> None:
            admin = Caller(all_tenants=True, roles=frozenset({"admin"}), requested_by="admin")
            assert (await api.mesh.get(Retention).prune(admin, dry_run=True)).tasks == {}

        def subject(**fields: str) -> Reading:
            return lambda: api.mesh.log.view(subject_tasks, "default", TaskSubject(**fields))

        return {
            "tasks to prune": prune,
            "tasks to erase": subject(task_id=tree),
            "thread to erase": subject(thread_id="mine"),
            "requester to erase": subject(requested_by="requester517"),
        }

    def _other_actions(self, ended: str, failed: str) -> dict[str, Reading]:
        api, keys = self._api, (f"key{number}" for number in range(100))

        async def fail() -> None:
            await api.finished(agent_id="echo", payload={"text": "a", "fail": True})

        async def retry() -> None:
            generation = (await api.client.outcome(failed)).generation
            await self._post(f"/tasks/{failed}/retry", begin="start")()
            while (await api.client.outcome(failed)).generation == generation:
                await asyncio.sleep(0.02)

        async def fork() -> None:
            async with api.session.post(f"/tasks/{ended}/fork", json={"step": "1"}) as response:
                await api.client.outcome((await response.json())["task_id"])

        async def ask_once() -> None:
            await api.finished(agent_id="writer", payload={"text": "a"}, idempotency_key=next(keys))

        async def send() -> None:
            message = {"messageId": next(keys), "role": "ROLE_USER", "parts": [{"text": "a"}]}
            body = {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {"message": message}}
            await self._post("/a2a/agents/writer", _A2A, **body)()

        async def publish_once() -> None:
            await api.client.publish("app.other", "other.said", {}, idempotency_key=next(keys))

        async def claim() -> None:
            task_id = await api.submit(agent_id="buyer", text="tea")
            _, claimed = await api.call("POST", "/external/buyer/claim", json={})
            end = {"token": claimed["run"]["token"], "text": "bought"}
            await self._post(f"/external/runs/{task_id}/complete", **end)()
            await api.client.outcome(task_id)

        return {
            "fail": fail,
            "claim": claim,
            "claim of nothing": self._post("/external/buyer/claim", wait=0),
            "retry": retry,
            "fork": fork,
            "ask once": ask_once,
            "ask and wait": self._post("/tasks?wait=60", agent_id="writer", payload={"text": "a"}),
            "ask by A2A": send,
            "ask by MCP": self._call_tool("writer", text="a"),
            "chat": self._post("/v1/chat/completions", model="default", messages=_MESSAGES),
            "complete": self._post("/complete", model="quality", messages=_MESSAGES),
            "score": self._post(f"/v1/tasks/{ended}/scores", name="thumbs", value=1.0),
            "raise a budget": self._post("/budgets/raise", budget="all", amount_usd="1"),
            "hold": self._post("/hold"),
            "release": self._post("/release"),
            "publish once": publish_once,
        }

    def _actions(self, ended: str, failed: str) -> dict[str, Reading]:
        api = self._api

        async def ask() -> None:
            await api.finished(agent_id="writer", payload={"text": "a"})

        async def ask_in_thread() -> None:
            await api.finished(agent_id="writer", payload={"text": "a"}, thread_id="mine")

        async def ask_in_long_thread() -> None:
            await api.finished(agent_id="writer", payload={"text": "a"}, thread_id="long")

        async def delegate() -> None:
            await api.finished(agent_id="parent", payload={"text": "a"})

        async def question() -> tuple[str, str]:
            task_id = await api.submit(agent_id="asker", payload={"text": "a"})
            while not (items := (await api.get("/inbox"))["items"]):
                await asyncio.sleep(0.02)
            return task_id, items[0]["wait_id"]

        async def answer() -> None:
            task_id, key = await question()
            await api.client.answer(task_id, "blue", key=key)
            await api.client.outcome(task_id)

        async def cancel() -> None:
            task_id, _ = await question()
            await api.client.cancel(task_id)
            await api.client.outcome(task_id)

        async def wait() -> None:
            task_id = await api.submit(agent_id="listener", payload={"text": "a"})
            while not (await api.get(f"/tasks/{task_id}"))["waits"]:
                await asyncio.sleep(0.02)
            await api.client.publish("app.news", "news.said", {})
            await api.client.outcome(task_id)

        async def publish() -> None:
            await api.client.publish("app.other", "other.said", {})

        return {
            **self._other_actions(ended, failed),
            "ask": ask,
            "ask in a thread": ask_in_thread,
            "ask in a long thread": ask_in_long_thread,
            "delegate": delegate,
            "answer": answer,
            "cancel": cancel,
            "wait for an event": wait,
            "publish": publish,
        }


_PARKED = """
    INSERT INTO waits (tenant_id, wait_key, task_id, seq, kind, account, since)
    WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?)
    SELECT 'tenant' || n % 100, n || '/1', n, n, 'program', 'program/buyer', n FROM numbers
"""


async def test_claims_do_not_grow_with_tasks_that_wait_for_a_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = list[int]()
    for waiting in (FEW, MANY):
        folder = tmp_path / str(waiting)
        folder.mkdir()
        steps = Steps(monkeypatch, folder / "steps")
        async with http_mesh(folder, external={"buyer": {}}) as api:
            await api.mesh.database.write(lambda session, n=waiting: session.execute(_PARKED, (n,)) and None)
            await steps.rest()

            async def claim(api: Api = api) -> None:
                status, answer = await api.call("POST", "/external/buyer/claim", json={"wait": 0})
                assert (status, answer) == (200, {"run": None})

            counts.append(await steps.fewest(claim))
    few, many = counts
    assert 0 < many <= few + MAX_MORE


@pytest.mark.parametrize(
    "tasks", [MANY, pytest.param(VERY_MANY, marks=pytest.mark.soak("the same at 20,000 takes a fifth"))]
)
async def test_operations_do_not_grow_with_the_tasks_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tasks: int
) -> None:
    few = await measure(tmp_path / "few", FEW, monkeypatch)
    many = await measure(tmp_path / "many", tasks, monkeypatch)
    most = {name: few[name] * BOUNDED.get(name, FEW) // FEW + MAX_MORE for name in few}
    assert {name: (few[name], many[name]) for name in few if many[name] > most[name]} == {}
    assert many["old task"] <= many["task"] + MAX_MORE, "it is read as one that has just ended"
