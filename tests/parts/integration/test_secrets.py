"""No key is in anything that a mesh shows or keeps, and no prompt in what it says of its own work.

A real `mesh up` calls providers, chats and receivers of webhooks that quote keys and prompts back at it in
every error that they make. Then all that it wrote, said and answered is searched.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import sqlite3
import subprocess
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis.asyncio
from aiohttp import web

from meshwright.client import Client
from meshwright.core.errors import ModelError
from meshwright.engine.sql.sqlite import FILE_NAME
from meshwright.models.port import ChatMessage, Model, ModelRequest
from tests.support.leaky_providers import (
    FAILING,
    GROUPS,
    KEYS,
    OTHER_KEYS,
    PROMPT,
    SERVER_KEY,
    commanded,
    environment_of,
    fault_of,
    project,
    provider,
)
from tests.support.model_api import Service, service
from tests.support.mqtt_broker import Mosquitto, mosquitto
from tests.support.running_mesh import RunningMesh, mesh, mesh_up
from tests.support.services import Services

pytestmark = [
    pytest.mark.needs("mosquitto", "mosquitto_passwd", "mosquitto_sub"),
    # LiteLLM reads its streams by an attribute that pydantic deprecates.
    pytest.mark.filterwarnings("ignore:Accessing the 'model_:DeprecationWarning"),
]
AGENT_KEY = "agent-key-Yw3Lr8Tq5Vn1Xz7B"
CONFIGURED = {"llm_provider": "custom_openai", "llm_model": "configured"}
EDGE_SECRETS = {
    "webhook": "of-github-Jx5Wc9Lp2Rs8",
    "webhook before": "before-that-Hn4Vk7Qz3Td6",
    "api of github": "api-token-Bg8Mf2Ys6Kj1",
    "mattermost": "chat-token-Pw6Xr3Nd9Gh5",
    "http channel": f"whsec_{base64.b64encode(b'channel-Uy7Ea4Fo1Sq9-0123').decode()}",
    "push": f"whsec_{base64.b64encode(b'pushing-Cv2Zi8Lm5Kt3-0123').decode()}",
    "mqtt client": "client-password-Dr9Hb3Xw7Vj4",
}
"""Secrets of webhooks, channels, pushes and MQTT clients, which the services behind them quote."""
MQTT_PASSWORD = "mqtt-password-Zq7K2m"
COMMANDS = (
    "secrets rotate",
    "verify --audit",
    "models",
    "models test",
    "keys list",
    "costs --by model",
    "events",
    "tasks",
    "budgets",
)
QUESTION = {"messages": [{"role": "user", "content": PROMPT}]}
OWN_SECRETS = ("admin.token", "audit.key", "secret.key")
"""Files of the data folder that hold the mesh's own secrets, and nothing else."""
MAY_HOLD_PROMPTS = {"events", "heads", "records", "mailbox", "tasks", "task_texts", "task_words"}
"""Tables that hold tasks themselves, their list, and the index of the search; no other may hold it."""


@dataclass
class Seen:
    """All that there is to be seen of a mesh, each by its place."""

    keys: dict[str, str]
    places: dict[str, bytes] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    tables: set[str] = field(default_factory=set)

    def add(self, place: str, what: str | bytes) -> None:
        data = what.encode() if isinstance(what, str) else what
        self.places[place] = self.places.get(place, b"") + data

    def holding(self, *texts: str, below: str = "") -> set[str]:
        """The places that hold one of the texts, as it stands or as an address has it."""
        forms = [form.encode() for text in texts for form in {text, quote(text, safe="")}]
        return {
            place
            for place, data in self.places.items()
            if place.startswith(below) and any(form in data for form in forms)
        }


# A mesh as a process


