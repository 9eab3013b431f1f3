"""A task leaves nothing for the garbage collector, which would walk all that is in flight to find it."""

import gc
from pathlib import Path

from meshwright import Agent, Capability, TaskRequest
from meshwright.mesh.app import build_mesh
from meshwright.mesh.mesh import Mesh
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.models.offline_model import OfflineModel
from meshwright.tools import tool
from tests.support.settings import load_settings

TASKS = 20


class Asking(Agent):
    """Has its model answer."""

    agent_id = "asking"
    capabilities = (Capability("ask"),)
    prompt = "greeter"

    @tool
    async def look(self) -> str:
        """Look."""
        return "seen"


async def run_tasks(mesh: Mesh, count: int) -> None:
    for n in range(count):
        receipt = await mesh.get(Tasks).submit(
            TaskRequest(agent_id="asking", payload={"text": f"Look at {n}."})
        )
        assert (await mesh.get(Tasks).outcome(receipt.task_id)).success


async def test_a_task_leaves_no_circles(tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "greeter.prompt").write_text("---\nname: greeter\n---\nHello {{task}}\n")
    settings = load_settings(tmp_path, data_dir=tmp_path / "data")
    async with build_mesh(settings, project=tmp_path, agents=[Asking], model=OfflineModel()) as mesh:
        await run_tasks(mesh, 3)  # what is made once is made
        gc.collect()
        gc.disable()
        try:
            await run_tasks(mesh, TASKS)
            in_circles = gc.collect()
        finally:
            gc.enable()
    assert in_circles < TASKS
