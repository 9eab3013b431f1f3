"""The data folder: private to its owner, and nothing in it leads elsewhere."""

import os
import stat
from pathlib import Path

import pytest

from tests.support.running_mesh import mesh_up, run
from tests.support.sqlite_mesh import up


def open_to_others(folder: Path) -> dict[str, str]:
    modes = {str(path): stat.S_IMODE(path.lstat().st_mode) for path in (folder, *folder.rglob("*"))}
    return {path: f"{mode:o}" for path, mode in modes.items() if mode & 0o077}


async def test_mesh_up_keeps_other_users_out_of_its_data(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with mesh_up(data) as running:
        asked = run("ask", "simple-agent", "my password is hunter2", "--url", running.url)
        assert asked.returncode == 0, asked.stderr
        assert {"mesh.db", "mesh.db-wal", "mesh.json", "mesh.lock"} <= {path.name for path in data.iterdir()}
        assert open_to_others(data) == {}
    assert open_to_others(data) == {}


def test_asking_without_a_mesh_keeps_other_users_out_too(tmp_path: Path) -> None:
    asked = run("ask", "simple-agent", "hello", "--data", str(tmp_path / "data"))
    assert asked.returncode == 0, asked.stderr
    assert open_to_others(tmp_path / "data") == {}


async def test_a_folder_that_others_could_read_is_made_private_with_a_note(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with up(tmp_path) as running:
        task_id = await running.submit("echo")
        await running.outcome(task_id)
    (data / "logs").mkdir()
    (data / "logs" / "mesh-0.log").write_text("it was said here\n")
    for path in (data, *data.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    read = run("task", task_id, "--data", str(data))
    assert read.returncode == 0, read.stderr
    assert f"{data} was open to other users (mode 755): now only its owner can read it" in read.stderr
    assert open_to_others(data) == {}


@pytest.mark.parametrize("mode", [0o775, 0o777, 0o1777])
def test_a_folder_that_others_can_write_is_refused_with_the_chmod(tmp_path: Path, mode: int) -> None:
    data = tmp_path / "data"
    data.mkdir()
    data.chmod(mode)
    refused = run("ask", "simple-agent", "hello", "--data", str(data))
    assert refused.returncode == 1
    [line] = refused.stderr.splitlines()
    assert f"can be written by other users (mode {mode:o})" in line and f"chmod 700 {data}" in line
    assert list(data.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    os.chown(data, 4321, 4321)
    refused = run("ask", "simple-agent", "hello", "--data", str(data))
    assert refused.returncode == 1
    [line] = refused.stderr.splitlines()
    assert "belongs to another user (uid 4321)" in line and "chown" in line


def test_a_folder_with_other_files_is_not_closed_to_their_readers(tmp_path: Path) -> None:
    folder = tmp_path / "srv"
    folder.mkdir()
    (folder / "index.html").write_text("for everybody")
    folder.chmod(0o755)
    refused = run("ask", "simple-agent", "hello", "--data", str(folder))
    assert refused.returncode == 1
    [line] = refused.stderr.splitlines()
    assert "holds other files" in line and f"--data {folder}/mesh" in line
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


@pytest.mark.parametrize("name", ["mesh.lock", "mesh.db", "mesh.db-wal", "last-error.txt", "logs/mesh-0.log"])
@pytest.mark.parametrize("command", [["tasks"], ["events"], ["costs"], ["ask", "simple-agent", "hello"]])
def test_a_link_in_the_data_folder_leaves_its_target_alone(
    tmp_path: Path, name: str, command: list[str]
) -> None:
    target, data = tmp_path / "precious", tmp_path / "data"
    target.write_text("precious")
    (data / name).parent.mkdir(parents=True)
    (data / "mesh.db").touch()
    (data / name).unlink(missing_ok=True)
    (data / name).symlink_to(target)
    done = run(*command, "--data", str(data))
    assert target.read_text() == "precious"
    assert done.returncode == 1
    assert f"{data / name} is a link" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("command", ["tasks", "events", "costs"])
def test_reading_where_no_mesh_was_makes_nothing(tmp_path: Path, command: str) -> None:
    done = run(command, "--data", str(tmp_path / "data"))
    assert done.returncode == 1 and "there is no folder" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("folder", "status"), [("trees", 0), ("other", 1), ("other/trees", 1)])
def test_only_trees_may_hold_links(tmp_path: Path, folder: str, status: int) -> None:
    inside, link = tmp_path / "data" / folder, tmp_path / "data" / folder / "default" / "link"
    link.parent.mkdir(parents=True)
    inside.chmod(0o755)
    link.symlink_to(tmp_path)
    (tmp_path / "data" / "mesh.db").touch()
    done = run("tasks", "--data", str(tmp_path / "data"))
    assert done.returncode == status, done.stderr
    assert stat.S_IMODE(inside.stat().st_mode) == (0o755 if status else 0o700)


async def test_a_link_to_a_data_folder_leads_there(tmp_path: Path) -> None:
    async with up(tmp_path) as running:
        await running.ask("echo")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    done = run("tasks", "--json", "--data", str(tmp_path / "link"))
    assert done.returncode == 0 and "succeeded" in done.stdout, done.stderr


def test_a_link_to_a_folder_of_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir(mode=0o700)
    (tmp_path / "keys" / "id_rsa").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "keys")
    refused = run("ask", "simple-agent", "hello", "--data", str(tmp_path / "link"))
    assert refused.returncode == 1 and "holds other files" in refused.stderr
    assert [path.name for path in (tmp_path / "keys").iterdir()] == ["id_rsa"]
