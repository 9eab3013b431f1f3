"""A mesh as an MCP server, asked by the official Python SDK and by requests of other versions."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client, MCPError, types
from mcp.client.streamable_http import streamable_http_client
from mcp.client.subscriptions import ToolsListChanged

from meshwright import Client as MeshClient
from meshwright.core.capability import Registration
from meshwright.mesh.orchestration.presence import Presence
from tests.support.http_mesh import Api, http_mesh
from tests.support.mcp_agents import MCP_AGENTS

TASKS = "io.modelcontextprotocol/tasks"
META = "io.modelcontextprotocol"
VERSION = "2026-07-28"
ADMIN = "admin-token-of-the-tests-0123456789"
ENDED = ("completed", "failed", "cancelled")


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with http_mesh(tmp_path, *MCP_AGENTS) as made:
        yield made


@asynccontextmanager
async def connected(url: str, token: str = "", **options: Any) -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=120) as http,
        Client(streamable_http_client(f"{url}/mcp", http_client=http), cache=None, **options) as client,
    ):
        yield client


def envelope(*, tasks: bool = True) -> dict[str, Any]:
    extensions = {"extensions": {TASKS: {}}} if tasks else {}
    return {
        f"{META}/protocolVersion": VERSION,
        f"{META}/clientInfo": {"name": "test", "version": "1"},
        f"{META}/clientCapabilities": extensions,
    }


async def ask(
    api: Api, method: str, *, tasks: bool = True, token: str = "", **params: Any
) -> tuple[int, dict[str, Any]]:
    """The status and the answer of one request of the newest version."""
    name = params.get("name") or params.get("taskId") or params.get("uri")
    headers = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": VERSION}
    headers |= {"Mcp-Method": method, **({"Mcp-Name": name} if name else {})}
    headers |= {"Authorization": f"Bearer {token}"} if token else {}
    message = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": method,
        "params": {**params, "_meta": envelope(tasks=tasks)},
    }
    async with api.session.post("/mcp", json=message, headers=headers) as response:
        text = await response.text()
        lines = [line[5:] for line in text.splitlines() if line.startswith("data:")]
        return response.status, json.loads(lines[-1] if lines else text)


async def begin(api: Api, tool: str, token: str = "", **arguments: Any) -> str:
    """Call a tool, and return the id of its task."""
    _, answer = await ask(api, "tools/call", name=tool, arguments=arguments, token=token)
    assert answer["result"]["resultType"] == "task", answer
    return answer["result"]["taskId"]


async def until(api: Api, task_id: str, *statuses: str) -> dict[str, Any]:
    """Poll a task as clients do, until it has one of some states."""
    while True:
        _, answer = await ask(api, "tasks/get", taskId=task_id)
        if answer["result"]["status"] in statuses:
            return answer["result"]
        await asyncio.sleep(0.05)


async def test_agents_and_capabilities_are_tools_with_their_schemas(api: Api) -> None:
    async with connected(api.url) as client:
        assert client.protocol_version == VERSION
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert {"greet", "greeting", "echo", "echoing", "gate", "mesh_get_task"} <= tools.keys()
    assert tools["greet"].description == "Answers while its caller waits."
    assert tools["echo"].input_schema["required"] == ["text"]
    assert tools["routing"].input_schema["properties"]["region"]["type"] == "string"
    _, answer = await ask(api, "tools/list")
    assert "mesh_get_task" not in {tool["name"] for tool in answer["result"]["tools"]}


@pytest.mark.parametrize("version", ["2025-06-18", "2025-11-25", VERSION])
async def test_client_without_tasks_gets_the_answer(api: Api, version: str) -> None:
    mode: Any = "legacy" if version != VERSION else "auto"
    async with connected(api.url, mode=mode) as client:
        result = await client.call_tool("echo", {"text": "hi"})
        assert isinstance(result, types.CallToolResult)
        assert [part.model_dump()["text"] for part in result.content] == ["you said: hi"]
        failed = await client.call_tool("failing_job", {"text": "do"})
        assert isinstance(failed, types.CallToolResult)
        assert failed.is_error and failed.content[0].model_dump()["text"] == "the job failed"
        with pytest.raises(MCPError, match="panic"):
            await client.call_tool("protocol_error_job", {"text": "do"})
        with pytest.raises(MCPError, match="Unknown tool: ghost"):
            await client.call_tool("ghost", {})


async def test_older_versions_are_negotiated(api: Api) -> None:
    for version in ("2025-06-18", "2025-11-25"):
        params = {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
        message = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
        headers = {"Accept": "application/json, text/event-stream"}
        async with api.session.post("/mcp", json=message, headers=headers) as response:
            assert f'"protocolVersion":"{version}"' in await response.text()
        assert "Mcp-Session-Id" not in response.headers
    for method in ("GET", "DELETE"):
        async with api.session.request(method, "/mcp", headers={"Accept": "text/event-stream"}) as response:
            assert (response.status, response.headers["Allow"]) == (405, "POST")


async def test_long_call_is_a_task_that_is_got_and_cancelled(api: Api) -> None:
    task_id = await begin(api, "gate", text="wait")
    working = await until(api, task_id, "working")
    assert working.keys() >= {"createdAt", "lastUpdatedAt", "ttlMs", "pollIntervalMs", "statusMessage"}
    api.gate.set()
    ended = await until(api, task_id, *ENDED)
    assert ended["result"]["content"] == [{"type": "text", "text": "opened"}]
    assert (await api.get(f"/tasks/{task_id}"))["status"] == "succeeded"

    broken = await until(api, await begin(api, "protocol_error_job", text="do"), *ENDED)
    assert broken["status"] == "failed" and "panic" in broken["error"]["message"]
    refused = await until(api, await begin(api, "failing_job", text="do"), *ENDED)
    assert (refused["status"], refused["result"]["isError"]) == ("completed", True)

    asking = await begin(api, "confirm_delete", filename="a.txt")
    await until(api, asking, "input_required")
    _, answer = await ask(api, "tasks/cancel", taskId=asking)
    assert answer["result"]["resultType"] == "complete"
    assert (await until(api, asking, *ENDED))["status"] == "cancelled"


async def test_questions_are_input_of_the_client_and_in_the_inbox(api: Api) -> None:
    task_id = await begin(api, "multi_input", text="ask")
    while len(requests := (await until(api, task_id, "input_required"))["inputRequests"]) < 2:
        await asyncio.sleep(0.05)
    by_text = {request["params"]["message"]: key for key, request in requests.items()}
    assert by_text.keys() == {"First?", "Second?"}
    assert requests[by_text["First?"]]["params"]["requestedSchema"]["properties"].keys() == {
        "name",
        "confirm",
    }
    answers = {
        by_text["First?"]: {"action": "accept", "content": {"name": "Ada"}},
        "never": {"action": "accept"},
    }
    _, answer = await ask(api, "tasks/update", taskId=task_id, inputResponses=answers)
    assert answer["result"] == answer["result"] | {"resultType": "complete"}
    await api.client.answer(task_id, {"name": "Bob"}, key=by_text["Second?"])  # by another door
    assert (await until(api, task_id, *ENDED))["result"]["content"][0]["text"] == "Ada Bob"
    _, answer = await ask(api, "tasks/update", taskId=task_id, inputResponses=answers)  # it is too late
    assert "result" in answer


async def test_user_of_a_client_without_tasks_is_asked_within_the_call(api: Api) -> None:
    async def answer(context: Any, params: Any) -> types.ElicitResult:
        return types.ElicitResult(action="accept", content={"confirm": params.message == "Delete a.txt?"})

    async with connected(api.url, elicitation_callback=answer) as client:
        result = await client.call_tool("confirm_delete", {"filename": "a.txt"})
    assert isinstance(result, types.CallToolResult)
    assert result.content[0].model_dump()["text"] == "deleted"


async def test_client_that_knows_neither_gets_the_id_and_asks_with_tools(tmp_path: Path) -> None:
    async with (
        http_mesh(tmp_path, *MCP_AGENTS, mcp_server={"wait_seconds": 0}) as api,
        connected(api.url) as client,
    ):
        progress: list[str | None] = []

        async def note(done: float, total: float | None, message: str | None) -> None:
            progress.append(message)

        async def called(name: str, **arguments: Any) -> str:
            result = await client.call_tool(name, arguments, progress_callback=note)
            assert isinstance(result, types.CallToolResult) and not result.is_error, result
            return result.content[0].model_dump()["text"]

        text = await called("confirm_delete", filename="a.txt")
        task_id = text.split()[1]
        while "Delete a.txt?" not in text:
            text = await called("mesh_get_task", task_id=task_id)
        await called("mesh_answer_task", task_id=task_id, text='{"confirm": true}')
        while text != "deleted":
            text = await called("mesh_get_task", task_id=task_id)
        other = (await called("gate", text="wait")).split()[1]
        await called("mesh_cancel_task", task_id=other)
        assert (await api.client.outcome(other)).status == "cancelled"


async def test_a_claimed_question_is_answered_anyway_alone(tmp_path: Path) -> None:
    async with (
        http_mesh(tmp_path, *MCP_AGENTS, mcp_server={"wait_seconds": 0}, admin_token=ADMIN) as api,
        MeshClient(api.url, ADMIN) as admin,
    ):
        named = {"name": "ada", "roles": ["admin"]}
        key = (await api.call("POST", "/keys", json=named, headers={"Authorization": f"Bearer {ADMIN}"}))[1][
            "key"
        ]
        async with connected(api.url, key) as client:
            text = await text_of(client, "confirm_delete", filename="a.txt")
            task_id = text.split()[1]
            while "Delete a.txt?" not in text:
                text = await text_of(client, "mesh_get_task", task_id=task_id)
            [question] = await admin.inbox()
            await admin.claim(question)
            answer = {"task_id": task_id, "text": '{"confirm": true}'}
            refused = await client.call_tool("mesh_answer_task", answer)
            assert isinstance(refused, types.CallToolResult) and refused.is_error
            assert "is looking" in refused.content[0].model_dump()["text"]
            text = await text_of(client, "mesh_answer_task", **answer, anyway=True)
            while text != "deleted":
                text = await text_of(client, "mesh_get_task", task_id=task_id)


async def text_of(client: Any, name: str, **arguments: Any) -> str:
    """The text that a tool returns, which is no error."""
    result = await client.call_tool(name, arguments)
    assert isinstance(result, types.CallToolResult) and not result.is_error, result
    return str(result.content[0].model_dump()["text"])


async def test_call_reports_progress_while_it_waits(api: Api) -> None:
    async with connected(api.url) as client:
        messages: list[str] = []

        async def note(done: float, total: float | None, message: str | None) -> None:
            messages.append(message or "")
            api.gate.set()

        result = await client.call_tool("gate", {"text": "wait"}, progress_callback=note)
    assert isinstance(result, types.CallToolResult)
    assert result.content[0].model_dump()["text"] == "opened"
    assert messages[0].startswith("Task ")


async def test_same_idempotency_key_makes_one_task(api: Api) -> None:
    ids = set[str]()
    for _ in range(2):
        message = {"name": "echo", "arguments": {"text": "hi"}}
        meta = {**envelope(), "meshwright/idempotencyKey": "k1"}
        headers = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": VERSION}
        headers |= {"Mcp-Method": "tools/call", "Mcp-Name": "echo"}
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {**message, "_meta": meta}}
        async with api.session.post("/mcp", json=body, headers=headers) as response:
            ids.add(json.loads(await response.text())["result"]["taskId"])
    assert len(ids) == 1


async def test_outcomes_and_files_are_resources(api: Api) -> None:
    async with connected(api.url) as client:
        result = await client.call_tool("drawer", {"text": "draw"})
        assert isinstance(result, types.CallToolResult)
        link = result.content[1].model_dump()
        assert (link["type"], link["name"]) == ("resource_link", "chart.txt")
        [contents] = (await client.read_resource(link["uri"])).contents
        assert contents.model_dump()["text"] == "a chart"
        task_uri = link["uri"].partition("/files/")[0]
        [contents] = (await client.read_resource(task_uri)).contents
        assert json.loads(contents.model_dump()["text"])["outcome"]["success"] is True
        assert task_uri in {resource.uri for resource in (await client.list_resources()).resources}
        with pytest.raises(MCPError, match="Resource not found"):
            await client.read_resource("mesh://tasks/ghost")


async def test_prompts_of_the_mesh_are_prompts(tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts/review.prompt").write_text(
        "---\ndescription: Reviews.\ninputs: [topic]\n---\nReview {{topic}}.\n"
    )
    async with http_mesh(tmp_path) as api, connected(api.url) as client:
        prompts = {prompt.name: prompt for prompt in (await client.list_prompts()).prompts}
        assert prompts["review"].description == "Reviews."
        result = await client.get_prompt("review", {"topic": "this"})
        assert "Review this." in result.messages[0].content.model_dump()["text"]
        with pytest.raises(MCPError, match="topic"):
            await client.get_prompt("review", {})


async def test_change_of_the_tools_is_told_to_listeners(api: Api) -> None:
    async with connected(api.url) as client, client.listen(tools_list_changed=True) as changes:
        presence = api.mesh.get(Presence)
        new = Registration(
            agent_id="newcomer", name="Newcomer", capabilities=(MCP_AGENTS[0].capabilities[0],)
        )
        presence._registry.register(new)
        await api.mesh.runtime.emit([presence._event("agent.registered", "newcomer", new)])
        assert isinstance(await anext(aiter(changes)), ToolsListChanged)
        assert "newcomer" in {tool.name for tool in (await client.list_tools()).tools}


async def test_roles_and_tenants_bound_what_a_key_does(tmp_path: Path) -> None:
    """Each key sees what its role gives it; the tasks of another tenant are as unknown as any."""
    async with (
        http_mesh(tmp_path, *MCP_AGENTS, admin_token=ADMIN) as api,
        MeshClient(api.url, ADMIN) as client,
    ):
        keys = {
            name: (await client.create_key(name=name, tenant_id=tenant, roles=roles)).key
            for name, tenant, roles in (
                ("ada", "acme", ["submitter"]),
                ("eve", "acme", ["submitter"]),
                ("ann", "acme", ["viewer"]),
                ("oli", "acme", ["operator"]),
                ("bob", "other", ["submitter", "viewer", "contents", "operator", "approver"]),
            )
        }
        async with api.session.post("/mcp", json={}) as response:
            assert (response.status, response.headers["WWW-Authenticate"]) == (401, "Bearer")
        tools = {
            name: [tool["name"] for tool in (await ask(api, "tools/list", token=key))[1]["result"]["tools"]]
            for name, key in keys.items()
        }
        assert "echo" in tools["ada"] and "echo" in tools["bob"] and tools["ann"] == tools["oli"] == []
        task_id = await begin(api, "gate", keys["ada"], text="wait")
        seen = {
            name: (await ask(api, "tasks/get", taskId=task_id, token=key))[1] for name, key in keys.items()
        }
        unknown = (await ask(api, "tasks/get", taskId="ghost", token=keys["bob"]))[1]
        assert {name for name, answer in seen.items() if "result" in answer} == {"ada", "ann", "oli"}
        assert seen["bob"] == seen["eve"] == unknown
        assert unknown["error"]["code"] == -32602
        for name in ("bob", "eve", "ann"):
            _, answer = await ask(api, "tasks/cancel", taskId=task_id, token=keys[name])
            assert answer["error"]["code"] == -32602, name
        _, answer = await ask(api, "tools/call", name="echo", arguments={"text": "hi"}, token=keys["ann"])
        assert answer["error"]["message"] == "Unknown tool: echo"
        _, answer = await ask(api, "resources/read", uri=f"mesh://tasks/{task_id}", token=keys["bob"])
        assert answer["error"]["message"] == "Resource not found"
        _, answer = await ask(api, "tasks/cancel", taskId=task_id, token=keys["oli"])
        assert "result" in answer


async def test_issuer_is_named_where_one_is_configured(tmp_path: Path) -> None:
    oidc = {"issuer": "https://login.example.com", "audience": "mesh"}
    async with http_mesh(tmp_path, oidc=oidc, keys={"required": True}) as api:
        async with api.session.post("/mcp", json={}) as response:
            assert response.status == 401
            challenge = response.headers["WWW-Authenticate"]
        url = challenge.removeprefix('Bearer resource_metadata="').removesuffix('"')
        assert url == f"{api.url}/.well-known/oauth-protected-resource/mcp"
        async with api.session.get(url) as response:
            document = await response.json()
    assert document["resource"] == f"{api.url}/mcp"
    assert document["authorization_servers"] == ["https://login.example.com"]


async def test_server_that_is_off_has_no_route(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, mcp_server={"enabled": False}) as api:
        assert (await api.call("POST", "/mcp", json={}))[0] == 404


async def test_hostile_messages_are_answered_and_leave_nothing(api: Api, seed: int) -> None:
    chance = random.Random(seed)
    values: list[Any] = [
        *(None, True, 0, -1, 2**80, 1.5, "", "x" * 5000, "\ud800", "ghost", "../..", [], {}),
        *([[]], {"a": {"b": []}}, "2026-07-28", "greet", "tools/call"),
    ]
    methods = [
        *("tools/call", "tools/list", "tasks/get", "tasks/update", "tasks/cancel", "server/discover"),
        *("resources/read", "resources/list", "prompts/get", "initialize", "ping", "nothing/known"),
    ]
    names = ["name", "arguments", "taskId", "inputResponses", "uri", "cursor", "requestState", "_meta"]

    def message() -> Any:
        if chance.random() < 0.1:
            return chance.choice(values)
        params: Any = {name: chance.choice(values) for name in chance.sample(names, chance.randrange(5))}
        if chance.random() < 0.7:
            params["_meta"] = envelope(tasks=chance.random() < 0.5)
        body = {"jsonrpc": "2.0", "id": 1, "method": chance.choice(methods), "params": params}
        if chance.random() < 0.2:
            body[chance.choice([*body])] = chance.choice(values)
        return body

    async def send() -> None:
        body = message()
        headers = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
        if chance.random() < 0.8:
            headers["MCP-Protocol-Version"] = chance.choice([VERSION, VERSION, "2025-06-18", "1999-01-01"])
            headers["Mcp-Method"] = (
                str(body.get("method") if isinstance(body, dict) else "x")[:20].strip() or "x"
            )
            if isinstance(body, dict) and isinstance(body.get("params"), dict):
                name = body["params"].get("name") or body["params"].get("taskId") or body["params"].get("uri")
                headers |= {"Mcp-Name": name} if isinstance(name, str) and name.isascii() and name else {}
        data = json.dumps(body).encode()
        data = data[: chance.randrange(len(data))] if chance.random() < 0.05 else data
        async with api.session.post("/mcp", data=data, headers=headers) as response:
            await response.read()
            assert response.status < 500, (response.status, body)

    for _ in range(60):
        await asyncio.gather(*(send() for _ in range(25)))
    _, answer = await ask(api, "tools/call", name="greet", arguments={"name": "you"})
    assert answer["result"]["content"][0]["text"] == "Hello, you!"
    deep = b'{"jsonrpc":"2.0","id":1,"method":' + b"[" * 50_000
    for data, status in ((deep, 413), (b"x" * 300_000, 413), (b'{"a": NaN}', 400)):
        async with api.session.post(
            "/mcp", data=data, headers={"Accept": "application/json, text/event-stream"}
        ) as response:
            assert response.status == status


async def test_a_call_is_told_how_to_ask_later_when_the_mesh_stops(tmp_path: Path) -> None:
    request = {"name": "slow_compute", "arguments": {"seconds": 600}}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": request}
    headers = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": "2025-06-18"}
    async with httpx2.AsyncClient(headers=headers, timeout=120) as http:
        async with http_mesh(tmp_path, *MCP_AGENTS) as api:
            calling = asyncio.create_task(http.post(f"{api.url}/mcp", json=body))
            while not (waiting := await api.client.tasks(status="waiting")):
                await asyncio.sleep(0.05)
        answer = await calling
    assert answer.status_code == 200
    assert f"Task {waiting[0].task_id} goes on" in answer.text and "mesh_get_task" in answer.text
