"""Each name of ours on docs/from-the-sources.md is there, and its examples run."""

import inspect
import json
import os
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from meshwright import Agent, Run
from meshwright.cli.app import COMMANDS
from meshwright.client import AgentConfigClient
from meshwright.models.named_models import AgentOptions

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs/from-the-sources.md").read_text()
SURFACE = json.loads((ROOT / "tests/support/surface.json").read_text())
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith("| there |")
]
SPANS = sorted({span for _, here in ROWS for span in re.findall(r"`([^`]+)`", here)})
MODULES = [import_module(name) for name in ("meshwright", "meshwright.component", "meshwright.client")]
PUBLIC = {name for module in MODULES for name in [*module.__all__, module.__name__]}
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.M | re.S)


def fields_in(schema: Any) -> Iterator[str]:
    """The names of fields, and the values that one may have, anywhere in a JSON schema."""
    if isinstance(schema, dict):
        yield from schema.get("properties", {})
        yield from (str(value) for value in (*schema.get("enum", ()), schema.get("const", "")))
        for inner in schema.values():
            yield from fields_in(inner)
    elif isinstance(schema, list):
        for inner in schema:
            yield from fields_in(inner)


FIELDS = {
    *fields_in(SURFACE["settings"]),
    *fields_in(SURFACE["openapi"]),
    *AgentOptions.model_fields,
    *vars(Agent),
    *inspect.get_annotations(Agent),
    *inspect.signature(AgentConfigClient).parameters,
}
FILES_AND_AGENTS = {path.stem for path in (ROOT / "prompts").glob("*.prompt")} | {"default-agent"}


def is_command(span: str) -> bool:
    """A command, or a group of some, with options that it has."""
    words = [word for word in span.removeprefix("mesh ").split() if not word.startswith("--")]
    name = next(name for name in (" ".join(words[:2]), words[0]) if name in {*SURFACE["commands"], *COMMANDS})
    entry = COMMANDS.get(name)
    options = " ".join(SURFACE["commands"][entry.short_for if entry and entry.short_for else name])
    return all(f"{option} " in options for option in re.findall(r"--[a-z-]+", span))


def is_route(span: str) -> bool:
    method, path = span.split(" ", 1)
    return method.lower() in SURFACE["openapi"]["paths"].get(path, {})


OWNERS: dict[str, Any] = {"run": Run, "Agent": Agent}


def is_python(span: str) -> bool:
    """A call or an attribute of a public name, of a run, or of an agent's class."""
    match = re.match(r"([A-Za-z_.]+)(\(.*\))?$", span)
    if match is None:
        return False
    name = match[1]
    owner, _, attribute = name.rpartition(".")
    if owner in OWNERS:
        return hasattr(OWNERS[owner], attribute)
    return name in PUBLIC or hasattr(AgentConfigClient, name)


def is_variable(span: str) -> bool:
    """A variable of the environment that some module of ours reads."""
    return any(span in path.read_text() for path in (ROOT / "runtime/meshwright").rglob("*.py"))


def is_there(span: str) -> bool:
    if span.startswith("mesh "):
        return is_command(span)
    if re.match(r"(GET|POST|PUT|DELETE) /", span):
        return is_route(span)
    if table := re.fullmatch(r"\[(\w+)\]", span):
        return table[1] in SURFACE["settings"]["properties"]
    if re.fullmatch(r"[A-Z][A-Z_]+", span):
        return is_variable(span)
    if assigned := re.fullmatch(r'"?(\w+)"?\s*[=:]\s*(.+)', span):  # kind = "http", "unit": "requester"
        value = re.fullmatch(r'"([a-z_]+)"', assigned[2])
        return assigned[1] in FIELDS and (value is None or value[1] in FIELDS)
    path = re.sub(r"AGENT|NAME", "*", span)
    if "/" in path or path.endswith(".yaml"):
        return any(ROOT.glob(path)) or "channel-" in path
    return is_python(span) or span in FIELDS or span in FILES_AND_AGENTS or span in OTHERS


OTHERS = {
    "channel-NAME",  # the agent of a persona
    "mesh.db",
    "secrets.keys",
    "default",
    'kwargs["response_cost"]',
    "f(kwargs, response_obj, start_time, end_time)",
    "length",
    "readability",
    "sentiment",
    "factuality",
}
"""Names that other tests hold."""


@pytest.mark.parametrize("span", SPANS)
def test_a_name_on_the_right_is_one_of_ours(span: str) -> None:
    assert is_there(span)


def test_the_page_has_the_names_that_newcomers_look_for() -> None:
    there = " ".join(row[0] for row in ROWS)
    for name in ("LiteLLMAgent", "create_litellm_agent", "load_prompt", "loadPrompt", "AUTOBOT_LLM_"):
        assert name in there
    assert all(len(row) == 2 for row in ROWS) and len(ROWS) > 50
    assert "from-the-sources.md" in (ROOT / "docs/README.md").read_text()


async def test_the_examples_of_the_page_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for name in [name for name in os.environ if name.endswith("_API_KEY")]:
        monkeypatch.delenv(name)
    names: dict[str, Any] = {}
    for block in BLOCKS:
        exec(block, names)  # noqa: S102 - it is our own page
    assert len(BLOCKS) == 3
    assert names["tags"] and names["text"].strip()
    assert issubclass(names["Clerk"], Agent)
    monkeypatch.setenv("AUTOBOT_LLM_PROVIDER", "openai")
    monkeypatch.setenv("AUTOBOT_LLM_MODEL", "gpt-5.4")
    assert await names["model_of"]("any") == "openai/gpt-5.4 (from environment)"
