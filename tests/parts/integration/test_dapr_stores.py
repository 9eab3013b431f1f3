"""State stores of Dapr beside Redis: their types are compared with the build, and PostgreSQL keeps a mesh."""

import json
import os
import shutil
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

import psycopg
import pytest

from meshwright.core.errors import ConfigError
from meshwright.parts.stack.component_files import check_types, known_types
from meshwright.parts.stack.machine import Ports
from tests.support.postgres import NAME, PASSWORD, USER, Cluster
from tests.support.running_mesh import mesh, mesh_up, run
from tests.support.services import COMPONENTS

pytestmark = pytest.mark.needs("mosquitto", "redis-server")
AGENT = '''
from meshwright import Agent, Capability, Run


class Clerk(Agent):
    """Waits for a person."""

    agent_id = "clerk"
    capabilities = (Capability("clerk"),)

    async def run(self, run: Run) -> str:
        return await run.ask_person("Which?")
'''
OFFLINE = {"MESH_MODELS__ADAPTER": "offline"}
Store = Callable[..., Path]


@pytest.fixture(autouse=True)
def dapr(dapr_bin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every `mesh` find the programs that the tests use."""
    monkeypatch.setenv("MESH_DAPR_BIN", dapr_bin)


@pytest.fixture
def with_store(tmp_path: Path) -> Store:
    """Makes a project whose store has a type, a version and metadata."""

    def make(kind: str, version: str, metadata: Mapping[str, str] | None = None) -> Path:
        project = tmp_path / "project"
        (project / "actors").mkdir(parents=True)
        (project / "actors/clerk.py").write_text(AGENT)
        shutil.copytree(COMPONENTS, project / "components")
        entries = {"actorStateStore": "true", "keyPrefix": "name", **(metadata or {})}
        spec = {
            "type": kind,
            "version": version,
            "ignoreErrors": False,
            "metadata": [{"name": name, "value": value} for name, value in entries.items()],
        }
        head = {"apiVersion": "dapr.io/v1alpha1", "kind": "Component", "metadata": {"name": "state"}}
        (project / "components/state.yaml").write_text(json.dumps({**head, "spec": spec}, indent=1))
        return project

    return make


@pytest.mark.parametrize(
    ("kind", "version", "words"),
    [
        ("state.redi", "v1", "knows no component type 'state.redi'; did you mean state.redis?"),
        ("state.cassandra", "v1", "it knows state.in-memory, state.mongodb, state.mysql"),
        ("state.postgresql", "v1", "knows state.postgresql in v2, not in v1"),
        ("state.mysql", "v2", "knows state.mysql in v1, not in v2"),
        ("lock.redis", "v1", "knows no component type 'lock.redis'"),
    ],
)
def test_a_type_that_daprd_does_not_know_is_named_with_its_line(
    with_store: Store, tmp_path: Path, kind: str, version: str, words: str
) -> None:
    project = with_store(kind, version)
    for command in (("check",), ("up", "--host", "dapr", "--port", "0", "--data", str(tmp_path / "data"))):
        done = run(*command, cwd=project)
        said = " ".join((done.stdout + done.stderr).split())
        assert done.returncode == 1 and words in said
        assert f"components/state.yaml:{9 if 'not in' in words else 8}: " in said


@pytest.mark.parametrize(
    ("kind", "version"), [("state.redis", "v0"), ("State.Redis", "v1"), ("state.postgresql", "v2")]
)
def test_a_type_that_daprd_knows_is_well(with_store: Store, kind: str, version: str) -> None:
    project = with_store(kind, version)
    for store in ("sqlite", "dapr"):
        done = run("check", cwd=project, MESH_STORE=store)
        assert done.returncode == 0 and "knows the types of" in " ".join(done.stdout.split())


def test_a_folder_of_something_else_is_a_warning_without_dapr(tmp_path: Path) -> None:
    (tmp_path / "components").mkdir()
    (tmp_path / "components/state.yaml").write_text("colour: red\n")
    done = run("check", cwd=tmp_path)
    assert done.returncode == 0 and "env.yaml is missing" in " ".join(done.stdout.split())
    done = run("check", cwd=tmp_path, MESH_STORE="dapr")
    assert done.returncode == 1 and "env.yaml is missing" in " ".join(done.stdout.split())


def test_files_that_cannot_be_read_are_left_to_daprd(with_store: Store, dapr_bin: str) -> None:
    components = with_store("state.redis", "v1") / "components"
    known = known_types(Path(dapr_bin) / "daprd")
    assert known is not None
    before = check_types(components, "mqtt", known)
    (components / "broken.yaml").write_text("a:\n b\n c: d\n")
    (components / "other.yaml").write_text("kind: Component\nspec: {type: [state.redis]}\n---\n- a\n")
    assert check_types(components, "mqtt", known) == before + 1
    (components / "other.yaml").write_text("kind: Other\n---\nkind: Component\nspec:\n  type: state.redos\n")
    with pytest.raises(ConfigError, match=r"other\.yaml:5: .*'state\.redos'"):
        check_types(components, "mqtt", known)


def test_a_daprd_that_does_not_list_its_types_is_not_asked_again(tmp_path: Path) -> None:
    program = tmp_path / "daprd"
    program.write_text("#!/bin/sh\necho unknown flag >&2\nexit 1\n")
    program.chmod(0o755)
    assert known_types(program) is None and known_types(tmp_path / "none") is None


async def test_a_mesh_on_dapr_keeps_its_tasks_in_postgresql(
    with_store: Store, postgres: Cluster, tmp_path: Path
) -> None:
    connection = f"host=127.0.0.1 port={postgres.port} user={USER} password={PASSWORD} database={NAME}"
    names = {"tablePrefix": "mesh_on_dapr_", "metadataTableName": "mesh_on_dapr_metadata"}
    project = with_store("state.postgresql", "v2", {"connectionString": connection, **names})
    async with mesh_up(tmp_path / "data", "--host", "dapr", cwd=project, **OFFLINE) as running:
        task_id = await running.submit("Go.", agent_id="clerk", capability=None)
        await running.until(lambda event: event["event_type"] == "task.waiting")
        await running.kill()
    with psycopg.connect(postgres.url(NAME)) as session:
        assert session.execute("SELECT count(*) FROM mesh_on_dapr_state").fetchall() > [(0,)]
    async with mesh_up(tmp_path / "data", "--host", "dapr", cwd=project, **OFFLINE) as running:
        [wait] = (await running.get(f"/tasks/{task_id}")).body["waits"]
        answer = {"key": wait["wait_id"], "value": "This one."}
        assert (await running.post(f"/tasks/{task_id}/answer", answer)).status == 202
        outcome = await running.outcome(task_id)
    assert (outcome["success"], outcome["result"]) == (True, {"text": "This one."})


@pytest.mark.parametrize(
    ("kind", "metadata"),
    [
        ("state.mysql", {"connectionString": "x:x@tcp(127.0.0.1:{port})/?allowNativePasswords=true"}),
        ("state.mongodb", {"host": "127.0.0.1:{port}", "operationTimeout": "2s"}),
    ],
)
def test_other_stores_that_are_away_end_the_start_by_their_own_error(
    with_store: Store, tmp_path: Path, kind: str, metadata: Mapping[str, str]
) -> None:
    ports = Ports()
    [port] = ports.take(1)  # nobody listens there
    filled = {name: value.replace("{port}", str(port)) for name, value in metadata.items()}
    project = with_store(kind, "v1", filled)
    done = run("up", "--host", "dapr", "--port", "0", "--data", str(tmp_path / "data"), cwd=project)
    ports.close()
    assert done.returncode == 1 and "component state: " in done.stderr
    assert f"127.0.0.1:{port}" in done.stderr and "refused" in done.stderr


async def test_the_status_tells_that_a_store_in_memory_has_lost_its_tasks(
    with_store: Store, tmp_path: Path
) -> None:
    project = with_store("state.in-memory", "v1")
    up = ("--store", "dapr")
    async with mesh_up(tmp_path / "data", *up, cwd=project, **OFFLINE) as running:
        await running.submit("Go.", agent_id="clerk", capability=None)
        await running.until(lambda event: event["event_type"] == "task.waiting")
        assert (await running.get("/status")).body["emptied"] == []
        [daprd] = running_sidecars(tmp_path / "data")
        os.kill(daprd, signal.SIGKILL)
        await running.until(lambda event: event["event_type"] == "store.emptied")
        [emptied] = (await running.get("/status")).body["emptied"]
    async with mesh_up(tmp_path / "data", *up, cwd=project, **OFFLINE) as running:
        status = await mesh("status", "--url", running.url)
        assert len((await running.get("/status")).body["emptied"]) == 2
    assert emptied["open_tasks"] == 1
    assert "open tasks that are gone" in status.out


def running_sidecars(data: Path) -> list[int]:
    """The processes of daprd of a data folder."""
    processes = [path for path in Path("/proc").iterdir() if path.name.isdigit()]
    commands = {int(path.name): command_of(path) for path in processes}
    return [pid for pid, command in commands.items() if "/daprd\0" in command and str(data) in command]


def command_of(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().decode(errors="replace")
    except OSError:  # it has ended
        return ""
