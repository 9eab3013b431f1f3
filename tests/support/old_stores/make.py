"""Writes the stores of `tests/support/old_stores` with the code of earlier commits.

`git worktree add --detach /tmp/old COMMIT`, then in that folder
`PYTHONPATH=runtime:. python make.py NAME FOLDER` writes NAME.db.xz, and NAME.json: what that code read of it.
"""

from __future__ import annotations

import asyncio
import json
import lzma
import sqlite3
import sys
import tempfile
from contextlib import closing
from decimal import Decimal
from pathlib import Path

from meshwright import Agent, Capability, Run
from meshwright.core.messages import Usage
from meshwright.models.port import ModelReply
from meshwright.testing import ScriptedModel
from tests.support.http_mesh import Api, http_mesh

PRICE = {"input": 1, "output": 30}
REPLY = ModelReply(
    content="Done.", model="m", usage=Usage(prompt_tokens=90, completion_tokens=10), cost_usd=Decimal("0.01")
)
BUDGETS = [{"name": "all", "scope": "mesh", "limit_usd": "5"}]


class Writer(Agent):
    """Asks a model."""

    agent_id = "writer"
    capabilities = (Capability("writing"),)
    prompt_text = "Write."


class Asker(Agent):
    """Asks a person."""

    agent_id = "asker"
    capabilities = (Capability("asking"),)

    async def run(self, run: Run) -> str:
        return str(await run.ask_person("Which color?"))


class Parent(Agent):
    """Delegates."""

    agent_id = "parent"
    capabilities = (Capability("delegating"),)
    delegates_to = ("writer",)

    async def run(self, run: Run) -> str:
        return await run.delegate("writer", "a part")


async def readings(api: Api) -> dict[str, object]:
    """What is read of the store: lists, costs, budgets and the inbox, without what time changes."""
    tasks = (await api.get("/tasks"))["items"]
    chosen = ("task_id", "status", "agent_id", "thread_id", "parent_task_id", "cost_usd", "error")
    costs = await api.get("/costs", by="agent,model")
    counted = ("key", "key2", "calls", "failed", "prompt_tokens", "completion_tokens", "cost_usd")
    inbox = (await api.get("/inbox"))["items"]
    ended = (await api.get("/inbox", ended="true"))["items"]
    budgets = (await api.get("/budgets"))["items"]
    events = (await api.get("/events", event_type="task.succeeded"))["items"]
    return {
        "tasks": [{name: task[name] for name in chosen} for task in tasks],
        "thread": [task["task_id"] for task in (await api.get("/tasks", thread_id="talk"))["items"]],
        "failed": [task["task_id"] for task in (await api.get("/tasks", status="failed"))["items"]],
        "costs": [{name: cost[name] for name in counted} for cost in costs["items"]],
        "total": costs["total"]["cost_usd"],
        "questions": [item["wait_id"] for item in inbox],
        "answered": [item["wait_id"] for item in ended],
        "budgets": [[budget["budget"], budget["spent_usd"]] for budget in budgets],
        "events": [event["seq"] for event in events],
    }


async def write(name: str, target: Path) -> None:
    """Run some tasks of each kind, and save the store."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        script = ScriptedModel(*[REPLY] * 20)
        options = {"script": script, "budgets": BUDGETS, "default_price": PRICE}
        async with http_mesh(folder, Writer, Asker, Parent, **options) as api:
            for number in range(3):
                await api.finished(agent_id="writer", payload={"text": f"t{number}"}, thread_id="talk")
            await api.finished(agent_id="parent", payload={"text": "all"})
            await api.finished(agent_id="echo", payload={"fail": True})
            for text in ("answered", "open"):
                task_id = await api.submit(agent_id="asker", payload={"text": text})
                while not (items := (await api.get("/inbox"))["items"]):
                    await asyncio.sleep(0.02)
                if text == "answered":
                    await api.client.answer(task_id, "blue", key=items[0]["wait_id"])
                    await api.client.outcome(task_id)
            await api.mesh.log.flush()
            data = folder / api.mesh.settings.data_dir
            read = await readings(api)
        with closing(sqlite3.connect(data / "mesh.db")) as store:
            store.execute("VACUUM")
        (target / f"{name}.db.xz").write_bytes(lzma.compress((data / "mesh.db").read_bytes()))
        (target / f"{name}.json").write_text(json.dumps(read, indent=1) + "\n")


if __name__ == "__main__":
    asyncio.run(write(sys.argv[1], Path(sys.argv[2])))
