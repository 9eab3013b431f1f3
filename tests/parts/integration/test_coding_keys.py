"""The key of a run is worth nothing outside of the box of that run: a live one, tried everywhere."""

import re
from pathlib import Path

import aiohttp
import pytest

from tests.edges.integration.test_http_roles import operations, send
from tests.support.coding_agents import PROGRAM, Fixer
from tests.support.http_mesh import http_mesh
from tests.support.repositories import repository

pytestmark = pytest.mark.needs("git", "bwrap")
QUESTION = {"model": "gpt-x", "messages": [{"role": "user", "content": "How?"}]}


async def test_a_key_of_a_run_is_refused_by_every_route_and_outside_of_its_box(tmp_path: Path) -> None:
    settings = {
        "trees": {"code": {"repository": str(repository(tmp_path / "source"))}},
        "coding": {"fixer": {"program": "acp", "command": str(PROGRAM)}},
    }
    async with http_mesh(tmp_path, Fixer, **settings) as api:
        task_id = await api.submit(
            agent_id="fixer", payload={"text": "Have add() add. [writes key] [hangs once]"}
        )
        async for event in api.client.follow(task_id):
            if event.event_type == "coding.call":
                break
        [written] = tmp_path.rglob("key.txt")
        server, key = written.read_text().split()
        headers = {"Authorization": f"Bearer {key}"}
        with pytest.raises(aiohttp.ClientConnectionError):
            await api.session.post(f"{server}/v1/messages", json=QUESTION, headers=headers)
        for route, method, _ in operations(api):
            path = re.sub(r"\{\w+(:path)?\}", "x", route.path)
            status, text = await send(api, method, path, headers=headers, json=QUESTION)
            assert status == 401, (method, path, text)
        for path in ("/v1/chat/completions", "/v1/responses", "/v1/messages", "/v1/messages/count_tokens"):
            status, _ = await send(api, "POST", path, headers={"x-api-key": key})
            assert status == 401, path
        await api.client.cancel(task_id)
