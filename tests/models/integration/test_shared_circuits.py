"""Workers share the state of deployments over their store."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from meshwright import create_agent
from meshwright.core.errors import ModelError
from meshwright.core.messages import TaskRequest
from meshwright.engine.events.inbox import Inbox
from meshwright.mesh.app import build_mesh
from meshwright.mesh.mesh import Mesh
from meshwright.mesh.orchestration.status import StatusReader
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.models.overview import Deployments
from meshwright.models.port import ChatMessage, Model, ModelRequest
from tests.support.fake_provider import FakeProvider, Fault
from tests.support.postgres import Address
from tests.support.settings import load_settings

REQUEST = ModelRequest(messages=(ChatMessage(role="user", content="Hello"),), user="a", timeout_seconds=60)


def meshes(fake: FakeProvider, folder: Path, url: Address) -> list[Mesh]:
    """Two on one database; what parks there waits until it is woken."""
    params = {"model": "openai/gpt-5.4", "api_base": f"{fake.url}/v1", "api_key": "k"}
    config = {"model_list": [{"model_name": "default", "litellm_params": params}]}
    router = {"router_settings": {"allowed_fails": 0, "cooldown_time": 6}}
    made: list[Mesh] = []
    for name in ("one", "other"):
        (project := folder / name).mkdir()
        (project / "litellm_config.yaml").write_text(yaml.safe_dump({**config, **router}))
        known = {"data_dir": project / "data", "database": url, "model": "router"}
        settings = load_settings(project, models={"park_seconds": 600, "max_park_seconds": 600}, **known)
        poet = create_agent("default", agent_id="poet")
        made.append(build_mesh(settings, project=project, agents=[poet]))
    return made


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(240):
        while not condition():
            await asyncio.sleep(0.02)


async def test_a_test_on_one_worker_lets_tasks_go_on_that_wait_on_another(
    fake: FakeProvider, tmp_path: Path, postgres_url: Address
) -> None:
    one, other = meshes(fake, tmp_path, postgres_url)
    async with one, other:
        fake.faults.extend([Fault(status=401)] * 20)
        task = TaskRequest(agent_id="poet", payload={"text": "Sing."})
        receipts = [await one.get(Tasks).submit(task) for _ in range(20)]
        await until(lambda: bool(one.get(Deployments).left_alone() and other.get(Deployments).left_alone()))
        async with asyncio.timeout(240):
            while (await other.get(StatusReader).status()).tasks != {"waiting": 20}:
                await asyncio.sleep(0.02)
        assert [item.subject["status"] for item in (await one.get(Inbox).page("default")).items] == [401]
        fake.faults.clear()
        calls = len(fake.calls)
        assert [result["ok"] for result in await other.get(Deployments).test(None)] == [True]
        outcomes = await asyncio.gather(*[one.get(Tasks).outcome(receipt.task_id) for receipt in receipts])
        assert {outcome.status for outcome in outcomes} == {"succeeded"}
        assert (await one.get(Inbox).page("default")).items == ()
        assert len(fake.calls) == calls + 6 + 20  # those of the test, and of the tasks


async def test_workers_share_outages_and_recoveries_on_postgres(
    fake: FakeProvider, tmp_path: Path, postgres_url: Address
) -> None:
    one, other = meshes(fake, tmp_path, postgres_url)
    async with one, other:
        fake.faults.append(Fault(status=503))
        with pytest.raises(ModelError):
            await one.get(Model).complete(REQUEST.model_copy(update={"timeout_seconds": 3}))
        await until(lambda: bool(other.get(Deployments).left_alone()))
        [left_alone] = other.get(Deployments).left_alone()
        assert "a fault on command" in str(left_alone.error)
        calls = len(fake.calls)
        with pytest.raises(ModelError, match="cooling down"):
            await other.get(Model).complete(REQUEST.model_copy(update={"timeout_seconds": 3}))
        assert len(fake.calls) == calls
        assert (await one.get(Model).complete(REQUEST)).content
        await until(lambda: not other.get(Deployments).left_alone())