@pytest.fixture(scope="module", params=["http", "router"])
async def seen(
    request: pytest.FixtureRequest, services: Services, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Seen]:
    """All that a mesh shows which has met every fault, by a task, by a plain call and by a stream."""
    folder, data = (tmp_path_factory.mktemp(name) for name in ("project", "data"))
    users = folder / "passwords"
    users.touch(mode=0o600)
    users.with_name("mqtt-password").write_text(f"{MQTT_PASSWORD}\n")
    subprocess.run(["mosquitto_passwd", "-b", str(users), "mesh", MQTT_PASSWORD], check=True)
    lines = ("allow_anonymous false", f"password_file {users}")
    async with (
        provider() as fake,
        quoting_service() as quoting_url,
        mosquitto(folder / "broker", *lines) as broker,
    ):
        project(folder, fake)
        commanded(fake, SERVER_KEY if request.param == "http" else None)
        environment = {
            **environment_of(request.param, fake),
            "MESH_AGENTS__DIR": str(folder / "actors"),
            "MESH_MODELS__CONFIG": str(folder / "litellm_config.yaml"),
            "MESH_MODELS__CACHE": "redis" if request.param == "router" else "disk",
            "MESH_MODELS__CACHE_REDIS_URL": f"redis://:{services.redis_password}@{services.redis_host}/5",
            "MESH_MODELS__PARK": "false",  # what fails is to fail now
            "MESH_MQTT__URL": broker.url,
            "MESH_MQTT__USERNAME": "mesh",
            "MESH_MQTT__PASSWORD": f"file:{users.with_name('mqtt-password')}",
            **edges(quoting_url),
            "MESH_TRACING__ENABLED": "true",
            "MESH_TRACING__CONTENT": "false",
        }
        fake.faults_of["configured"].extend([fault_of("fast", AGENT_KEY)] * 100)
        configuration = {"agent_id": "page", "llm_endpoint": fake.at("configured"), **CONFIGURED}
        yield await everything(data, broker, environment, services, configuration, f"{quoting_url}/push")


@asynccontextmanager
async def quoting_service() -> AsyncIterator[str]:
    """A fake of whatever the mesh sends to: it refuses all, and quotes the secrets that it should know."""

    async def refuse(request: web.Request) -> web.Response:
        words = json.dumps(
            {"message": f"no good: {EDGE_SECRETS} {dict(request.headers)}", "token": EDGE_SECRETS}
        )
        return web.Response(status=401, text=words, headers={"www-authenticate": EDGE_SECRETS["mattermost"]})

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", refuse)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def edges(url: str) -> dict[str, str]:
    """Settings of webhooks, channels and MQTT clients, each with its secret."""
    local = ["127.0.0.0/8"]
    secrets = {"secret": EDGE_SECRETS["webhook"], "previous_secret": EDGE_SECRETS["webhook before"]}
    github = {"kind": "github", **secrets, "token": EDGE_SECRETS["api of github"], "api_url": url}
    rule = {"source": "github", "agent": "good", "text": "{{issue.title}}", "reply": "comment"}
    chat = {"kind": "mattermost", "token": EDGE_SECRETS["mattermost"], "url": url, "agent": "good"}
    plain = {"kind": "http", "secret": EDGE_SECRETS["http channel"], "url": url, "agent": "good"}
    clients = [{"user": "ada", "password": EDGE_SECRETS["mqtt client"]}]
    return {
        "MESH_WEBHOOKS__SOURCES": json.dumps({"github": github}),
        "MESH_WEBHOOKS__RULES": json.dumps([rule]),
        "MESH_WEBHOOKS__NOTIFY": "true",
        "MESH_WEBHOOKS__PUSH_NETWORKS": json.dumps(local),
        "MESH_CHANNELS": json.dumps({"team": chat, "plain": {**plain, "networks": local}}),
        "MESH_MQTT__CLIENTS": json.dumps(clients),
    }


