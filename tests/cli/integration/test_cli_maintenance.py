"""Backup, restore, release and drain by the command line, as an operator types them."""

import json
import shutil
from pathlib import Path

import pytest

from meshwright.cli.app import run
from tests.support.repositories import repository
from tests.support.running_mesh import mesh, mesh_up

_WRITER = """
import asyncio

from meshwright import Agent, Capability, Run


class Writer(Agent):
    agent_id = "writer"
    capabilities = (Capability("writing"),)
    prompt_text = "Write."

    async def run(self, run: Run) -> str:
        tree = await run.tree()
        await run.step("write", lambda: tree.once(run.step_id, lambda: self.write(tree)))
        return "done"

    async def write(self, tree) -> None:
        await asyncio.to_thread(tree.files.write, "new.txt", "new\\n")
"""


@pytest.mark.needs("git")
async def test_backup_and_restore_say_that_trees_are_left_out(tmp_path: Path) -> None:
    project, first, second, file = (tmp_path / name for name in ("project", "first", "second", "copy"))
    source = repository(tmp_path / "source")
    (project / "actors").mkdir(parents=True)
    (project / "actors" / "writer.py").write_text(_WRITER)
    (project / "mesh.toml").write_text(f'[trees.code]\nrepository = "{source}"\n')
    async with mesh_up(first, cwd=project) as running:
        none = await mesh("backup", str(tmp_path / "none"), "--data", str(first))
        assert (none.status, "tree" in none.err) == (0, False)
        task = (await running.client.ask("writer", "Write.")).task_id
        done = await mesh("backup", str(file), "--data", str(first))
        assert done.status == 0 and f"Not in it: 1 tree of tasks, in {first / 'trees'}." in done.err
    done = await mesh("restore", str(file), "--data", str(second))
    assert done.status == 0 and "Not in it: 1 tree of tasks." in done.err
    shutil.copytree(first / "trees", second / "trees")  # as it says
    async with mesh_up(second, "--release", cwd=project) as running:
        status, tree = await running.get(f"/trees/{task}")
        assert status == 200 and tree["changed"] == [["A", "new.txt"]]


async def test_a_mesh_is_drained_backed_up_restored_and_released(tmp_path: Path) -> None:
    first, second, file = str(tmp_path / "first"), str(tmp_path / "second"), str(tmp_path / "copy")
    async with mesh_up(Path(first)) as running:
        await running.outcome(await running.submit("Hello"))
        done = await mesh("drain", "--wait", "--data", first)
        assert (done.status, done.out) == (0, "the mesh is draining: 0 running, 0 left for the next start\n")
        held = await running.submit("Hello again")
        assert (await running.get("/readyz")).status == 503
        done = await mesh("backup", file, "--data", first, "--json")
        written = json.loads(done.out)
        assert (written["tasks"], written["open_tasks"], written["file"]) == (2, 1, file)
        assert written["bytes"] == Path(file).stat().st_size
    done = await mesh("restore", file, "--data", second)
    assert done.status == 0 and "2 tasks, 1 of them open" in done.out and "mesh release" in done.err
    done = await mesh("ask", "simple-agent", "Hello", "--data", second)
    assert done.status == 1 and "release it first: mesh release" in done.err
    async with mesh_up(Path(second)) as running:
        await running.errors.until(": its open tasks (1) and new ones begin with: mesh release")
        done = await mesh("status", "--data", second)
        assert done.out.startswith("held: nothing begins before mesh release")
        done = await mesh("release", "--data", second)
        assert done.status == 0 and done.out.startswith("the mesh is working")
        assert (await running.outcome(held))["status"] == "succeeded"
    async with mesh_up(Path(second), "--hold") as running:
        assert (await running.get("/status")).body["state"] == "held"


def test_wrong_calls_are_answered_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text").write_text("no backup")
    (tmp_path / "new").mkdir()
    data, damaged = tmp_path / "data", tmp_path / "damaged"
    damaged.mkdir(0o700)
    (damaged / "mesh.db").write_text("no database")
    nowhere, text = str(tmp_path / "nowhere"), str(tmp_path / "text")
    calls = {
        ("backup", str(tmp_path / "copy"), "--data", nowhere): "has no mesh.db; name the data folder",
        ("backup", str(tmp_path / "none/copy"), "--data", str(data)): "there is no folder",
        ("backup", str(tmp_path / "text/copy"), "--data", str(data)): "there is no folder",
        ("backup", str(tmp_path / "copy"), "--data", str(damaged)): "mesh.db is damaged: file is not",
        ("verify", "--data", str(damaged)): "is damaged: file is not a database; restore",
        ("restore", text, "--data", nowhere): "is no backup of a mesh",
        ("restore", str(tmp_path / "none"), "--data", nowhere): "there is no such file; name a file that",
        ("restore", text, "--data", str(tmp_path)): "is not empty; name a new folder",
        ("drain", "--data", nowhere): f"there is no folder {nowhere}",
        ("prune", "--dry-run", "--data", str(tmp_path / "new")): "The settings say no age of tasks",
        ("release", "--data", nowhere): f"there is no folder {nowhere}",
        ("retry", "--all", "--yes", "--data", nowhere): f"there is no folder {nowhere}",
        ("verify", "--data", nowhere): "has no event log",
    }
    assert run(("keys", "create", "--name", "ada", "--yes", "--data", str(data))) == 0
    for call, said in calls.items():
        assert run(call) == 1, call
        assert said in capsys.readouterr().err, call
    assert not (tmp_path / "copy").exists() and not Path(nowhere).exists()
