"""What one worker learns of a deployment holds for the others, over the store that they share."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from meshwright import Mesh, build_mesh, create_agent, load_settings
from meshwright.core.errors import ModelError
from meshwright.models.port import ChatMessage, ModelRequest
from tests.support.fake_provider import FakeProvider, Fault
from tests.support.postgres import Address

REQUEST = ModelRequest(messages=(ChatMessage(role="user", content="Hello"),), user="a", timeout_seconds=60)


def mesh_of(folder: Path, url: Address) -> Mesh:
    settings = load_settings(folder, data_dir=folder / "data", database=url, model="router")
    return build_mesh(settings, project=folder, agents=[create_agent("default", agent_id="poet")])


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.02)


async def test_workers_share_outages_and_recoveries_on_postgres(
    fake: FakeProvider, tmp_path: Path, postgres_url: Address
) -> None:
    params = {"model": "openai/gpt-5.4", "api_base": f"{fake.url}/v1", "api_key": "k"}
    config = {"model_list": [{"model_name": "default", "litellm_params": params}]}
    router = {"router_settings": {"allowed_fails": 0, "cooldown_time": 6}}
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "litellm_config.yaml").write_text(yaml.safe_dump({**config, **router}))
    one, other = (mesh_of(tmp_path / name, postgres_url) for name in ("one", "other"))
    async with one, other:
        fake.faults.append(Fault(status=503))
        with pytest.raises(ModelError):
            await one.model.complete(REQUEST.model_copy(update={"timeout_seconds": 3}))
        await until(lambda: bool(other.deployments_left_alone()))
        [left_alone] = other.deployments_left_alone()
        assert "a fault on command" in left_alone.reason
        calls = len(fake.calls)
        with pytest.raises(ModelError, match="cooling down"):
            await other.model.complete(REQUEST.model_copy(update={"timeout_seconds": 3}))
        assert len(fake.calls) == calls
        assert (await one.model.complete(REQUEST)).content
        await until(lambda: not other.deployments_left_alone())
