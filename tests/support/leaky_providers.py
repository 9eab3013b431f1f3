"""Providers that quote keys and prompts in every error, and a mesh with an agent for each of them."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.support.fake_provider import SERVER, FakeProvider, Fault

PROMPT = "zebra-crossing-4711"
SERVER_KEY = "sk-server-Zq7K2m9X4v"
# Each group has one deployment, with a key of its own, and fails in one way; `good` answers. Two speak
# Anthropic's API. `fast` and `quality` are those that an llm-service offers by need.
FAILING = (
    "fast",
    "quality",
    "bad",
    "limited",
    "held",
    "cut",
    "garbage",
    "told",
    "page",
    "claude",
    "claude-down",
)
GROUPS = ("good", "default", *FAILING)
BY_LITELLM = ("quality", "bad", "limited", "cut", "told", "page")
KEYS = {group: f"sk-{group}-Zq7K2m9X4v" for group in GROUPS}
OTHER_KEYS = {"GATEWAY_KEY": "gateway-Zq7K2m9X4v", "GEMINI_API_KEY": "AIza-unused-Zq7K2m9X4v"}
AGENT = """
class {name}(Agent):
    '''Asks the group of its name.'''

    agent_id = "{group}"
    capabilities = (Capability("asking-{group}"),)
    model = "{group}"
    prompt_text = "You answer."
    remembers = False

"""


def fault_of(group: str, key: str) -> Fault:
    """How a group's provider fails, with everything in it that it should keep to itself."""
    words = f"Incorrect API key provided: {key}. You asked: {PROMPT}"
    headers = {"x-key": key, "x-prompt": PROMPT, "www-authenticate": f"Bearer {key}", "retry-after": key}
    body = {"error": {"message": words, "type": key, "code": PROMPT, "param": key}}
    web_page = f"<h1>{words}</h1>".encode()
    match group:
        case "fast" | "claude":
            return Fault(status=401, headers=headers, body=body)
        case "bad":
            return Fault(status=400, headers=headers, body=body)
        case "limited":
            return Fault(status=429, headers=headers, body=body)
        case "held":
            return Fault(status=400, body={"error": {"code": "content_filter", "message": words}})
        case "cut":
            return Fault(kind="drop")
        case "garbage":
            return Fault(kind="raw", pieces=[b'data: {"choices": [' + json.dumps(words).encode(), b"\n\n"])
        case "told":
            return Fault(kind="error", status=500, body=body)
        case "page":
            return Fault(kind="raw", pieces=[web_page])
        case _:
            return Fault(status=500, headers=headers, body=body)


def commanded(fake: FakeProvider, server_key: str | None) -> None:
    """Have every call fail in its group's way; at a server there is one key for all."""
    for group in (*FAILING, SERVER):  # a server's own name for its model is what `mesh models test` calls
        fault = fault_of(group, server_key or KEYS.get(group, SERVER_KEY))
        fake.faults_of[group].extend([fault] * 100)


@asynccontextmanager
async def provider() -> AsyncIterator[FakeProvider]:
    # A good reply, too, comes with what it should not.
    async with FakeProvider(headers={"x-key": KEYS["good"], "x-gateway": OTHER_KEYS["GATEWAY_KEY"]}) as fake:
        yield fake


def project(folder: Path, fake: FakeProvider) -> Path:
    """A folder with an agent and a deployment for each group."""
    (folder / "actors").mkdir(parents=True)
    agents = [AGENT.format(name=group.title().replace("-", ""), group=group) for group in GROUPS]
    head = '"""One agent for each group."""\n\nfrom meshwright import Agent, Capability\n'
    for group, agent in zip(GROUPS, agents, strict=True):
        (folder / "actors" / f"{group.replace('-', '_')}.py").write_text(head + agent)
    deployments = [deployment(fake, group) for group in GROUPS]
    config = {"model_list": deployments, "router_settings": {"disable_cooldowns": True}}
    (folder / "litellm_config.yaml").write_text(yaml.safe_dump(config))
    return folder


def deployment(fake: FakeProvider, group: str) -> dict[str, Any]:
    speaks_anthropic = group.startswith("claude")
    params = {
        "model": "anthropic/claude-haiku-4-5" if speaks_anthropic else "openai/gpt-5.4-mini",
        "api_base": fake.at(group) if speaks_anthropic else f"{fake.at(group)}/v1",
        "api_key": f"os.environ/{variable(group)}",
        "extra_headers": {"X-Gateway": "os.environ/GATEWAY_KEY"},
    }
    if group in BY_LITELLM:
        params["merge_reasoning_content_in_choices"] = False  # which LiteLLM alone can read
    return {"model_name": group, "litellm_params": params}


def variable(group: str) -> str:
    return f"{group.upper().replace('-', '_')}_KEY"


def environment_of(adapter: str, fake: FakeProvider) -> dict[str, str]:
    if adapter == "http":
        return {"MESH_MODELS__ADAPTER": "http", "LITELLM_BASE_URL": fake.url, "LITELLM_API_KEY": SERVER_KEY}
    keys = {variable(group): key for group, key in KEYS.items()}
    talkative = {"LITELLM_LOG": "DEBUG", "OPENAI_LOG": "debug"}
    return {"MESH_MODELS__ADAPTER": "router", **talkative, **OTHER_KEYS, **keys}
