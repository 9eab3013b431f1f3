"""No key is anywhere that anybody can look, and no prompt where only work on the mesh itself is told of.

A real `mesh up` calls providers that quote keys and prompts back at it in every error that they make. Then
all that it wrote, said and answered is searched.
"""

import asyncio
import json
import logging
import sqlite3
import subprocess
import traceback
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis.asyncio

from meshwright.client import Client
from meshwright.core.errors import ModelError
from meshwright.models.port import ChatMessage, ModelRequest
from meshwright.sql.sqlite import FILE_NAME
from tests.support.leaky_providers import (
    FAILING,
    GROUPS,
    KEYS,
    OTHER_KEYS,
    PROMPT,
    SERVER_KEY,
    commanded,
    environment_of,
    project,
    provider,
)
from tests.support.model_api import Service, service
from tests.support.mqtt_broker import Mosquitto, mosquitto
from tests.support.running_mesh import RunningMesh, mesh, mesh_up
from tests.support.services import Services

pytestmark = [
    pytest.mark.needs("mosquitto", "mosquitto_passwd", "mosquitto_sub"),
    pytest.mark.timeout(120),
    # LiteLLM reads its streams by an attribute that pydantic deprecates.
    pytest.mark.filterwarnings("ignore:Accessing the 'model_:DeprecationWarning"),
]
MQTT_PASSWORD = "mqtt-password-Zq7K2m"
COMMANDS = ("models", "models test", "keys list", "costs --by model", "events", "tasks", "budgets")
QUESTION = {"messages": [{"role": "user", "content": PROMPT}]}
MAY_HOLD_PROMPTS = {"events", "heads", "records", "mailbox"}
"""Tables that hold tasks themselves; no other may hold what was asked."""


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
    subprocess.run(["mosquitto_passwd", "-b", str(users), "mesh", MQTT_PASSWORD], check=True)
    lines = ("allow_anonymous false", f"password_file {users}")
    async with provider() as fake, mosquitto(folder / "broker", *lines) as broker:
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
            "MESH_MQTT__PASSWORD": MQTT_PASSWORD,
            "MESH_TRACING__ENABLED": "true",
            "MESH_TRACING__CONTENT": "false",
        }
        yield await everything(data, broker, environment, services)


async def everything(data: Path, broker: Mosquitto, environment: dict[str, str], services: Services) -> Seen:
    seen = Seen({**KEYS, **OTHER_KEYS, "mqtt": MQTT_PASSWORD, "server": SERVER_KEY})
    seen.keys["redis"] = services.redis_password
    looking = await look_at(broker)
    async with mesh_up(data, **environment) as running:
        made = await mesh("keys", "create", "--agent", "helper", "--yes", "--force", "--data", str(data))
        seen.keys["admin"] = (data / "admin.token").read_text().strip()
        running.session.headers["Authorization"] = f"Bearer {seen.keys['admin']}"
        seen.keys["virtual"] = made.out.strip()
        seen.add("err: keys create", made.err)
        async with Client(running.url, seen.keys["admin"]) as running.client:
            await asyncio.gather(ask_by_tasks(running, seen), ask_directly(running, seen))
            await asyncio.gather(*(command(each, data, environment, seen) for each in COMMANDS))
            for path in ("agents", "costs?by=task", "budgets", "health", "keys", "v1/models", "openapi.json"):
                await answered(running, seen, "GET", f"/{path}")
            seen.events = await all_events(running, seen)
        keep_files(data, seen)
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
        if path.is_file() and path.name != "admin.token":
            seen.add(f"file: {path.name}", path.read_bytes())


async def content_of_redis(services: Services) -> bytes:
    """All keys and values of the cache."""
    client = redis.asyncio.Redis.from_url(f"redis://:{services.redis_password}@{services.redis_host}/5")
    async with client:
        pairs = [key + (await client.get(key) or b"") async for key in client.scan_iter()]
        await client.flushdb()
    return b"\n".join(pairs)


def tables_with(text: str, data: Path) -> set[str]:
    """The tables of the database of which a row holds a text."""
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
    # Its calls are not about the prompt, which the fake quotes at everybody.
    assert found <= {"out: models test"}


async def test_what_a_provider_says_of_an_error_reaches_whoever_asked(seen: Seen) -> None:
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
            await there.mesh.model.complete(
                ModelRequest(model=group, messages=messages, user="helper"), on_delta
            )
        tell("".join(traceback.format_exception(failed.value)))
    _, document = await there.post("/v1/chat/completions", {"model": group, **QUESTION})
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
