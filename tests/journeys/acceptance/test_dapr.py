"""`mesh up --store dapr` in each of its forms, as its user starts and asks it."""

import asyncio
import json
import re
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from meshwright.parts.stack.machine import Ports, find_program
from tests.run import DAPR
from tests.support.fake_openai import FakeOpenAI, Fault
from tests.support.running_mesh import MESH, RunningMesh, mesh, mesh_up, start
from tests.support.running_stack import RunningStack
from tests.support.services import DAPR_BIN

pytestmark = pytest.mark.needs(*DAPR, "mosquitto_rr")
UP = [*MESH, "up", "--host", "dapr"]


@pytest.mark.parametrize(
    ("arguments", "rows"),
    [
        pytest.param(
            [],
            {"mosquitto", "redis", "placement", "scheduler", "daprd-mesh-0", "mesh-0"},
            marks=pytest.mark.soak("the other tests start it so"),
        ),
        (["--replicas", "2"], {"daprd-mesh-0", "daprd-mesh-1", "mesh-0", "mesh-1"}),
        (["--bus", "redis"], {"redis", "placement", "scheduler", "daprd-mesh-0", "mesh-0"}),
    ],
    ids=["one app", "two workers", "Redis streams"],
)
async def test_a_mesh_on_dapr_shows_what_runs_where_and_answers(
    tmp_path: Path, arguments: list[str], rows: set[str]
) -> None:
    data = tmp_path / "data"
    async with mesh_up(data, *arguments, up=UP) as running:
        await answers(running)
        shown = await what_runs_where(running)
    assert rows <= shown.keys()
    assert ("mosquitto" in shown) == ("redis" not in arguments)


