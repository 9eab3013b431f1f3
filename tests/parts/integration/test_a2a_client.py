"""The official client of A2A, `a2a-sdk` 1.3.0, with agents of a mesh."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from a2a.client import Client, ClientConfig, create_client
from a2a.types import a2a_pb2
from a2a.utils.errors import TaskNotCancelableError, TaskNotFoundError, UnsupportedOperationError
from google.protobuf.json_format import MessageToDict, ParseDict

from tests.support.http_mesh import http_mesh
from tests.support.mcp_agents import ConfirmDelete
from tests.support.running_mesh import mesh_up

AGENT = """
from pydantic import BaseModel

from meshwright import Agent, Capability, Run


class Size(BaseModel):
    size: str


class Orders(Agent):
    agent_id = "orders"
    capabilities = (Capability("ordering"),)
    remembers = False

    async def run(self, run: Run) -> str:
        answer = await run.ask_person("Which size?", shape=Size)
        return f"ordered {answer.size}"
"""
BINDINGS = ("JSONRPC", "HTTP+JSON")
Document = dict[str, Any]


@asynccontextmanager
async def client_for(url: str, binding: str, *, streaming: bool = False) -> AsyncIterator[Client]:
    async with httpx.AsyncClient(timeout=120) as http:
        config = ClientConfig(streaming=streaming, supported_protocol_bindings=[binding], httpx_client=http)
        yield await create_client(url, config)


def message(message_id: str, text: str = "", data: Any = None, **fields: Any) -> a2a_pb2.SendMessageRequest:
    parts = [{"text": text}] if text else [{"data": data}]
    document = {"messageId": message_id, "role": "ROLE_USER", "parts": parts, **fields}
    return ParseDict({"message": document}, a2a_pb2.SendMessageRequest())


async def sent(client: Client, request: a2a_pb2.SendMessageRequest) -> list[Document]:
    """All that a client gets for a message."""
    return [MessageToDict(response) async for response in client.send_message(request)]


def end(seen: list[Document]) -> Document:
    """The last status, of an update or of the task."""
    last = seen[-1]
    return last["statusUpdate"] if "statusUpdate" in last else last["task"]


def state(task: Any) -> str:
    return a2a_pb2.TaskState.Name(task.status.state).removeprefix("TASK_STATE_")


@pytest.mark.parametrize("binding", BINDINGS)
async def test_client_works_through_questions_and_errors(tmp_path: Path, binding: str) -> None:
    async with http_mesh(tmp_path, ConfirmDelete) as api:
        url = f"{api.url}/a2a/agents/confirm_delete"
        for streaming in (True, False):
            async with client_for(url, binding, streaming=streaming) as client:
                asked = end(await sent(client, message(f"m-{streaming}", "rm")))
                assert asked["status"]["state"] == "TASK_STATE_INPUT_REQUIRED"
                task_id = asked.get("taskId") or asked["id"]
                answer = message("a", data={"confirm": True}, taskId=task_id)
                assert end(await sent(client, answer))["status"]["state"] == "TASK_STATE_COMPLETED"
                task = await client.get_task(a2a_pb2.GetTaskRequest(id=task_id))
                assert (state(task), task.artifacts[0].parts[0].text) == ("COMPLETED", "deleted")
                assert task.history[0].parts[0].text == "rm"
                with pytest.raises(TaskNotCancelableError):
                    await client.cancel_task(a2a_pb2.CancelTaskRequest(id=task_id))
                with pytest.raises(TaskNotFoundError):
                    await client.get_task(a2a_pb2.GetTaskRequest(id="nothing"))
                with pytest.raises(UnsupportedOperationError):
                    await sent(client, message("late", "x", taskId=task_id))
        async with client_for(api.url, binding) as client:
            request = message("waits", "wait", metadata={"skillId": "waiting"})
            request.configuration.return_immediately = True
            [seen] = await sent(client, request)
            assert seen["task"]["status"]["state"] in ("TASK_STATE_SUBMITTED", "TASK_STATE_WORKING")
            task = await client.cancel_task(a2a_pb2.CancelTaskRequest(id=seen["task"]["id"]))
            assert state(task) == "CANCELED"
            page = await client.list_tasks(a2a_pb2.ListTasksRequest(page_size=2))
            rest = a2a_pb2.ListTasksRequest(page_size=2, page_token=page.next_page_token)
            last = await client.list_tasks(rest)
            listed = [*map(state, page.tasks), *map(state, last.tasks)]
            assert listed == ["CANCELED", "COMPLETED", "COMPLETED"]
            assert (page.total_size, last.total_size, last.next_page_token) == (3, 3, "")
            card = await client.get_extended_agent_card(a2a_pb2.GetExtendedAgentCardRequest())
            assert {"echoing", "deleting"} <= {skill.id for skill in card.skills}


async def test_task_outlives_kill_9_and_has_one_outcome(tmp_path: Path) -> None:
    """Its client sends each message again to the mesh that comes back, which is killed again."""
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors/orders.py").write_text(AGENT)
    environment = {"MESH_AGENTS__DIR": str(tmp_path / "actors"), "MESH_MODELS__ADAPTER": "offline"}
    order = message("m1", "tea")
    seen: list[Document] = []
    for step in ("ask", "answer", "read"):
        async with mesh_up(tmp_path / "data", **environment) as mesh:
            async with client_for(f"{mesh.url}/a2a/agents/orders", "JSONRPC") as client:
                if step != "read":
                    seen += await sent(client, order)
                if step != "ask":
                    answer = message("a1", data={"size": "L"}, taskId=seen[0]["task"]["id"])
                    seen += await sent(client, answer)
            assert len(await mesh.client.tasks()) == 1
            await mesh.kill()
    tasks = [response["task"] for response in seen]
    states = [task["status"]["state"].removeprefix("TASK_STATE_") for task in tasks]
    assert states == ["INPUT_REQUIRED", "INPUT_REQUIRED", "COMPLETED", "COMPLETED"]
    assert len({task["id"] for task in tasks}) == 1 and tasks[0]["status"] == tasks[1]["status"]
    assert tasks[2] == tasks[3] and tasks[3]["artifacts"][0]["parts"] == [{"text": "ordered L"}]
