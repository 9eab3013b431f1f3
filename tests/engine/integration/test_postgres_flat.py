"""Reads on PostgreSQL touch as few of its buffers however much is stored: counted at two sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, cast

from meshwright.engine.events import table
from meshwright.engine.events.filter import EventFilter, TaskFilter
from meshwright.engine.events.inbox import Inbox
from meshwright.engine.events.log import EventLog
from meshwright.engine.events.task_lists import (
    EndedTask,
    TaskSubject,
    dead_letters,
    ended_tasks,
    find_event_tasks,
    known_values,
    list_tasks,
    subject_tasks,
    tenants_in,
)
from meshwright.engine.events.tasks import recount_ended
from meshwright.engine.sql.database import Row, Session
from meshwright.money.costs import CostQuery, sum_costs
from meshwright.money.task_costs import recount_hours, task_tree
from meshwright.parts.figures.trends import read_trends
from meshwright.parts.retention.operations import last_ended
from tests.support.event_logs import open_log
from tests.support.postgres import Address, Cluster

FEW, MANY = 400, 2_000
MORE_BUFFERS = 60
"""An index is a level or two deeper, and to begin with the rarest key counts up to 64 rows of each."""
_FILL = (
    "INSERT INTO events (seq, time, event_type, event_version, topic, tenant_id, aggregate_id, own_id, "
    "payload, link) SELECT n * 2048 + 1, n, 'common', 1, 'here', 'default', 'a/b', n, '{}', '' "
    "FROM generate_series(0, :blocks) AS n",
    "UPDATE event_log SET seq = :blocks * 2048 + 1",
    "INSERT INTO event_blocks SELECT n, n, n, n, decode(repeat(md5(n::text), 400), 'hex'), '' "
    "FROM generate_series(0, :blocks - 1) AS n",
    "INSERT INTO event_keys SELECT key, n FROM generate_series(0, :blocks - 1) AS n, "
    "unnest(ARRAY['event_type=common', 'topic=here', 'tenant_id=default']) AS key",
    "INSERT INTO tasks (seq, last_seq, task_id, tenant_id, capability, status, agent_id, created_at, "
    "updated_at, completed_at, error, parent_task_id, thread_id, requested_by) "
    "SELECT n, n, 't' || n, 'default', 'w', "
    "CASE WHEN n % 10 = 4 THEN 'failed' ELSE 'succeeded' END, 'writer', n, n, n, "
    "CASE WHEN n % 10 = 4 THEN 'ToolFailed' END, CASE WHEN n % 10 = 2 THEN 't' || n - 1 END, "
    "CASE WHEN n % 10 < 2 THEN 'long' ELSE 't' || n END, 'r' || n "
    "FROM generate_series(1, :blocks * 10) AS n",
    "INSERT INTO inbox SELECT 'q' || n, n, 'default', 't' || n, 1, 1, NULL, n, '{}' "
    "FROM generate_series(1, :blocks * 10) AS n",
    "INSERT INTO calls (seq, time, tenant_id, task_id, call_id, agent_id, tags, model_group, model, "
    "prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens, cost_pico, cost_source, cache_hit, "
    "attempts, outcome, latency_ms) SELECT n, 1e9 + n % 3600, 'default', 't' || n, 'c' || n, 'writer', '[]', "
    "'m', 'm', 1, 0, 1, 0, 7, 'priced', 0, 1, 'ok', 1 FROM generate_series(1, :blocks * 10) AS n",
    "UPDATE tasks SET parent_task_id = 't3' WHERE seq % 10 = 6",
    "UPDATE tasks SET model = 'rare' WHERE seq = 18",
    "UPDATE calls SET tags = '[\"rare\"]' WHERE seq = 18",
)


class Explained:
    """A session that counts the buffers of each statement that it runs."""

    def __init__(self, session: Session, counts: list[int]) -> None:
        self._session, self._counts = session, counts

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def execute(self, statement: str, values: Any = ()) -> Any:
        explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}"
        [(plans,)] = self._session.execute(explain, values).fetchall()
        plan = plans[0]["Plan"]
        self._counts.append(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])
        return self._session.execute(statement, values)

    def stream(self, statement: str, values: Any = ()) -> Iterator[Row]:
        return iter(self.execute(statement, values).fetchall())

    def select_in(self, select: str, keys: Any) -> list[Row]:
        return self.execute(f"{select} = ANY(:keys)", {"keys": [*keys]}).fetchall()


class ExplainedLog:
    """What an inbox and costs need of a log."""

    def __init__(self, session: Explained) -> None:
        self._session = session

    async def view(self, function: Callable[..., Any], *args: Any) -> Any:
        return function(self._session, *args)

    view_apart = view

    async def index_for(self, filter: Any) -> None:
        """Index what a search would find; there is none here."""


async def buffers(address: Address, blocks: int) -> dict[str, int]:
    async with open_log(address) as store:

        def fill(session: Session) -> None:
            for statement in _FILL:
                session.execute(statement, {"blocks": blocks})
            for recount in (recount_hours, recount_ended):
                recount(session)
            positions = "UPDATE projection_positions SET position = (SELECT seq FROM event_log)"
            session.execute(positions)

        await store.database.write(fill)
        session = store.database.connect_reader()
        session.execute("VACUUM ANALYZE")  # one transaction left all versions of its sums
        counts: list[int] = []
        explained = cast(Session, Explained(session, counts))
        log = cast(EventLog, ExplainedLog(cast(Explained, explained)))
        last, outside = blocks * 2048 + 1, "delivery/default/forge/1"
        rare = EventFilter(event_type="rare", tenant_id="default", order="desc")
        page = EventFilter(event_type="common", tenant_id="default", order="desc")
        of_nobody, of_thread = TaskFilter(agent_id="nobody"), TaskFilter(thread_id="t7")
        of_writer, of_capability = TaskFilter(agent_id="writer"), TaskFilter(capability="w")
        long = TaskFilter(thread_id="long")
        dead, below = TaskFilter(dead=True), TaskFilter(parent_task_id="t11")
        dead_of_agent, of_requester = TaskFilter(dead=True, agent_id="nobody"), TaskFilter(requested_by="r15")
        of_r15 = EventFilter(tenant_id="default", of_task=of_requester)
        since_then = TaskFilter(since=datetime.fromtimestamp(1e9, UTC))
        of_error, of_tag = TaskFilter(error="Nothing"), TaskFilter(tag="nothing")
        until_then = TaskFilter(until=datetime.fromtimestamp(0, UTC))
        of_rare_tag, of_rare_model = TaskFilter(tag="rare"), TaskFilter(model="rare")
        lacking, of_many = TaskFilter(lacks="agent_id"), TaskFilter(parent_task_id="t3")
        by_end, by_begin = TaskFilter(task_id="3999"), TaskFilter(task_id="t399")
        looks: dict[str, Callable[[], Any]] = {
            "end of an id": lambda: list_tasks(explained, "default", by_end, 50, 2**63 - 1, "created"),
            "beginning of an id": lambda: list_tasks(
                explained, "default", by_begin, 50, 2**63 - 1, "created"
            ),
            "rare": lambda: table.search(explained, rare, 1, last, 10),
            "page": lambda: table.search(explained, page, 1, last, 5),
            "events of a requester": lambda: table.search(explained, of_r15, 1, last, 10, task_ids=["t15"]),
            "delivery": lambda: table.knows(explained, outside, "webhooks/forge"),
            "behind the lock": lambda: table.knows(explained, "Diary/one/1/2", after_seq=last),
            "small tenant": lambda: list_tasks(explained, "small", TaskFilter(), 50, 2**63 - 1, "created"),
            "agent": lambda: list_tasks(explained, "default", of_nobody, 50, 2**63 - 1, "created"),
            "thread": lambda: list_tasks(explained, "default", of_thread, 50, 2**63 - 1, "created"),
            "failed": lambda: list_tasks(explained, "default", dead, 50, 2**63 - 1, "created"),
            "dead letters": lambda: dead_letters(explained, "default", TaskFilter(), 50),
            "dead letters of an agent": lambda: dead_letters(explained, "default", of_writer, 50),
            "dead letters of a capability": lambda: dead_letters(explained, "default", of_capability, 50),
            "dead letters of a thread": lambda: dead_letters(explained, "default", of_thread, 50),
            "dead letters until then": lambda: dead_letters(explained, "default", until_then, 50),
            "dead letters below": lambda: dead_letters(explained, "default", below, 50),
            "failed of an agent": lambda: list_tasks(
                explained, "default", dead_of_agent, 50, 2**63 - 1, "created"
            ),
            "tasks of a thread": lambda: find_event_tasks(explained, "default", of_thread),
            "tasks below": lambda: find_event_tasks(explained, "default", below),
            "changed": lambda: list_tasks(explained, "default", long, 10, 2**63 - 1, "changed"),
            "changed of an agent": lambda: list_tasks(
                explained, "default", of_nobody, 50, 2**63 - 1, "changed"
            ),
            "a while": lambda: list_tasks(explained, "default", since_then, 50, 2**63 - 1, "created"),
            "changed in a while": lambda: list_tasks(
                explained, "default", since_then, 50, 2**63 - 1, "changed"
            ),
            "error": lambda: list_tasks(explained, "default", of_error, 50, 2**63 - 1, "created"),
            "known error": lambda: known_values(explained, "default", "error", "Nothing"),
            "tag": lambda: list_tasks(explained, "default", of_tag, 50, 2**63 - 1, "created"),
            "rare tag": lambda: list_tasks(explained, "default", of_rare_tag, 50, 2**63 - 1, "created"),
            "rare model": lambda: list_tasks(explained, "default", of_rare_model, 50, 2**63 - 1, "changed"),
            "known model": lambda: known_values(explained, "default", "model", "nothing"),
            "until then": lambda: list_tasks(explained, "default", until_then, 50, 2**63 - 1, "created"),
            "without an agent": lambda: list_tasks(explained, "default", lacking, 50, 2**63 - 1, "created"),
            "children of many": lambda: list_tasks(explained, "default", of_many, 50, 2**63 - 1, "created"),
            "trends": lambda: read_trends(explained, "default", 0.0),
            "tree": lambda: task_tree(explained, "default", "t11"),
            "tasks to prune": lambda: last_ended(explained, -1.0),
            "task to erase": lambda: subject_tasks(explained, "default", TaskSubject(task_id="t15")),
            "requester to erase": lambda: subject_tasks(
                explained, "default", TaskSubject(requested_by="r15")
            ),
            "thread to erase": lambda: subject_tasks(explained, "default", TaskSubject(thread_id="t15")),
            "ended": lambda: ended_tasks(explained, EndedTask(blocks * 10, "", ""), 1e9, 50),
            "tenants": lambda: tenants_in(explained, "tasks"),
        }
        asynchronous = {
            "inbox": lambda: Inbox(log).page("default"),
            "thread of a question": lambda: Inbox(log).next_question("default", "thread"),
            "costs": lambda: sum_costs(log, CostQuery("default", "agent")),
            "costs of a thread": lambda: sum_costs(log, CostQuery("default", "agent", of=of_thread)),
            "costs of a requester": lambda: sum_costs(log, CostQuery("default", "agent", of=of_requester)),
            "costs of nobody": lambda: sum_costs(log, CostQuery("small", "task")),
            "costs below many": lambda: sum_costs(log, CostQuery("default", "agent", of=of_many)),
            "costs below": lambda: sum_costs(log, CostQuery("default", "agent", of=below)),
        }
        found = dict[str, int]()
        for name, look in looks.items():
            counts.clear()
            look()
            found[name] = sum(counts)
        for name, reading in asynchronous.items():
            counts.clear()
            await reading()
            found[name] = sum(counts)
        session.close()
        return found


async def test_reads_touch_the_same_buffers_however_much_is_stored(postgres: Cluster) -> None:
    few = await buffers(postgres.new_schema(), FEW)
    many = await buffers(postgres.new_schema(), MANY)
    assert {name: (few[name], many[name]) for name in few if many[name] > few[name] + MORE_BUFFERS} == {}
