"""A project whose agents can be taken away for one start.

`DROPPED` is a data folder that `python -m tests.support.missing_agents ARCHIVE` made, of a version that
dropped messages to agents that were not loaded; its deadlines are in a hundred years. In it a boss waits for
a kid that has ended, and a gate has not heard that its task was cancelled.
"""

import asyncio
import shutil
import sqlite3
import sys
import tarfile
import tempfile
from contextlib import AbstractAsyncContextManager, closing
from pathlib import Path

from meshwright.engine.events.inbox import Question
from meshwright.engine.sql.sqlite import FILE_NAME
from tests.support.postgres import Address, Location
from tests.support.running_mesh import RunningMesh, mesh, mesh_up

DROPPED = Path(__file__).parent / "folders" / "dropped" / "dropped.tar.gz"
BOSS = '''
"""An agent that delegates."""

from meshwright import Agent, Capability, Run


class Boss(Agent):
    """Asks a kid."""

    agent_id = "boss"
    capabilities = (Capability("bossing"),)
    delegates_to = ("kid",)

    async def run(self, run: Run) -> str:
        return f"the kid said {await run.delegate('kid', 'Go.')}"
'''
KID = '''
"""An agent that asks a person."""

from meshwright import Agent, Capability, Run


class Kid(Agent):
    """Asks a person."""

    agent_id = "kid"
    capabilities = (Capability("kidding"),)

    async def run(self, run: Run) -> str:
        return await run.ask_person("Which color?")
'''
GATE = '''
"""An agent whose tool needs an approval."""

import os

from meshwright import Agent, Capability, Run, tool


class Gate(Agent):
    """Deploys."""

    agent_id = "gate"
    capabilities = (Capability("gating"),)

    @tool(needs_approval=True)
    async def deploy(self, version: str) -> str:
        """Deploy a version."""
        with open(os.environ["DEPLOYED"], "a") as file:
            file.write(f"{version} ")
        return version

    async def run(self, run: Run) -> str:
        return await run.call("deploy", version=run.task.text)
'''


class Project:
    """A folder of agents, and the data of a mesh."""

    def __init__(self, folder: Path, location: Location) -> None:
        self.actors, self.away, self.deployed = folder / "actors", folder / "away", folder / "deployed"
        for made in (self.actors, self.away):
            made.mkdir()
        for name, text in (("boss", BOSS), ("kid", KID), ("gate", GATE)):
            (self.actors / f"{name}.py").write_text(text)
        self.location = location
        is_address = isinstance(location, Address)
        self.data = folder / "data" if is_address else location / "data"
        self.environment = {"MESH_AGENTS__DIR": str(self.actors), "DEPLOYED": str(self.deployed)}
        self.environment |= {"MESH_DATABASE": location} if is_address else {}

    def up(self) -> AbstractAsyncContextManager[RunningMesh]:
        return mesh_up(self.data, **self.environment)

    def take_away(self, *names: str) -> None:
        for name in names:
            shutil.move(self.actors / f"{name}.py", self.away / f"{name}.py")

    def bring_back(self) -> None:
        for file in self.away.glob("*.py"):
            shutil.move(file, self.actors / file.name)

    def lose_messages(self, agent_id: str) -> None:
        """Delete what waits for an agent, as a version before did."""
        if isinstance(self.location, Address):
            import psycopg

            with psycopg.connect(self.location, autocommit=True) as connection:
                deleted = connection.execute("DELETE FROM messages WHERE type = %s", (agent_id,)).rowcount
            assert deleted == 1
            return
        with closing(sqlite3.connect(self.data / FILE_NAME)) as connection:
            condition = "CAST(message AS TEXT) LIKE ?"
            lost = connection.execute(f"DELETE FROM mailbox WHERE {condition}", (f'%"to":"{agent_id}/%',))
            assert lost.rowcount == 1
            connection.commit()

    async def verify(self) -> tuple[int, str]:
        done = await mesh("verify", "--data", str(self.data), **self.environment)
        return done.status, done.out + done.err


async def questions(running: RunningMesh, count: int) -> dict[str, Question]:
    """The open questions, by their tasks."""
    async with asyncio.timeout(60):
        async for _ in running.stream():
            found = await running.client.inbox()
            if len(found) == count:
                return {question.task_id: question for question in found}
    raise AssertionError("the stream has ended")


async def drop(project: Project) -> None:
    async with project.up() as running:
        boss = await running.client.submit("boss", "Begin.", idempotency_key="boss")
        gate = await running.client.submit("gate", "v1", idempotency_key="gate")
        asked = await questions(running, 2)
    project.take_away("boss", "gate")
    async with project.up() as running:
        [kid] = asked.keys() - {boss.task_id, gate.task_id}
        await running.client.answer(asked[kid], "red")
        await running.client.outcome(kid)
        await running.client.cancel(gate.task_id)


def make(archive: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder), Path(folder))
        asyncio.run(drop(project))
        with tarfile.open(archive, "w:gz") as packed:
            packed.add(project.data, arcname=".")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
