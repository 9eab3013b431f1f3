"""Backup, restore, release and drain by the command line, as an operator types them."""

import json
from pathlib import Path

import pytest

from meshwright.cli.app import run
from tests.support.running_mesh import mesh, mesh_up


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
        await running.errors.until("the store was restored from a backup of")
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
        ("verify", "--data", str(damaged)): "the store cannot be read: file is not a database; restore",
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
