"""Keys in the environment with which a framework may call a provider past the mesh."""

import sys
from types import ModuleType
from typing import Any

import pytest

from meshwright import Agent, Capability
from meshwright.agents.run.own_clients import key_warnings

KEYS = {"OPENAI_API_KEY": "sk-of-a-person", "ANTHROPIC_API_KEY": "", "PATH": "/bin"}


async def _run(self: Agent, run: Any) -> str:
    return "done"


def agent_of(monkeypatch: pytest.MonkeyPatch, imports: str, **fields: Any) -> type[Agent]:
    """An agent whose module has imported a class of a package."""
    module = ModuleType("shop")
    monkeypatch.setitem(sys.modules, "shop", module)
    vars(module)["Imported"] = type("Imported", (), {"__module__": imports})
    fields = {"agent_id": "shop", "capabilities": (Capability("selling"),), "__module__": "shop"} | fields
    return type("Shop", (Agent,), fields)


def test_a_key_that_a_framework_may_find_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    shop = agent_of(monkeypatch, "langchain_openai.chat_models", run=_run)
    [warning] = key_warnings([shop], KEYS, set())
    assert warning.startswith("OPENAI_API_KEY in the environment may let shop (langchain_openai) call")
    assert "sk-of-a-person" not in warning


@pytest.mark.parametrize(
    ("imports", "fields", "keys_of_mesh"),
    [
        ("langchain_openai", {"run": _run}, {"OPENAI_API_KEY"}),  # the mesh calls with it
        ("langchain_openai", {}, set()),
        ("openai_tools", {"run": _run}, set()),
    ],
)
def test_a_key_is_no_warning_where_no_framework_can_use_it_by_itself(
    monkeypatch: pytest.MonkeyPatch, imports: str, fields: dict[str, Any], keys_of_mesh: set[str]
) -> None:
    assert key_warnings([agent_of(monkeypatch, imports, **fields)], KEYS, keys_of_mesh) == []
