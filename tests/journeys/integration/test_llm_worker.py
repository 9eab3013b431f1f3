"""The llm-service as a worker of its own, beside a real sidecar."""

import asyncio
import shutil
from pathlib import Path

import aiohttp
import pytest

from meshwright.cli.up import MODELS_PORT, listening_for
from tests.run import DAPR
from tests.support.running_mesh import ROOT, mesh
from tests.support.running_stack import stack_up
from tests.support.settings import load_settings

ASKED = {"model": "quality", "messages": [{"role": "user", "content": "What is a turn?"}]}


@pytest.mark.needs(*DAPR)
async def test_a_worker_offers_models_and_its_calls_are_in_the_ledger_of_the_mesh(tmp_path: Path) -> None:
    (tmp_path / "actors").mkdir()
    shutil.copy(ROOT / "actors" / "llm_service.py", tmp_path / "actors")
    actors, data = str(tmp_path / "actors"), tmp_path / "data"
    async with stack_up(data, "--per-agent", MESH_AGENTS__DIR=actors) as stack:
        await stack.errors.until("logs: ")
        rows = [line.split() for line in stack.errors.text.splitlines()]
        [url] = [row[1] for row in rows if row[:1] == ["llm-service-0"]]
        token = (data / "admin.token").read_text().strip()
        helper = ("--name", "helper", "--yes")
        made = await mesh("keys", "create", *helper, "--url", url, MESH_ADMIN_TOKEN=token)
        key = {"Authorization": f"Bearer {made.out.strip()}"}
        async with aiohttp.ClientSession(url) as session:
            for path, headers, status in (
                ("/complete", key, 200),
                ("/complete", {}, 401),
                ("/tasks", key, 404),
            ):
                async with session.post(path, json=ASKED, headers=headers) as response:
                    assert response.status == status, await response.text()
        asked = await mesh("ask", "llm-service", "Hello?", "--data", str(data))
        assert asked.status == 0, asked.err
        admin = {"Authorization": f"Bearer {token}"}
        async with asyncio.timeout(240), aiohttp.ClientSession(stack.url, headers=admin) as session:
            while await calls_of(session) != {"helper": 1, "llm-service": 1}:
                pass  # the log's worker takes them in its own time


async def calls_of(session: aiohttp.ClientSession) -> dict[str, int]:
    """How many calls each has made, by the ledger."""
    async with session.get("/costs") as response:
        return {cost["key"]: cost["calls"] for cost in (await response.json())["items"]}


@pytest.mark.parametrize(
    ("app_id", "told", "port"),
    [("llm-service", {}, MODELS_PORT), ("llm-service", {"listen_port": 9}, 9), ("mesh", {}, 8000)],
)
def test_the_llm_service_has_a_port_of_its_own(
    tmp_path: Path, app_id: str, told: dict[str, int], port: int
) -> None:
    assert listening_for(app_id, load_settings(tmp_path, **told)).http.port == port
