"""Virtual keys where no mesh runs, and where the store is away."""

import asyncio
import json
from pathlib import Path

import pytest
from aiohttp import web

from meshwright.core.errors import StoreUnavailable
from meshwright.engine.events.log import EventLog
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.sql.sqlite import SqliteDatabase
from meshwright.engine.stores.dapr import DaprStore, Options
from meshwright.money.keys import KINDS, Keys
from meshwright.parts.stack.machine import Ports
from meshwright.testing import ScriptedModel
from tests.run import DAPR
from tests.support.model_api import HELLO, service
from tests.support.running_mesh import mesh, mesh_up
from tests.support.services import Services

ASKED = {"model": "fast", "messages": HELLO}


async def test_a_key_that_was_made_while_no_mesh_ran_counts_when_one_does(tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    made = await mesh("keys", "create", "--name", "helper", "--yes", "--data", data)
    other = await mesh("keys", "create", "--name", "other", "--data", data)
    listed = json.loads((await mesh("keys", "list", "--json", "--data", data)).out)
    assert [key["agent_id"] for key in listed] == ["helper", "other"]
    revoked = await mesh("keys", "revoke", listed[1]["key_id"][-8:], "--data", data)
    assert (made.status, revoked.status) == (0, 0), revoked.err
    async with mesh_up(tmp_path / "data") as running:
        for shown, status in (
            ({"Authorization": f"Bearer {made.out.strip()}"}, 200),
            ({"Authorization": f"Bearer {other.out.strip()}"}, 401),
            ({"Authorization": "Bearer none"}, 401),
        ):
            assert (await running.post("/complete", ASKED, **shown)).status == status


async def test_looking_after_keys_sets_no_agent_to_work(tmp_path: Path) -> None:
    where = ("--data", str(tmp_path))
    given = await mesh("submit", "--capability", "general-query", "Hello", *where)
    assert (await mesh("keys", "create", "--name", "helper", "--yes", *where)).status == 0
    task = await mesh("task", given.out.strip(), "--json", *where)
    assert json.loads(task.out)["status"] == "dispatched"


async def test_the_keys_of_a_mesh_on_dapr_are_looked_after_while_it_runs(tmp_path: Path) -> None:
    for command in (["list"], ["create", "--name", "helper", "--yes"], ["revoke", "01"]):
        done = await mesh("keys", *command, "--data", str(tmp_path / "data"), MESH_STORE="dapr")
        assert (done.status, done.out) == (1, "")
        assert "on dapr has no keys there" in done.err and "mesh up" in done.err
    assert not (tmp_path / "data").exists()


async def test_the_first_key_is_created_only_when_confirmed(tmp_path: Path) -> None:
    where = ("--data", str(tmp_path / "data"))
    asked = await mesh("keys", "create", "--agent", "simple-agent", *where)
    assert (asked.status, asked.out) == (2, "")
    assert "every request to the HTTP API needs a key" in asked.err and "--yes" in asked.err
    assert json.loads((await mesh("keys", "list", "--json", *where)).out) == []
    assert (await mesh("keys", "create", "--agent", "simple-agent", "--yes", *where)).status == 0
    assert (await mesh("keys", "create", "--name", "ada", *where)).status == 0


async def test_commands_on_the_machine_go_on_when_keys_are_required(tmp_path: Path) -> None:
    data = tmp_path / "data"
    where = ("--data", str(data))
    async with mesh_up(data, MESH_MODELS__ADAPTER="offline") as running:
        created = await mesh("keys", "create", "--agent", "simple-agent", "--tenant", "acme", "--yes", *where)
        key = {"Authorization": f"Bearer {created.out.strip()}"}
        asked = {"agent_id": "llm-service", "payload": {"text": "Hello"}}
        assert (await running.post("/tasks", asked)).status == 401
        assert (await running.post("/keys", {"agent_id": "simple-agent"})).status == 401
        assert (await running.post("/complete", ASKED, **key)).status == 200
        assert (await mesh("ask", "simple-agent", "Hello", "-q", *where)).status == 0
        assert (await mesh("tasks", "--url", running.url)).status == 1
        token = (data / "admin.token").read_text().strip()
        assert (await mesh("tasks", "--url", running.url, MESH_ADMIN_TOKEN=token)).status == 0
        costs = json.loads((await mesh("costs", "--by", "tenant", "--json", *where)).out)
        assert {each["key"]: each["calls"] for each in costs["items"]} == {"acme": 1, "default": 1}
        opened = await mesh("keys", "open", "--yes", *where)
        assert (opened.status, opened.out) == (0, "1 key revoked\n")
        assert (await running.get("/tasks")).status == 200
    stopped = json.loads((await mesh("costs", "--by", "tenant", "--json", *where)).out)
    assert stopped["total"]["calls"] == 2
    async with mesh_up(data, MESH_MODELS__ADAPTER="offline") as running:
        assert (await running.get("/tasks")).status == 200
        assert (await running.post("/complete", ASKED, **key)).status == 401
        assert (data / "admin.token").read_text().strip() == token
    assert (data / "admin.token").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("text", ["", "mesh-admin-\x00", "something else"])
async def test_a_file_that_is_no_admin_token_stops_the_start(tmp_path: Path, text: str) -> None:
    (tmp_path / "admin.token").write_text(text)
    done = await mesh("up", "--port", "0", "--data", str(tmp_path))
    assert (done.status, done.out) == (1, "")
    assert "admin.token" in done.err and "remove the file" in done.err


async def test_a_token_is_not_sent_to_whoever_listens_where_a_mesh_did(tmp_path: Path) -> None:
    shown: list[str] = []

    async def note(request: web.Request) -> web.Response:
        shown.append(request.headers.get("Authorization", ""))
        return web.json_response({"items": []})

    application = web.Application()
    application.router.add_get("/{path:.*}", note)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    data = tmp_path / "data"
    async with mesh_up(data) as running:
        await running.kill()
    gone = json.loads((data / "mesh.json").read_text())
    gone["url"] = f"http://127.0.0.1:{runner.addresses[0][1]}"
    (data / "mesh.json").write_text(json.dumps(gone))
    assert (await mesh("tasks", "--data", str(data))).status == 0
    await runner.cleanup()
    assert set(shown) == {""}


async def test_off_loopback_a_mesh_without_keys_does_not_start(tmp_path: Path) -> None:
    data = tmp_path / "data"
    everywhere = {"MESH_HTTP__HOST": "0.0.0.0", "MESH_MODELS__ADAPTER": "offline"}
    done = await mesh("up", "--port", "0", "--data", str(data), **everywhere)
    assert (done.status, done.out) == (1, "")
    assert "lets other machines in" in done.err and "--insecure" in done.err
    async with mesh_up(data, "--insecure", **everywhere) as running:
        assert running.url.startswith("http://0.0.0.0:")
        assert "lets other machines in, and this mesh requires no key" in running.errors.text
        assert (await running.get("/tasks")).status == 200
        assert (await running.call("GET", "/tasks", headers={"Host": "evil.example"})).status == 421
        assert (await mesh("tasks", "--data", str(data))).status == 0
    required = {**everywhere, "MESH_KEYS__REQUIRED": "true"}
    async with mesh_up(data, "--insecure", **required) as running:
        assert (await running.get("/tasks")).status == 401


async def test_where_keys_cannot_be_looked_up_nobody_is_let_in(tmp_path: Path) -> None:
    model = ScriptedModel("one")
    async with service(tmp_path, answering=model) as there:
        made = await there.mesh.get(Keys).create("helper")
        await there.mesh.runtime.stop()
        for path in ("/complete", "/v1/chat/completions", "/v1/messages"):
            status, document = await there.post(path, ASKED, Authorization=f"Bearer {made.key}")
            assert (status, "sk-mesh" in str(document)) == (503, False)
    async with service(tmp_path, answering=model) as there:
        await there.mesh.runtime.stop()
        assert (await there.post("/complete", ASKED))[0] == 503
    assert model.requests == []


@pytest.mark.needs(*DAPR)
async def test_where_the_store_does_not_answer_nobody_is_let_in_until_it_does_again(
    services: Services, ports: Ports
) -> None:
    (port,) = ports.take(1)
    async with services.sidecar("mesh", port=port) as sidecar:
        runtime = Runtime(
            DaprStore(
                Options(
                    app_id="mesh",
                    replica=sidecar.app.pod,
                    namespace=sidecar.app.namespace,
                    grpc_port=sidecar.app.grpc_port,
                    app_port=port,
                    api_token=sidecar.app.api_token,
                    app_token=sidecar.app.app_token,
                    lease_seconds=60.0,
                    patience_seconds=3.0,
                )
            )
        )
        for kind in KINDS:
            runtime.register(kind)
        await runtime.start()
        database = SqliteDatabase(None)
        keys = Keys(runtime, EventLog(database))
        made = await keys.create("helper")
        sidecar.kill()
        asked = (keys.check(made.key), keys.required())
        refused = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(each) for each in refused] == [StoreUnavailable] * 2
        await sidecar.start()
        assert await keys.required()
        assert (await keys.check(made.key)).agent_id == "helper"
        await runtime.stop()
