"""Virtual keys where no mesh runs, and where the store is away."""

import asyncio
import json
from pathlib import Path

import pytest

from meshwright.errors import StoreUnavailable
from meshwright.hosts.dapr import DaprHost, Options
from meshwright.ledger.key_actors import KEY, KEYS, VirtualKey, VirtualKeys
from meshwright.ledger.keys import Keys
from meshwright.stack.ports import Ports
from meshwright.testing import ScriptedModel
from meshwright.turns import ActorKind
from tests.acceptance.driver import mesh, mesh_up
from tests.integration.models_over_http import HELLO, service
from tests.run import DAPR
from tests.services import Services

ASKED = {"model": "fast", "messages": HELLO}


async def test_a_key_that_was_made_while_no_mesh_ran_counts_when_one_does(tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    made = await mesh("keys", "create", "--agent", "helper", "--data", data)
    other = await mesh("keys", "create", "--agent", "other", "--data", data)
    listed = json.loads((await mesh("keys", "list", "--json", "--data", data)).out)
    assert [key["agent_id"] for key in listed] == ["helper", "other"]
    revoked = await mesh("keys", "revoke", listed[1]["key_id"], "--data", data)
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
    given = await mesh("submit", "general-query", "Hello", *where)
    assert (await mesh("keys", "create", "--agent", "helper", *where)).status == 0
    task = await mesh("task", given.out.strip(), "--json", *where)
    assert json.loads(task.out)["status"] == "dispatched"


async def test_the_keys_of_a_mesh_on_dapr_are_looked_after_while_it_runs(tmp_path: Path) -> None:
    for command in (["list"], ["create", "--agent", "helper"], ["revoke", "01"]):
        done = await mesh("keys", *command, "--data", str(tmp_path / "data"), MESH_HOST="dapr")
        assert (done.status, done.out) == (1, "")
        assert "on dapr has no keys there" in done.err and "mesh up" in done.err
    assert not (tmp_path / "data").exists()


async def test_where_keys_cannot_be_looked_up_nobody_is_let_in(tmp_path: Path) -> None:
    model = ScriptedModel("one")
    async with service(tmp_path, answering=model) as there:
        made = await there.mesh.keys.create("helper")
        await there.mesh.host.stop()
        for path in ("/complete", "/v1/chat/completions"):
            status, document = await there.post(path, ASKED, Authorization=f"Bearer {made.key}")
            assert (status, "sk-mesh" in str(document)) == (503, False)
    async with service(tmp_path, answering=model) as there:
        await there.mesh.host.stop()
        assert (await there.post("/complete", ASKED))[0] == 503
    assert model.requests == []


@pytest.mark.needs(*DAPR)
async def test_where_the_store_does_not_answer_nobody_is_let_in_until_it_does_again(
    services: Services, ports: Ports
) -> None:
    (port,) = ports.take(1)
    async with services.sidecar("mesh", port=port) as sidecar:
        host = DaprHost(
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
        host.register(ActorKind.of(VirtualKey, type=KEY))
        host.register(ActorKind.of(VirtualKeys, type=KEYS))
        await host.start()
        made = await Keys(host).create("helper")
        sidecar.kill()
        asked = (Keys(host).check(made.key), Keys(host).exist())
        refused = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(each) for each in refused] == [StoreUnavailable] * 2
        await sidecar.start()
        assert await Keys(host).exist()
        assert (await Keys(host).check(made.key)).agent_id == "helper"
        await host.stop()
