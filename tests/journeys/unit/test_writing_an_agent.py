"""The agent of docs/writing-an-agent.md, as a reader would take it from the page."""

import re
from pathlib import Path
from typing import Any

from meshwright.agents.loader import load_agents
from meshwright.testing import ScriptedModel, mesh_for

PAGE = Path(__file__).parents[3] / "docs/writing-an-agent.md"


async def test_the_test_of_the_page_passes_with_the_agent_of_the_page(tmp_path: Path) -> None:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE.read_text(), flags=re.M | re.S)
    agent, test = [text for language, text in blocks if language == "python"][:2]
    prompt = next(text for language, text in blocks if not language)
    for path, text in {"actors/release_agent.py": agent, "prompts/release-agent.prompt": prompt}.items():
        (tmp_path / path).parent.mkdir()
        (tmp_path / path).write_text(text)
    namespace: dict[str, Any] = {}
    exec(test, namespace)  # noqa: S102 - it is our own page
    model = ScriptedModel()
    async with mesh_for(*load_agents(tmp_path / "actors"), model=model, project=tmp_path) as mesh:
        await namespace["test_a_fix_raises_the_last_number"](mesh, model)
        assert not mesh.events("prompt.fallback")
    assert model.requests[0].messages[0].content.startswith("You are release-agent. Read the log")
    assert model.requests[0].tags == ("cheap",)


def test_the_examples_of_the_page_import_what_they_use() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), flags=re.M | re.S)
    namespace: dict[str, Any] = {}
    for block in blocks:
        # A block without imports goes on from the one before it.
        namespace = {"__name__": "example"} if "import " in block else namespace
        exec(block, namespace)  # noqa: S102 - it is our own page
    assert len(blocks) >= 7
