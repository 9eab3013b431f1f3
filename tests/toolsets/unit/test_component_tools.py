"""The search for what a user interface is made of: components, templates and tokens of a tree."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshwright import Agent, Capability
from meshwright.testing import mesh_for, tool_call
from meshwright.toolsets.components import ComponentTools
from tests.support.repositories import repository

pytestmark = pytest.mark.needs("git")

FILES = {
    "src/Button.tsx": "import x from 'y';\nexport default function Button() {}\nconst MAX = 3;\n",
    "src/card.js": "class SaleCard extends HTMLElement {}\ncustomElements.define('sale-card', SaleCard);\n",
    "src/Badge.vue": "<template><b/></template>\n",
    "src/tokens.css": ":root {\n  --button-colour: red;\n}\n",
    "pages/shop.html": '<p>Shop</p>\n<template id="row"></template>\n',
    "server/orders.py": "class OrderButton:\n    pass\n",
}
ALL = {
    "src/Button.tsx:2:export default function Button() {}",
    "src/card.js:1:class SaleCard extends HTMLElement {}",
    "src/card.js:2:customElements.define('sale-card', SaleCard);",
    "src/Badge.vue",
    "src/tokens.css:2:  --button-colour: red;",
    'pages/shop.html:2:<template id="row"></template>',
}


class Builder(Agent):
    """Looks for components."""

    agent_id = "builder"
    capabilities = (Capability("component-generation"),)
    toolsets = (ComponentTools,)
    prompt_text = "You build components."


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("", ALL),
        ("button", {line for line in ALL if "utton" in line}),
        ("nowhere", {"the project has none of that name"}),
    ],
)
async def test_components_of_a_project_are_listed_with_file_and_line(
    tmp_path: Path, name: str, expected: set[str]
) -> None:
    source = repository(tmp_path / "shop", FILES)
    async with mesh_for(Builder, trees={"shop": {"repository": str(source)}}) as mesh:
        mesh.model.replies(tool_call("components", name=name), "Done.")  # type: ignore[attr-defined]
        assert (await mesh.ask("builder", "Which are there?")).success
        request = mesh.model.requests[-1]  # type: ignore[attr-defined]
    [result] = [message.text for message in request.messages if message.role == "tool"]
    assert {*result.splitlines()} == expected
