"""What an operator says of windows and prices goes before what the name of a model suggests."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from meshwright import Agent, Capability, tool
from meshwright.mesh.app import build_mesh
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.models.port import ModelWindows
from tests.support.fake_provider import FakeProvider, tool_call
from tests.support.http_mesh import http_mesh
from tests.support.settings import load_settings

PAGE = "The page says something about the sea. " * 60
OWN = """
model_list:
  - model_name: default
    litellm_params: {model: openai/gpt-5.4, api_key: k}
    model_info: {max_input_tokens: 200000}
"""


class SeaReader(Agent):
    """Reads pages."""

    agent_id = "sea-reader"
    capabilities = (Capability("sea-reading"),)

    @tool(idempotent=True)
    async def read(self, number: int) -> str:
        """Read a page."""
        return f"{number}: {PAGE}"


async def shortened(fake: FakeProvider, folder: Path, **models: Any) -> int:
    """How many times the conversation of a task was shortened, whose results have some 20,000 tokens."""
    fake.replies.extend(tool_call("read", f'{{"number": {n}}}', f"call_{n}") for n in range(40))
    fake.replies.append({"content": "It is about the sea."})
    fake.usage.clear()  # a server that does not count
    context = {"window_tokens": 16_000}
    async with http_mesh(folder, SeaReader, model="auto", models=models, context=context) as api:
        task_id = await api.submit(agent_id="sea-reader", payload={"text": "What does the book say?"})
        assert (await api.mesh.get(Tasks).outcome(task_id)).text == "It is about the sea."
        events = await api.get("/events", task_id=task_id, event_type="context.shortened")
    return len(events["items"])


@pytest.mark.parametrize(
    "models",
    [{}, {"name": "gpt-5.4"}, {"adapter": "ollama/llama3.1"}],
    ids=["proxy", "one known model", "Ollama"],
)
async def test_the_window_of_the_settings_holds_behind_a_server(
    fake: FakeProvider, tmp_path: Path, models: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_API_BASE", f"{fake.url}/v1")
    address = {} if "adapter" in models else {"base_url": fake.url}
    assert await shortened(fake, tmp_path, **address, **models) > 0


async def test_the_window_of_the_projects_own_file_goes_first(fake: FakeProvider, tmp_path: Path) -> None:
    (tmp_path / "litellm_config.yaml").write_text(OWN)
    assert await shortened(fake, tmp_path, base_url=fake.url) == 0


@pytest.mark.parametrize("has_file", [False, True], ids=["shipped file", "own file"])
async def test_a_price_of_the_settings_goes_before_the_shipped_file(tmp_path: Path, has_file: bool) -> None:
    if has_file:
        (tmp_path / "litellm_config.yaml").write_text(OWN)
    settings = load_settings(
        tmp_path,
        store="memory",
        models={"base_url": "http://127.0.0.1:9"},
        default_price={"input": "0.1", "output": "0.2"},
    )
    async with build_mesh(settings, project=tmp_path, agents=[SeaReader]) as mesh:
        price = mesh.get(ModelWindows).highest_price("default", (), "default", "sea-reader", 100)
    assert price is not None and (price.input == Decimal("0.1")) is not has_file
