"""When a failing deployment is left alone, by this worker and by the others of a mesh."""

from pathlib import Path

import pytest
import yaml

from meshwright.errors import ModelError
from meshwright.models.picker import Picker
from meshwright.models.port import ChatMessage, ModelRequest
from tests.support.fake_provider import FakeProvider, Fault

CALLS = 8


async def calls_of_the_failing(folder: Path, status: int, **settings: int) -> int:
    """How many of some calls reach a deployment that fails, beside a good one for when it cools down."""
    async with FakeProvider() as fake:
        fake.faults_of["bad"].extend(Fault(status=status) for _ in range(CALLS))
        deployments = [
            {
                "model_name": "default",
                "litellm_params": {
                    "model": f"openai/{name}",
                    "api_key": "k",
                    "api_base": fake.at(name),
                    "tags": ["default"],
                    "weight": weight,
                },
            }
            for name, weight in (("bad", 1), ("good", 0))
        ]
        path = folder / "litellm_config.yaml"
        router = {"enable_tag_filtering": True, "cooldown_time": 60, **settings}
        path.write_text(yaml.safe_dump({"model_list": deployments, "router_settings": router}))
        model = Picker(path, environment={})
        message = ChatMessage(role="user", content="Hello")
        try:
            for _ in range(CALLS):
                try:
                    await model.complete(ModelRequest(messages=(message,), user="a"))
                except ModelError:
                    continue
        finally:
            await model.close()
        return len(fake.calls_of("bad"))


@pytest.mark.parametrize(("allowed", "status"), [(1, 500), (2, 500), (2, 429)])
async def test_a_deployment_cools_down_after_the_failures_that_it_is_allowed(
    tmp_path: Path, allowed: int, status: int
) -> None:
    assert await calls_of_the_failing(tmp_path, status, allowed_fails=allowed) == allowed + 1


@pytest.mark.parametrize("status", [401, 402, 403, 404])
async def test_a_refused_key_or_a_lost_model_cools_a_deployment_down_at_once(
    tmp_path: Path, status: int
) -> None:
    assert await calls_of_the_failing(tmp_path, status, allowed_fails=2) == 1
