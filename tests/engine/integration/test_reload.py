"""`mesh up --reload`, and a mesh of one file, `python agent.py`."""

import asyncio
import re
import signal
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from meshwright.engine.sql.folder import lock_folder
from tests.support.fake_openai import FakeOpenAI
from tests.support.running_mesh import MESH, RunningMesh, mesh, mesh_up, ready_url, start

AGENT = """
from meshwright import Agent, Capability, Run


class Painter(Agent):
    agent_id = "painter"
    capabilities = (Capability("painting"),)

    async def run(self, run: Run) -> str:
        return f"{NAME} in {await run.ask_person('Which colour?')}"


NAME = "a house"
"""
TALKER = """
from meshwright import Agent, Capability


class Talker(Agent):
    agent_id = "talker"
    capabilities = (Capability("talking"),)
    prompt_text = "Talk."
"""
ONE_FILE = f"""{AGENT}
if __name__ == "__main__":
    from meshwright import run_mesh

    run_mesh()
"""


async def started_again(running: RunningMesh) -> None:
    """Wait for the next run, which listens where the last one did."""
    assert running.process.stdout is not None
    assert await ready_url(running.process.stdout, running.errors) == running.url


async def test_a_change_starts_the_mesh_again_and_tasks_go_on(tmp_path: Path) -> None:
    (tmp_path / "actors").mkdir()
    file = tmp_path / "actors/painter.py"
    file.write_text(AGENT)
    async with mesh_up(tmp_path / ".mesh", "--reload", cwd=tmp_path) as running:
        task_id = await running.submit("Paint", agent_id="painter", capability="painting")
        await running.until(lambda event: event["event_type"] == "task.waiting")

        file.write_text(AGENT.replace("a house", "a ship"))
        await started_again(running)
        assert "actors/painter.py has changed" in running.errors.text
        await running.client.answer((await running.client.inbox())[0], "blue")
        assert (await running.outcome(task_id))["result"]["text"] == "a ship in blue"

        file.write_text(AGENT.replace('f"{NAME}', 'f"{NAME}"'))
        await running.errors.until("it starts again when a file changes")
        assert re.search(rf"{file}:\d+: this agent cannot be loaded: SyntaxError", running.errors.text)
        (tmp_path / "mesh.toml").write_text('durability = "normal"\n')
        file.write_text(AGENT)
        await started_again(running)
        assert [agent.agent_id for agent in await running.client.agents() if agent.kind == "agent"] == [
            "painter"
        ]
        assert await running.stop() == 0


async def test_work_that_runs_at_a_change_goes_on_by_its_journal(tmp_path: Path) -> None:
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors/talker.py").write_text(TALKER)
    async with FakeOpenAI(seconds=600.0) as provider:
        settings = {"LITELLM_BASE_URL": provider.url}
        async with mesh_up(tmp_path / ".mesh", "--reload", cwd=tmp_path, **settings) as running:
            task_id = await running.submit("Hello", agent_id="talker", capability="talking")
            await provider.arrived.wait()
            provider.seconds = 0.0
            (tmp_path / "helpers.py").write_text("")
            await started_again(running)
            assert "is no model: Hello" in (await running.outcome(task_id))["result"]["text"]
            assert len(provider.calls) == 2

            provider.seconds = 600.0
            provider.arrived.clear()
            await running.submit("Again", agent_id="talker", capability="talking")
            await provider.arrived.wait()
            running.errors.text = ""  # of the first time
            running.process.send_signal(signal.SIGINT)
            await running.errors.until("1 running")
            running.process.send_signal(signal.SIGINT)
            assert await running.process.wait() == 130


async def test_a_mesh_whose_data_a_command_has_comes_back_after_it(tmp_path: Path) -> None:
    (tmp_path / "actors").mkdir()
    file = tmp_path / "actors/painter.py"
    file.write_text(AGENT)
    async with mesh_up(tmp_path / ".mesh", "--reload", cwd=tmp_path) as running:
        file.write_text("nothing")
        await running.errors.until("it starts again when a file changes")
        with lock_folder(tmp_path / ".mesh"):
            file.write_text(AGENT)
            await running.errors.until("is in use by process")
            await running.errors.until(f"{tmp_path}/.mesh is free")
        await started_again(running)


async def test_a_mesh_that_reloads_ends_with_the_process_that_watches(tmp_path: Path) -> None:
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors/painter.py").write_text(AGENT)
    async with mesh_up(tmp_path / ".mesh", "--reload", cwd=tmp_path) as running:
        running.process.kill()
        await running.process.wait()
        await running.errors.whole()  # which the other one had open, too


async def test_a_file_of_agents_is_a_mesh_also_below_a_project(tmp_path: Path) -> None:
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors/talker.py").write_text(TALKER)
    folder = tmp_path / "examples"
    folder.mkdir()
    (folder / "paint.py").write_text(ONE_FILE)
    up = [sys.executable, "paint.py"]
    async with mesh_up(folder / ".mesh", up=up, cwd=folder) as running:
        asking = asyncio.create_task(running.client.ask("painter", "Paint"))
        await running.until(lambda event: event["event_type"] == "task.waiting")
        [question] = await running.client.inbox()
        answer = await start([*MESH, "answer", question.id, "red"], {}, folder, stdout=PIPE, stderr=PIPE)
        _, complaint = await answer.communicate()
        assert await answer.wait() == 0, complaint
        assert (await asking).text == "a house in red"
        assert await running.stop() == 0


async def test_a_file_of_agents_reloads_itself(tmp_path: Path) -> None:
    file = tmp_path / "paint.py"
    file.write_text(ONE_FILE)
    up = [sys.executable, "paint.py", "--reload"]
    async with mesh_up(tmp_path / ".mesh", up=up, cwd=tmp_path) as running:
        file.write_text(ONE_FILE.replace("painter", "decorator"))
        await started_again(running)
        assert "decorator" in [agent.agent_id for agent in await running.client.agents()]


async def test_a_project_without_agents_says_so(tmp_path: Path) -> None:
    (tmp_path / "actors").mkdir()
    async with mesh_up(tmp_path / ".mesh", cwd=tmp_path) as running:
        await running.errors.until("no agent runs: actors/ has none; mesh init makes one")


@pytest.mark.parametrize(
    ("given", "complaint"), [("", "this file defines no agent"), ('"ada"', "'ada' is no class of an agent")]
)
async def test_a_file_without_agents_says_so(tmp_path: Path, given: str, complaint: str) -> None:
    (tmp_path / "none.py").write_text(f"from meshwright import Agent, run_mesh\n\nrun_mesh({given})\n")
    process = await start([sys.executable, "none.py", "--port", "0"], {}, tmp_path, stdout=PIPE, stderr=PIPE)
    _, err = await process.communicate()
    assert process.returncode == 1 and f"none.py: {complaint}" in err.decode(), err
    assert "run_mesh(Greeter)" in err.decode()


async def test_dapr_is_not_reloaded(tmp_path: Path) -> None:
    done = await mesh("up", "--reload", "--store", "dapr", "--data", str(tmp_path))
    assert done.status == 2 and "--reload" in done.err
