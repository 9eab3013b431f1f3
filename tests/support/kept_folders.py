"""Data folders of earlier formats, which later versions have to open.

Each is an archive in `tests/support/folders`, made once by the version that brought its format (`python -m
tests.support.kept_folders 0015`): a task that has ended, one that waits for a person between two steps, a
budget, a schedule, an allowance. Question and deadline end in a hundred years.
"""

import asyncio
import sys
import tarfile
import tempfile
from pathlib import Path

from meshwright.engine.events.inbox import Question
from tests.support.running_mesh import RunningMesh, mesh, mesh_up

FOLDERS = Path(__file__).parent / "folders"
QUESTION = "Which color?"
AGENTS = '''
"""An agent that asks a person between two steps."""

from datetime import UTC, datetime

from meshwright import Agent, Capability, Run


class Painter(Agent):
    """Asks for a color."""

    agent_id = "painter"
    capabilities = (Capability("painting"),)

    async def run(self, run: Run) -> str:
        first = await run.ask(run.task.text)
        color = await run.ask_person("Which color?", expires=datetime(2100, 1, 1, tzinfo=UTC))
        second = await run.ask(f"Paint it {color}.")
        return f"{len(first) > 0} {color} {len(second) > 0}"
'''


def environment_of(folder: Path) -> dict[str, str]:
    """Write the agents into a folder, and return what makes a mesh find them."""
    actors = folder / "actors"
    actors.mkdir()
    (actors / "painter.py").write_text(AGENTS)
    return {"MESH_AGENTS__DIR": str(actors), "MESH_LEDGER__BUDGETS": '[{"name": "purse", "limit_usd": "5"}]'}


async def fill(running: RunningMesh) -> None:
    await running.client.submit("painter", "Paint a door.", idempotency_key="ended")
    [question] = await _questions(running)
    await running.client.answer(question, "red")
    await running.outcome(question.task_id)
    await running.client.submit("painter", "Paint a wall.", idempotency_key="open")
    await _questions(running)
    at = ("--url", running.url)
    for command in (
        ("schedules", "create", "daily", "--cron", "0 7 29 2 *", "--agent", "painter", "--text", "Paint."),
        ("budgets", "raise", "purse", "3"),
        ("allow", "painter", "1"),
    ):
        done = await mesh(*command, *at)
        assert done.status == 0, (command, done.err)


async def _questions(running: RunningMesh) -> list[Question]:
    await running.until(lambda event: event["event_type"] == "task.waiting")
    while not (found := await running.client.inbox()):
        await asyncio.sleep(0.05)
    return found


async def make(archive: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        async with mesh_up(data, **environment_of(Path(folder))) as running:
            await fill(running)
        with tarfile.open(archive, "w:gz") as packed:
            packed.add(data, arcname=".")


if __name__ == "__main__":
    FOLDERS.mkdir(exist_ok=True)
    asyncio.run(make(FOLDERS / f"{sys.argv[1]}.tar.gz"))
