"""Memories of a mesh with a model of embeddings: recalled by meaning, paid for, and embedded later."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

from meshwright import Agent, Capability, Run
from meshwright.mesh.mesh import Mesh
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.money.costs import CostQuery
from meshwright.money.spending import Spending
from tests.support.fake_provider import FakeProvider, Fault
from tests.support.http_mesh import Api, http_mesh
from tests.support.running_mesh import mesh_up

LIFT, MEANT = "The elevator of building C is out of order until spring.", "Can somebody use the lift?"
VECTORS = {LIFT: [0.9, 0.1, -0.3, 0.2], MEANT: [0.8, 0.0, -0.4, 0.3]}


class Noter(Agent):
    """Remembers what it is told."""

    agent_id = "noter"
    capabilities = (Capability("noting"),)

    async def run(self, run: Run) -> str:
        return await run.remember(run.task.text, "global")


class Porter(Agent):
    """Answers questions."""

    agent_id = "porter"
    capabilities = (Capability("answering"),)


async def embedded(mesh: Mesh, count: int) -> None:
    query = "SELECT count(*) FROM memories WHERE embedded_by IS NOT NULL"
    async with asyncio.timeout(240):
        while await mesh.database.read(lambda session: session.execute(query).fetchone()[0]) < count:
            await asyncio.sleep(0)


async def vectors_in(file: Path) -> int:
    def read() -> int:
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
            return connection.execute("SELECT count(vector) FROM memories").fetchone()[0]

    return await asyncio.to_thread(read)


async def asked(api: Api, fake: FakeProvider) -> str:
    """The messages that the model got with the question."""
    task_id = await api.finished(agent_id="porter", payload={"text": MEANT})
    outcome = await api.mesh.get(Tasks).outcome(task_id)
    assert outcome is not None and outcome.status == "succeeded", outcome
    return str([call.body for call in fake.calls if call.path.endswith("completions")][-1]["messages"])


async def test_an_agent_recalls_what_means_the_same(tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "porter.prompt").write_text(
        "---\ndescription: A porter.\n---\nYou are a porter.\n"
    )
    async with FakeProvider(vectors=VECTORS) as fake:
        chosen = {"model": "http", "litellm_base_url": fake.url, "context": {"embedding_model": "meaning"}}
        async with http_mesh(tmp_path, Noter, Porter, **chosen) as api:
            await api.finished(agent_id="noter", payload={"text": LIFT})
            await embedded(api.mesh, 1)
            assert LIFT in await asked(api, fake)
            costs = await api.mesh.get(Spending).costs(CostQuery("default", "agent,model"))
            rows = {(cost.key, cost.key2): cost.calls for cost in costs.items}
            assert rows["noter", "meaning"] == 1 and rows["porter", "meaning"] == 1
            fake.faults_of["meaning"].extend([Fault(status=400)] * 2)
            assert LIFT not in await asked(api, fake)  # which shares no word, and the run goes on


async def test_a_memory_gets_its_vector_after_the_process_was_killed(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with mesh_up(data) as running:
        await running.client.ask("researcher-agent", "Remember that the staging database is db-2.")
        running.process.kill()
        await running.process.wait()
    async with mesh_up(data, MESH_CONTEXT__EMBEDDING_MODEL="default") as running:
        async with asyncio.timeout(240):
            while (await vectors_in(data / "mesh.db")) < 1:
                await asyncio.sleep(0)
        assert (await running.client.resource("memories").list())[0]["status"] == "active"
