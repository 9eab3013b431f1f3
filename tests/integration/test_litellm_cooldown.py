"""When LiteLLM's Router leaves a failing deployment alone: what `allowed_fails` says, and what not."""

from pathlib import Path

import pytest
import yaml

from meshwright.errors import ModelError
from meshwright.models.port import ChatMessage, ModelRequest
from meshwright.models.router import RouterModel
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
        model = RouterModel(path, environment={})
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


@pytest.mark.parametrize(("allowed", "status"), [(1, 500), (2, 500), (2, 429), (2, 401)])
async def test_a_deployment_cools_down_after_the_failures_that_it_is_allowed(
    tmp_path: Path, allowed: int, status: int
) -> None:
    assert await calls_of_the_failing(tmp_path, status, allowed_fails=allowed) == allowed + 1


async def test_three_allowed_fails_count_as_none_said(tmp_path: Path) -> None:
    said = await calls_of_the_failing(tmp_path, 429, allowed_fails=3)
    assert said == await calls_of_the_failing(tmp_path, 429) == 1
