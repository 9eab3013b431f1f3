"""Calls as pages of other projects write them, on a fresh mesh without keys: only the address is ours."""

import asyncio
import json
import os
import shutil
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.running_mesh import RunningMesh, mesh_up

REGISTER = r"""curl -X POST http://localhost:8081/v1/prompts \
  -H "X-Tenant-Id: test-tenant" \
  -H "Content-Type: application/json" \
  -d '{
    "name": "greeting-prompt",
    "template": "You are a helpful assistant. {{instruction}}",
    "parameters": {"temperature": 0.7}
  }'"""
TEST = r"""curl -X POST http://localhost:8081/v1/prompts/{id}/test \
  -H "X-Tenant-Id: test-tenant" \
  -H "Content-Type: application/json" \
  -d '{"instruction": "Greet the user warmly"}'"""
TENANT = {"X-Tenant-Id": "test-tenant"}

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@pytest.fixture
async def fresh(tmp_path: Path) -> AsyncIterator[RunningMesh]:
    folder = tmp_path / "empty"
    folder.mkdir()
    async with mesh_up(folder / ".mesh", cwd=folder) as running:
        yield running


async def typed(mesh: RunningMesh, command: str, *, prompt_id: str = "", more: str = "") -> Any:
    """The answer to a command line as a person pastes it into a shell."""
    line = command.replace("http://localhost:8081", mesh.url).replace("{id}", prompt_id) + more
    shell = await asyncio.create_subprocess_shell(line, stdout=PIPE, stderr=PIPE, env=dict(os.environ))
    out, errors = await shell.communicate()
    assert shell.returncode == 0, errors.decode()
    return json.loads(out)


async def test_a_prompt_is_registered_and_tested_as_written(fresh: RunningMesh) -> None:
    made = await typed(fresh, REGISTER)
    assert (made["prompt_id"], made["version"]) == ("greeting-prompt", 1), made
    assert made["parameters"] == {"temperature": 0.7, "inputs": ["instruction"]}
    tested = await typed(fresh, TEST, prompt_id=made["prompt_id"])
    assert (tested["status"], tested["success"], tested["version"]) == ("succeeded", True, 1), tested
    assert tested["text"] and tested["model"] and (tested["task_id"], tested["agent_id"]) == (None, None)
    assert (await typed(fresh, REGISTER))["status"] == 409


async def test_all_routes_of_a_prompt_service_answer_as_written(fresh: RunningMesh) -> None:
    await typed(fresh, REGISTER)
    path, other = "/v1/prompts/greeting-prompt", {"template": "Be brief. {{instruction}}"}
    assert (await fresh.call("PUT", path, json=other, headers=TENANT)).body["version"] == 2
    first = await fresh.call("GET", f"{path}?version=1", headers=TENANT)
    assert first.body["template"] == "You are a helpful assistant. {{instruction}}"
    variants = [{"name": "a", "version": 1}, {"name": "b", "version": 2}]
    wanted = {"name": "Shorter?", "agent_id": "simple-agent", "variants": variants}
    for name in ("first", "second"):
        body = {"name": "simple-agent", "template": f"Answer. {name}."}
        call = ("POST", "/v1/prompts") if name == "first" else ("PUT", "/v1/prompts/simple-agent")
        assert (await fresh.call(*call, json=body, headers=TENANT)).status in (200, 201)
    made = await fresh.call("POST", "/v1/experiments", json=wanted, headers=TENANT)
    assert made.status == 201, made
    of_experiment = f"/v1/experiments/{made.body['experiment_id']}"
    for method, ending in (("GET", ""), ("POST", "/run"), ("GET", "/results")):
        body = {"json": {}} if method == "POST" else {}
        answer = await fresh.call(method, f"{of_experiment}{ending}", headers=TENANT, **body)
        assert answer.status in (200, 202), answer
    answer = {"response": "Hello, dear Ada!", "metrics": ["length"]}
    evaluation = await fresh.call("POST", "/v1/evaluations", json=answer, headers=TENANT)
    assert evaluation.status == 201, evaluation
    shown = await fresh.call("GET", f"/v1/evaluations/{evaluation.body['evaluation_id']}", headers=TENANT)
    assert (shown.status, shown.body["items"]) == (200, 1)
    async with fresh.session.delete(fresh.url + path, headers=TENANT) as deleted:
        assert deleted.status == 204
    assert (await fresh.call("GET", path, headers=TENANT)).status == 404


async def test_calls_of_a_model_are_answered_as_written(fresh: RunningMesh) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    pool = {"model": "quality", "messages": messages, "tenant_id": "acme"}
    answer = await fresh.post("/complete", pool)
    assert answer.status == 200 and answer.body.keys() == {"content", "model", "usage"}
    assert answer.body["usage"].keys() == {"prompt_tokens", "completion_tokens"}
    assert (await fresh.get("/health")).body["status"] == "ok"
    chat = {
        "model": "default",
        "messages": messages,
        "tags": ["coding", "expensive"],
        "user": "api-coder",
        "metadata": {"cache": {"no-cache": True}},
    }
    answer = await fresh.post("/v1/chat/completions", chat, **{"x-litellm-tags": "coding,expensive"})
    assert answer.status == 200 and answer.body["choices"][0]["message"]["content"]


async def test_configurations_of_agents_are_kept_and_pushed_as_written(fresh: RunningMesh) -> None:
    agent = {
        "agent_id": "code-assistant",
        "name": "Code Assistant",
        "description": None,
        "llm_provider": "ollama",
        "llm_endpoint": None,
        "llm_model": "mistral:7b-instruct",
        "llm_timeout": 30,
        "llm_temperature": 0.7,
        "llm_max_tokens": None,
        "is_default": False,
        "is_active": True,
    }
    change = {
        "llm_provider": "openai",
        "llm_model": "gpt-4",
        "llm_endpoint": "https://api.openai.com/v1",
        "llm_timeout": 30,
        "llm_temperature": 0.7,
    }
    path = "/api/agents/code-assistant"
    fresh.session.headers["Authorization"] = f"Bearer {(fresh.data / 'admin.token').read_text().strip()}"
    async with fresh.session.ws_connect(fresh.url.replace("http", "ws") + "/ws") as socket:
        await socket.send_str(json.dumps({"subscribe": "agent_config"}))
        await socket.receive_json()
        made = await fresh.post("/api/agents", {**agent, "description": ""})
        assert made.status == 201, made
        assert (await fresh.call("PUT", path, json=(await fresh.get(path)).body)).status == 200
        assert (await fresh.call("PUT", path, json=change)).status == 200
        assert (
            (await fresh.get("/api/agents")).status == (await fresh.get("/api/agents/default")).status == 200
        )
        assert (await fresh.call("DELETE", path)).status == 200
        pushed = [await socket.receive_json(timeout=60) for _ in range(4)]
    kinds = ["agent_created", "agent_config_changed", "agent_config_changed", "agent_deleted"]
    assert [message["type"] for message in pushed] == kinds
    assert pushed[2]["agent_id"] == "code-assistant" and pushed[2]["config"].items() >= change.items()
    assert "key" not in json.dumps(pushed[2]["config"]).replace("has_api_key", "")
