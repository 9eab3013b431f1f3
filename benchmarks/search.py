"""A search by words in 50,000 tasks, and what it costs to index one.

Words come as often as in real texts: few in most tasks, most in few. The searches are for a rare word, a
common one, two words, a phrase, a beginning and nothing; the row has the slowest.
"""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.bench import Bench
from benchmarks.figures import Row, column
from meshwright.core.events import Event
from meshwright.core.messages import Dispatch, Outcome, ScoreCard, Task
from meshwright.engine.events.log import EventLog
from meshwright.engine.events.text_index import index_next
from meshwright.engine.sql.database import Session
from meshwright.engine.sql.sqlite import SqliteDatabase

TASKS, TASKS_AT_ONCE = 50_000, 500
WORDS, WORDS_PER_TEXT, COMMON = 20_000, 40, 800
SEARCHES, REPEATS = ("needle", "common", "w1 w2", '"common needle"', "w1*", "nothing"), 5
NEEDLE_EVERY = 5_000
MAX_MS = 100.0
_CARD = ScoreCard(agent_id="writer", capability="writing", score=1.0, weight=1.0, health=1.0, success=1.0)
_NOW = datetime(2030, 1, 1, tzinfo=UTC)


async def measure(bench: Bench) -> list[Row]:
    tasks = bench.count(TASKS)
    ours = partial(bench.side, "benchmarks.search:work", tasks=tasks)
    rounds = (await bench.in_turns({"ours": ours}, rounds=1))["ours"]
    slowest = column(rounds, "ms", "ms", 1)
    size = f"{column(rounds, 'index_mb').median:.0f} MB of {column(rounds, 'mb').median:.0f} MB are the index"
    return [
        Row(
            f"the slowest of {len(SEARCHES)} searches by words in {tasks:,} tasks",
            slowest,
            "",
            "",
            f"<= {MAX_MS:.0f} ms",
            slowest.median <= MAX_MS,
            size,
        ),
        Row(
            "to index a task, while the mesh is quiet",
            column(rounds, "index_us", "µs CPU"),
            note="no part of its turns",
        ),
    ]


async def work(folder: str, tasks: int) -> dict[str, Any]:
    """The slowest search in a store with so many tasks, the CPU of the index for each, and sizes."""
    database = SqliteDatabase(Path(folder), durability="off")
    log = EventLog(database)
    await database.open()
    await log.start()
    chance = random.Random(1)
    for first in range(0, tasks, TASKS_AT_ONCE):
        events = [event for n in range(first, first + TASKS_AT_ONCE) for event in _events(n, chance)]
        log.tell(events, await database.write(log.insert, events))
    await log.flush()
    before = time.process_time(), await database.read(_megabytes)
    await database.write(_index_all)
    index_us = (time.process_time() - before[0]) * 1e6 / tasks
    megabytes = await database.read(_megabytes)
    slowest = 0.0
    for text in SEARCHES:
        times = list[float]()
        for _ in range(REPEATS):
            began = time.perf_counter()
            await log.tasks(tenant_id="default", text=text)
            times.append((time.perf_counter() - began) * 1000)
        slowest = max(slowest, median(times))
    log.close()
    await database.close()
    return {"ms": slowest, "index_us": index_us, "index_mb": megabytes - before[1], "mb": megabytes}


def _index_all(session: Session) -> None:
    while index_next(session)[1]:
        pass


def _megabytes(session: Session) -> float:
    query = "SELECT page_count * page_size / 1e6 FROM pragma_page_count(), pragma_page_size()"
    [(megabytes,)] = session.execute(query).fetchall()
    return megabytes


def _events(number: int, chance: random.Random) -> list[Event]:
    task_id = f"task-{number}"
    words = [f"w{min(int(chance.expovariate(1 / COMMON)), WORDS)}" for _ in range(WORDS_PER_TEXT)]
    text = " ".join([*words, "common", *(["needle"] if number % NEEDLE_EVERY == 0 else [])])
    task = Task(
        task_id=task_id,
        capability="writing",
        payload={"text": text},
        deadline_at=_NOW,
        created_at=_NOW,
        thread_id=task_id,
        requested_by="ann",
    )
    end = Outcome(
        task_id=task_id,
        agent_id="writer",
        status="succeeded",
        success=True,
        result={"text": " ".join(words[: WORDS_PER_TEXT // 2])},
        completed_at=_NOW,
    )
    payloads = {
        "task.dispatched": Dispatch.wrap(task, attempt=1, agent_id="writer", score_card=_CARD),
        "task.succeeded": end,
    }
    return [
        Event(
            id=f"Orchestrator/{task_id}/{event_type}",
            event_type=event_type,
            topic="tasks",
            time=_NOW,
            tenant_id="default",
            task_id=task_id,
            agent_id="writer",
            aggregate_id=f"Orchestrator/{task_id}",
            payload=payload,
        )
        for event_type, payload in payloads.items()
    ]