async def everything(
    data: Path,
    broker: Mosquitto,
    environment: dict[str, str],
    services: Services,
    configuration: dict[str, Any],
    push_url: str,
) -> Seen:
    secrets = {**KEYS, **OTHER_KEYS, **EDGE_SECRETS, "mqtt": MQTT_PASSWORD, "server": SERVER_KEY}
    seen = Seen(secrets)
    seen.keys["redis"], seen.keys["agent"] = services.redis_password, AGENT_KEY
    looking = await look_at(broker)
    async with mesh_up(data, **environment) as running:
        made = await mesh("keys", "create", "--name", "helper", "--yes", "--data", str(data))
        seen.keys["admin"] = (data / "admin.token").read_text().strip()
        running.session.headers["Authorization"] = f"Bearer {seen.keys['admin']}"
        seen.keys["virtual"] = made.out.strip()
        seen.add("err: keys create", made.err)
        async with Client(running.url, seen.keys["admin"]) as running.client:
            configured = {**configuration, "llm_api_key": AGENT_KEY}
            await answered(running, seen, "POST", "/api/agents", json=configured)
            await asyncio.gather(
                ask_by_tasks(running, seen), ask_directly(running, seen), use_edges(running, seen, push_url)
            )
            await asyncio.gather(*(command(each, data, environment, seen) for each in COMMANDS))
            for path in ("agents", "costs?by=task", "budgets", "health", "keys", "v1/models", "openapi.json"):
                await answered(running, seen, "GET", f"/{path}")
            seen.events = await all_events(running, seen)
        keep_files(data, seen)
    seen.keys["signing"] = (data / "audit.key").read_text().strip()
    seen.keys["encrypting"] = (data / "secret.key").read_text().split()[0]
    assert running.process.stdout is not None
    seen.add("out: up", await running.process.stdout.read())
    seen.add("err: up", running.errors.text)
    looking.terminate()
    seen.add("mqtt", (await looking.communicate())[0])
    seen.add("redis", await content_of_redis(services))
    keep_files(data, seen)
    seen.tables = tables_with(PROMPT, data)
    return seen


async def command(words: str, data: Path, environment: dict[str, str], seen: Seen) -> None:
    """Run a command of `mesh`, and keep what it says."""
    done = await mesh(*words.split(), "--data", str(data), **environment)
    assert done.status == (1 if words == "models test" else 0), done
    seen.add(f"out: {words}", done.out)
    seen.add(f"err: {words}", done.err)


async def look_at(broker: Mosquitto) -> asyncio.subprocess.Process:
    """Whatever is published at the broker, from now on."""
    options = ("-p", str(broker.port), "-V", "5", "-u", "mesh", "-P", MQTT_PASSWORD, "-v", "-t", "#")
    return await asyncio.create_subprocess_exec("mosquitto_sub", *options, stdout=asyncio.subprocess.PIPE)


async def ask_by_tasks(running: RunningMesh, seen: Seen) -> None:
    async def ask(group: str) -> None:
        task_id = await running.submit(PROMPT, capability=f"asking-{group}")
        outcome = await running.outcome(task_id)
        assert outcome["success"] is (group not in FAILING), outcome
        seen.add(f"error: task of {group}", json.dumps(outcome["error"]))
        await answered(running, seen, "GET", f"/tasks/{task_id}")

    await asyncio.gather(*map(ask, GROUPS))


async def use_edges(running: RunningMesh, seen: Seen, push_url: str) -> None:
    """Deliver a webhook, and have an outcome pushed; neither receiver of the results takes them."""
    issue = {"action": "opened", "issue": {"number": 7, "title": "Hi", "url": push_url}}
    body = json.dumps({**issue, "repository": {"full_name": "acme/api"}, "sender": {"login": "ada"}}).encode()
    signature = hmac.new(EDGE_SECRETS["webhook"].encode(), body, hashlib.sha256).hexdigest()
    for shown in (signature, EDGE_SECRETS["webhook"]):  # the second is wrong
        headers = {"X-Hub-Signature-256": f"sha256={shown}", "X-GitHub-Event": "issues"}
        headers |= {"X-GitHub-Delivery": shown[:8], "Content-Type": "application/json"}
        await answered(running, seen, "POST", "/webhooks/github", data=body, headers=headers)
    notify = {"url": push_url, "secret": EDGE_SECRETS["push"]}
    task = {"agent_id": "good", "payload": {"text": "Hi"}, "notify": notify}
    await answered(running, seen, "POST", "/tasks", json=task)
    wrong = {**task, "notify": {**notify, "secret": EDGE_SECRETS["mattermost"]}}
    await answered(running, seen, "POST", "/tasks", json=wrong)
    refused = set[str]()
    async for event in running.stream():
        if event["event_type"] in ("reply.delayed", "reply.dropped"):
            refused.add(event["payload"]["scheme"])
        if len(refused) == 2:  # the comment and the push
            return