async def test_agents_on_dapr_see_nothing_of_the_stack_in_their_workspace(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# Notes\n")
    data = tmp_path / "state"
    async with mesh_up(
        data, up=UP, MESH_TOOLS__WORKSPACE=str(tmp_path), MESH_MODELS__ADAPTER="offline"
    ) as running:
        password = re.search(r"^requirepass (\S+)", (data / "redis/redis.conf").read_text(), flags=re.M)
        assert password is not None
        texts = []
        for text in ("Read state/redis/redis.conf: what is requirepass?", "List the files."):
            task_id = await running.submit(text, capability="architecture-review")
            texts.append(json.dumps(await running.story(task_id)))
    assert "is private" in texts[0]
    assert "README.md" in texts[1]
    assert "redis.log" not in texts[1]
    assert password[1] not in "".join(texts)


async def test_a_mesh_of_an_app_for_each_agent_answers_and_has_one_set_of_keys(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with mesh_up(data, "--per-agent", up=UP) as running:
        await answers(running)
        shown = await what_runs_where(running)
        assert {"orchestrator-0", "event-logger-0", "context-service-0", "architect-agent-0"} <= shown.keys()
        front, models = running.url, shown["llm-service-0"]
        assert [await completes(url) for url in (front, models)] == [200, 200]
        made = await mesh("keys", "create", "--agent", "simple-agent", "--yes", "--data", str(data))
        key, key_id = made.out.strip(), made.err.split()[1]
        assert [await completes(url, key) for url in (front, models)] == [200, 200]
        assert [await completes(url) for url in (front, models)] == [401, 401]
        token = (data / "admin.token").read_text().strip()
        assert key_id in (await mesh("keys", "list", "--url", front, MESH_ADMIN_TOKEN=token)).out
        elsewhere = await mesh("keys", "list", "--url", models, MESH_ADMIN_TOKEN=token)
        assert (elsewhere.status, "front" in elsewhere.err) == (1, True), elsewhere.err
        revoked = await mesh("keys", "revoke", key_id, "--data", str(data))
        assert [await completes(url, key) for url in (models, front)] == [401, 401], revoked.err
        assert (await mesh("keys", "open", "--yes", "--data", str(data))).status == 0
        assert [await completes(url) for url in (front, models)] == [200, 200]


async def test_a_mesh_on_dapr_answers_mqtt_clients_that_know_nothing_of_it(tmp_path: Path) -> None:
    question = {"capability": "general-query", "payload": {"text": "What is Meshwright?"}}
    async with mesh_up(tmp_path / "data", up=UP) as running:
        await running.errors.until("logs: ")
        address = re.search(r"mosquitto\s+mqtt://(\S+):(\d+)", running.errors.text)
        assert address is not None
        command = ["mosquitto_rr", "-V", "5", "-h", address[1], "-p", address[2], "-W", "30", "-q", "1"]
        topics = ["-t", "mesh/default/submit", "-e", "replies/anonymous/me"]
        wish = ["-D", "publish", "user-property", "reply", "outcome"]
        asked = await start([*command, *topics, *wish, "-m", json.dumps(question)], {}, stdout=PIPE)
        answer, _ = await asked.communicate()
        outcome = json.loads(answer)
        assert outcome["status"] == "succeeded"
        task = await running.get(f"/tasks/{outcome['task_id']}")
        assert task.body["outcome"]["result"] == outcome["result"]


async def test_a_client_of_dapr_invokes_the_llm_service(tmp_path: Path, ports: Ports) -> None:
    data = tmp_path / "data"
    asked = {"model": "quality", "messages": [{"role": "user", "content": "What is a turn?"}]}
    path = "/v1.0/invoke/llm-service/method/complete"
    async with FakeOpenAI() as fake:
        names = {"LITELLM_BASE_URL": fake.url, "LITELLM_API_KEY": "sk-fake", "MESH_MODELS__ADAPTER": "http"}
        async with mesh_up(data, up=UP, **names) as running:
            await running.errors.until("logs: ")
            sidecar = RunningStack(running.url, running.process, running.errors).pids["daprd-mesh-0"]
            known = environment_of(sidecar)
            ours = f"http://127.0.0.1:{known['DAPR_HTTP_PORT']}"
            async with (
                sidecar_of_a_shop(data / "invocation", ports) as theirs,
                aiohttp.ClientSession(headers={"dapr-api-token": known["DAPR_API_TOKEN"]}) as session,
            ):
                for url in (ours, theirs):
                    async with session.post(url + path, json=asked) as response:
                        answer = await response.json()
                    assert response.status == 200, answer
                    assert (answer["model"], answer["usage"]["completion_tokens"]) == ("quality", 7)
                fake.faults.extend(Fault(status=503) for _ in range(9))
                async with session.post(ours + path, json=asked) as response:
                    assert response.status == 503
                    assert await response.json() == {"error": "All providers unavailable"}
                async with session.post(ours + path, json=asked, headers={"dapr-api-token": ""}) as response:
                    assert response.status == 401


async def answers(running: RunningMesh) -> None:
    """Ask an agent that asks another, then one that comes after, and see that the mesh tells of all that
    happened."""
    where = ("--data", str(running.data))
    asked = await mesh("ask", "architect-agent", "Is this safe against kill -9?", *where)
    assert asked.status == 0, asked.err
    first = (await running.get("/tasks")).body["items"][-1]["task_id"]
    before = await running.submit("Wait.", capability="general-query", after=first)
    then = await mesh("ask", "simple-agent", "What is a turn?", "--after", before[-6:], *where)
    assert then.status == 0, then.err
    assert "succeeded" in asked.err + asked.out
    tasks = (await running.get("/tasks")).body["items"]
    assert {task["status"] for task in tasks} == {"succeeded"}
    agents = {agent["agent_id"] for agent in (await running.get("/agents")).body["items"]}
    assert {"architect-agent", "researcher-agent", "orchestrator", "event-logger"} <= agents


async def completes(url: str, key: str | None = None) -> int:
    """The status that a caller on this machine gets, with a key or with none."""
    asked = {"model": "fast", "messages": [{"role": "user", "content": "What is a turn?"}]}
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(f"{url}/complete", json=asked) as response,
    ):
        return response.status


async def what_runs_where(running: RunningMesh) -> dict[str, str]:
    """The address of each program, by the table that the mesh shows."""
    await running.errors.until("logs: ")
    return dict(re.findall(r"^(\S+)\s+(\S+)\s+\d+$", running.errors.text, re.MULTILINE))


def environment_of(pid: int) -> dict[str, str]:
    entries = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(entry.split("=", 1) for entry in entries if entry)


@asynccontextmanager
async def sidecar_of_a_shop(resources: Path, held: Ports) -> AsyncIterator[str]:
    """The sidecar of an app that is no part of the mesh, on the mesh's machine."""
    http, grpc, internal, metrics = held.take(4)
    ports = ("--dapr-http-port", str(http), "--dapr-grpc-port", str(grpc), "--metrics-port", str(metrics))
    local = [
        part
        for name in ("dapr-listen-addresses", "dapr-internal-grpc-listen-address", "metrics-listen-address")
        for part in (f"--{name}", "127.0.0.1")
    ]
    program = find_program("daprd", Path(DAPR_BIN) if DAPR_BIN else None)
    command = [str(program), "--app-id", "shop", "--resources-path", str(resources)]
    inside = ("--dapr-internal-grpc-port", str(internal))
    shop = await start([*command, *ports, *inside, *local], {"DAPR_HOST_IP": "127.0.0.1"}, stdout=PIPE)
    assert shop.stdout is not None
    try:
        async with asyncio.timeout(240):
            async for line in shop.stdout:
                if b"dapr initialized" in line:
                    break
        yield f"http://127.0.0.1:{http}"
    finally:
        shop.terminate()
        await shop.communicate()