async def ask_directly(running: RunningMesh, seen: Seen) -> None:
    """Ask each group as OpenAI's clients do, whole and streamed, and by need; also with a wrong key."""
    shown = {"Authorization": f"Bearer {seen.keys['virtual']}"}
    wrong = {"Authorization": f"Bearer {seen.keys['virtual'][:-1]}"}

    async def ask(group: str, path: str = "/v1/chat/completions", headers: Any = shown, **more: Any) -> None:
        body = {"model": group, **QUESTION, **more}
        kind = "error" if group in FAILING else "answer"
        await answered(running, seen, "POST", path, kind=kind, json=body, headers=headers)

    await asyncio.gather(
        *(ask(group, stream=streamed) for group in GROUPS for streamed in (False, True)),
        *(ask(group, "/complete") for group in ("fast", "quality")),
        *(ask("bad", path, wrong) for path in ("/complete", "/v1/chat/completions")),
    )


async def answered(
    running: RunningMesh, seen: Seen, method: str, path: str, *, kind: str = "answer", **options: Any
) -> None:
    """Keep all that comes back: headers, documents, and the frames of a stream."""
    async with running.session.request(method, running.url + path, **options) as response:
        place = f"{kind}: {method} {path} {options.get('json', {}).get('model', '')}"
        seen.add(place, str(response.raw_headers))
        seen.add(place, await response.read())


async def all_events(running: RunningMesh, seen: Seen) -> list[dict[str, Any]]:
    """Every event of the log, and as the frames of a stream have them."""
    reply = await running.get("/events", limit="1000")
    events = reply.body["items"]
    last = max(event["seq"] for event in events)
    async for event in running.stream():
        seen.add("frames", json.dumps(event, ensure_ascii=False))
        if event["seq"] >= last:
            break
    return events


def keep_files(data: Path, seen: Seen) -> None:
    """Keep what every file below a data folder holds."""
    for path in data.rglob("*"):
        if path.is_file() and path.name not in OWN_SECRETS:
            seen.add(f"file: {path.name}", path.read_bytes())


async def content_of_redis(services: Services) -> bytes:
    """All keys and values of the cache."""
    client = redis.asyncio.Redis.from_url(f"redis://:{services.redis_password}@{services.redis_host}/5")
    async with client:
        pairs = [key + (await client.get(key) or b"") async for key in client.scan_iter()]
        await client.flushdb()
    return b"\n".join(pairs)


def tables_with(text: str, data: Path) -> set[str]:
    """The tables of the database with a row that holds a text."""
    connection = sqlite3.connect(f"file:{data / FILE_NAME}?mode=ro", uri=True)
    names = [row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    found = {
        name
        for name in names
        for row in connection.execute(f'SELECT * FROM "{name}"')
        if any(text in str(value) for value in row)
    }
    connection.close()
    return found


async def test_no_key_is_in_anything_that_a_mesh_shows_or_keeps(seen: Seen) -> None:
    assert len(seen.keys) >= 12 and all(len(key) > 11 for key in seen.keys.values())
    assert {name: places for name, key in seen.keys.items() if (places := seen.holding(key))} == {}


async def test_everything_was_looked_at(seen: Seen) -> None:
    files = {f"file: {name}" for name in (FILE_NAME, f"{FILE_NAME}-wal", "mesh.json", "models.json")}
    wanted = {*files, "frames", "mqtt", "err: up", "out: models test"}
    assert wanted <= {place for place, data in seen.places.items() if data}
    cached = seen.holding(PROMPT, below="redis") or seen.holding(PROMPT, below="file: cache.db")
    assert cached or b"Calls go on without the cache" in seen.places["err: up"]
    assert seen.holding(PROMPT, below="frames") and seen.holding(PROMPT, below="answer"), "it was never asked"


async def test_no_prompt_is_in_what_a_mesh_says_logs_or_tells_of_an_error(seen: Seen) -> None:
    found = {place for below in ("out: ", "err: ", "error: ") for place in seen.holding(PROMPT, below=below)}
    # A task's title is its first line. Calls of the other are not about the prompt, which the fake quotes at
    # everybody.
    assert found <= {"out: tasks", "out: models test"}


async def test_what_a_provider_says_of_an_error_reaches_its_caller(seen: Seen) -> None:
    reason = "Incorrect API key provided: [redacted]. You asked: [...]"
    groups = ("fast", "bad", "limited", "held")
    assert {f"error: task of {group}" for group in groups} <= seen.holding(reason)
    assert "out: models test" in seen.holding("Incorrect API key provided: [redacted]")
    calls = [event["payload"] for event in seen.events if event["event_type"] == "model.called"]
    told = {call["group"] for call in calls if reason in (call["reason"] or "")}
    assert {"fast", "bad", "limited", "held"} <= told


async def test_only_events_that_tell_of_the_task_itself_hold_its_prompt(seen: Seen) -> None:
    holding = [event for event in seen.events if PROMPT in json.dumps(event)]
    failing = [event for event in holding if event["agent_id"] in FAILING]
    assert {event["event_type"] for event in failing} == {"task.dispatched"}
    spans = [event for event in seen.events if event["event_type"] == "trace.spans"]
    assert len(spans) >= len(GROUPS) and not any(event in holding for event in spans)
    calls = [event for event in seen.events if event["event_type"] == "model.called"]
    assert len(calls) > len(GROUPS) and not any(event in holding for event in calls)


async def test_only_tables_of_tasks_hold_their_prompt(seen: Seen) -> None:
    assert {"events"} <= seen.tables <= MAY_HOLD_PROMPTS


# In process


async def fail_by(there: Service, group: str, tell: Callable[[str], None]) -> None:
    """Ask a group whole, streamed and over HTTP, and tell of each error with its whole traceback."""

    def pass_over(text: str) -> None:
        """Take a piece of an answer."""

    messages = (ChatMessage(role="user", content=PROMPT),)
    for on_delta in (None, pass_over):
        with pytest.raises(ModelError) as failed:
            await there.mesh.get(Model).complete(
                ModelRequest(model=group, messages=messages, user="helper"), on_delta
            )
        tell("".join(traceback.format_exception(failed.value)))
    _, document = await there.post("/v1/chat/completions", {"model": group, **QUESTION})
    if "error" in document:  # a name of Claude's that is no group here is the default group's
        tell(json.dumps(document))


@pytest.mark.parametrize("adapter", ["http", "router"])
async def test_no_log_record_and_no_error_holds_a_key_or_a_prompt(
    adapter: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    told: list[str] = []
    async with provider() as fake:
        folder = project(tmp_path, fake)
        commanded(fake, SERVER_KEY if adapter == "http" else None)
        for name, value in environment_of(adapter, fake).items():
            monkeypatch.setenv(name, value)
        async with service(folder, model=adapter) as there:
            await asyncio.gather(*(fail_by(there, group, told.append) for group in FAILING))
    said = "\n".join([*told, caplog.text, *(str(vars(record)) for record in caplog.records)])
    held = [text for text in (PROMPT, SERVER_KEY, *KEYS.values(), *OTHER_KEYS.values()) if text in said]
    assert held == []
