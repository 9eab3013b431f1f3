"""Prompts that callers register: over HTTP, by commands, and as agents use them."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import ANY

import pytest

from meshwright import Agent, Capability, Run
from meshwright.agents.prompts import PromptContext, PromptSources
from meshwright.core.access import Role
from meshwright.core.errors import HostError
from meshwright.core.messages import Caller, TaskRequest
from meshwright.engine.events.status import WORKER_BEGUN, WORKER_HELD
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.parts.llmops.operations import PromptRegistry
from meshwright.testing import ScriptedModel
from tests.support.http_mesh import Api, http_mesh
from tests.support.running_mesh import mesh
from tests.support.tenants import holder

TOKEN = "the-admin-token-of-this-test-is-long"
ADMIN = {"Authorization": f"Bearer {TOKEN}"}
KIND = {"name": "greeter", "template": "You are {{agent_name}}.\nBe kind.", "parameters": {"tags": ["kind"]}}


class Greeter(Agent):
    """Greets as its prompt says."""

    agent_id = "greeter"
    capabilities = (Capability("greeting"),)
    remembers = False
    prompt_text = "Greet as the file says."
    variables: ClassVar = {"place": "the harbour"}


class Waiter(Agent):
    """Asks its model, then a person, then its model again."""

    agent_id = "waiter"
    capabilities = (Capability("waiting-for-people"),)
    remembers = False
    prompt = "greeter"
    prompt_text = "Greet as the file says."
    variables: ClassVar = {"place": "the station", "hour": "noon"}

    async def run(self, run: Run) -> str:
        await run.ask("First?")
        await run.ask_person("Go on?")
        return await run.ask("Second?")


@pytest.fixture
def model() -> ScriptedModel:
    return ScriptedModel(*(f"answer {n}" for n in range(9)))


@pytest.fixture
async def api(tmp_path: Path, model: ScriptedModel) -> AsyncIterator[Api]:
    async with http_mesh(tmp_path, Greeter, Waiter, script=model, admin_token=TOKEN) as api:
        yield api


async def call(
    api: Api, method: str, path: str = "", body: Any = None, headers: dict[str, str] = ADMIN, **more: str
) -> tuple[int, Any, Mapping[str, str]]:
    """The status, the document and the headers of an answer."""
    named = {name.replace("_", "-"): value for name, value in more.items()}
    async with api.session.request(
        method, f"/v1/prompts{path}", json=body, headers={**headers, **named}
    ) as answer:
        return answer.status, json.loads(await answer.text() or "null"), answer.headers


async def done(api: Api, method: str, path: str = "", body: Any = None, **options: Any) -> Any:
    """The document of a request that succeeds."""
    status, document, _ = await call(api, method, path, body, **options)
    assert status < 300, document
    return document


async def greeted(api: Api, model: ScriptedModel, agent_id: str = "greeter") -> tuple[str, str | None]:
    """The prompt that a task's model reads, and the version that the outcome names."""
    outcome = await api.client.ask(agent_id, "Hello")
    return model.requests[-1].messages[0].content, outcome.prompt


async def test_prompts_are_registered_read_changed_and_deleted(api: Api) -> None:
    status, made, headers = await call(api, "POST", body={**KIND, "message": "The first."})
    assert (status, headers["Location"], headers["ETag"]) == (
        201,
        "/v1/prompts/greeter",
        f'"{made["digest"]}"',
    )
    assert (made["prompt_id"], made["version"], made["author"]) == ("greeter", 1, "admin")
    assert made["parameters"] == {"tags": ["kind"], "variables": ["agent_name"]}
    assert (await call(api, "POST", body=KIND))[0] == 409
    changed = await done(api, "PUT", "/greeter", {"template": "Be brief.", "message": "Shorter."})
    assert changed["version"] == 2
    assert (
        await done(api, "PUT", "/greeter", {"template": "Be brief."}) == changed
    )  # no version for no change
    newest = await done(api, "GET", "/greeter")
    assert newest["template"] == "Be brief." and await done(api, "PUT", "/greeter", newest) == newest
    status, problem, _ = await call(api, "PUT", "/greeter", {**newest, "name": "other"})
    assert (status, problem["field"]) == (422, "name")
    assert await done(api, "GET", "/greeter?version=1") == made
    await done(api, "PUT", "/greeter/labels/canary", {"version": 1})
    labelled = await done(api, "GET", "/greeter?label=canary")
    assert (labelled["version"], labelled["labels"]) == (1, {"canary": 1})
    assert (await call(api, "GET", "/greeter?label=canary&version=1"))[0] == 422
    await done(api, "POST", body={"name": "other", "template": "Other."})
    first = await done(api, "GET", "?limit=1")
    assert [item["version"] for item in first["items"]] == [2] and first["cursor"] == "greeter"
    assert [item["name"] for item in (await done(api, "GET", "?cursor=greeter"))["items"]] == ["other"]
    versions = await done(api, "GET", "/greeter/versions?limit=1")
    assert [item["message"] for item in versions["items"]] == ["Shorter."]
    rest = await done(api, "GET", f"/greeter/versions?cursor={versions['cursor']}")
    assert [item["message"] for item in rest["items"]] == ["The first."] and rest["cursor"] is None

    await done(api, "DELETE", "/greeter")
    for path in ("/greeter", "/greeter?label=canary"):
        assert (await call(api, "GET", path))[0] == 404
    assert (await call(api, "PUT", "/greeter", {"template": "x"}))[0] == 404
    assert [item["name"] for item in (await done(api, "GET"))["items"]] == ["other"]
    kept = await done(api, "GET", "/greeter?version=1")
    assert (kept["template"], kept["deleted"]) == (KIND["template"], True)
    assert (await done(api, "POST", body=KIND))["version"] == 3
    events = (await api.get("/events", limit=1000))["items"]
    told = [
        (event["event_type"], event["payload"]["version"])
        for event in events
        if event["event_type"].startswith("prompt.") and event["payload"]["name"] == "greeter"
    ]
    assert told == [
        ("prompt.registered", 1),
        ("prompt.registered", 2),
        ("prompt.labelled", 1),
        ("prompt.deleted", 2),
        ("prompt.registered", 3),
    ]


@pytest.mark.parametrize(
    ("wrong", "field", "line", "problem"),
    [
        ({"template": "One.\n\n{{Mood}}"}, "template", 3, "not a variable"),
        (
            {"template": "One.\n\n{{mood}}", "parameters": {"variables": ["mood"]}},
            "parameters.variables",
            None,
            "'mood'",
        ),
        ({"template": "\n\nOne {% if %}"}, "template", 3, "not a variable"),
        ({"template": "One.", "parameters": {"temprature": 1}}, "parameters.temprature", None, "unknown"),
        ({"template": "One.", "parameters": {"temperature": 3}}, "parameters.temperature", None, "at most 2"),
        (
            {"template": "One.", "parameters": {"variables": ["task"]}},
            "parameters.variables",
            None,
            "not used",
        ),
        ({"template": "One.", "parameters": {"params": {"user": "x"}}}, "parameters.params", None, "user"),
        ({"template": "é" * 40_000}, "template", None, "larger than"),
        ({"template": " \n"}, "template", None, "no text"),
        ({"template": "---\ntags: [a]\n---\nOne."}, "template", None, "front matter"),
        ({"template": "One.\x00"}, "template", None, "NUL"),
        ({"template": "One.", "message": "\x00"}, "message", None, "NUL"),
        ({"template": "One.", "name": "../one"}, "name", None, "letters"),
    ],
)
async def test_a_mistake_is_named_with_the_line_of_the_template(
    api: Api, wrong: dict[str, Any], field: str, line: int | None, problem: str
) -> None:
    status, answer, _ = await call(api, "POST", body={"name": "wrong", **wrong})
    assert (status, answer["field"], answer.get("line")) == (422, field, line), answer
    assert problem in answer["detail"] and (line is None) == (", line " not in answer["detail"])
    assert (await done(api, "GET"))["items"] == []


async def test_agents_use_the_version_with_the_label_production(api: Api, model: ScriptedModel) -> None:
    made = await done(api, "POST", body=KIND)
    of_file = await greeted(api, model)
    assert of_file[0].startswith("Greet as the file says.")  # what has no label changes nothing live
    await done(api, "PUT", "/greeter/labels/canary", {"version": 1})
    assert await greeted(api, model) == of_file
    await done(api, "PUT", "/greeter/labels/production", {"version": 1})
    text, version = await greeted(api, model)
    assert text.startswith("You are greeter.\nBe kind.")
    assert version == f"greeter@{made['digest'][:12]} registry:v1"
    assert model.requests[-1].tags == ("kind",)
    await done(api, "PUT", "/greeter", {"template": "Be brief."})
    assert (await greeted(api, model))[1] == version
    for number, begins in ((2, "Be brief."), (1, "You are greeter.")):  # forth, and back
        await done(api, "PUT", "/greeter/labels/production", {"version": number})
        assert (await greeted(api, model))[0].startswith(begins)
    registry, run = api.mesh.get(PromptRegistry), PromptContext(agent_id="greeter", task_id="t")
    admin = Caller(requested_by="ada", key_id="key", roles=frozenset({Role.ADMIN}))
    for number in (2, 1):  # at once in the process that moves it
        await registry.label(admin, "greeter", "production", number)
        prompt = registry.resolve("greeter", run)
        assert prompt is not None and prompt.version.endswith(f" registry:v{number}")
    await done(api, "DELETE", "/greeter/labels/production")
    assert await greeted(api, model) == of_file


async def test_a_task_that_goes_on_keeps_its_prompt(api: Api, model: ScriptedModel) -> None:
    await done(api, "POST", body=KIND)
    await done(api, "PUT", "/greeter/labels/production", {"version": 1})
    task_id = await api.submit(agent_id="waiter", text="Hello")
    while not (waits := (await api.mesh.get(Tasks).task(task_id, "default")).waits):
        await asyncio.sleep(0.01)
    await done(api, "PUT", "/greeter", {"template": "Be brief."})
    await done(api, "PUT", "/greeter/labels/production", {"version": 2})
    await api.mesh.get(Tasks).answer(task_id, waits[0].wait_id, "yes")
    assert (await api.mesh.get(Tasks).outcome(task_id)).success
    assert [request.messages[0].content.split(".")[0] for request in model.requests] == ["You are waiter"] * 2
    assert (await greeted(api, model, "greeter"))[0].startswith("Be brief.")


async def test_a_tenant_has_its_own_prompts(api: Api, model: ScriptedModel) -> None:
    of_acme, of_other = [await holder(api, tenant, Role.ADMIN) for tenant in ("acme", "other")]
    for headers, text in ((of_acme, "Secret of acme."), (of_other, "Other.")):
        await done(api, "POST", body={"name": "greeter", "template": text}, headers=headers)
    await done(api, "PUT", "/greeter/labels/production", {"version": 1}, headers=of_acme)
    await done(api, "POST", body={"name": "own", "template": "Of acme."}, headers=of_acme)
    assert (await call(api, "GET", "/own", headers=of_other))[0] == 404
    assert (await call(api, "PUT", "/own/labels/production", {"version": 1}, of_other))[0] == 404
    for tenant, begins in (("acme", "Secret of acme."), ("other", "Greet as the file"), ("default", "Greet")):
        caller = Caller(tenant_id=tenant)
        wanted = TaskRequest(agent_id="greeter", payload={"text": "Hello"})
        task_id = (await api.mesh.get(Tasks).submit(wanted, caller)).task_id
        await api.mesh.get(Tasks).outcome(task_id, tenant)
        assert model.requests[-1].messages[0].content.startswith(begins)
    for headers, expected in ((of_acme, 200), (of_other, 403)):
        status, answer, _ = await call(api, "GET", "", headers=headers, X_Tenant_Id="acme")
        assert status == expected and "Secret" not in str(answer)


@pytest.mark.parametrize("path", ["", "/greeter/versions"])
async def test_a_viewer_sees_no_message_of_a_version(api: Api, path: str) -> None:
    await done(api, "POST", body={**KIND, "message": "Say hello, not hi."})
    for role, message in ((Role.VIEWER, ""), (Role.CONTENTS, "Say hello, not hi.")):
        headers = await holder(api, "default", role)
        [listed] = (await done(api, "GET", path, headers=headers))["items"]
        assert (listed["version"], listed["message"]) == (1, message)


async def test_production_takes_an_administrator(api: Api) -> None:
    operator = await holder(api, "default", Role.OPERATOR)
    await done(api, "POST", body=KIND, headers=operator)
    await done(api, "PUT", "/greeter/labels/canary", {"version": 1}, headers=operator)
    assert (await call(api, "PUT", "/greeter/labels/production", {"version": 1}, operator))[0] == 403
    await done(api, "PUT", "/greeter/labels/production", {"version": 1})
    for method, path in (("DELETE", "/greeter/labels/production"), ("DELETE", "/greeter")):
        assert (await call(api, method, path, headers=operator))[0] == 403
    await done(api, "DELETE", "/greeter/labels/canary", headers=operator)
    assert (await done(api, "GET", "/greeter"))["labels"] == {"production": 1}
    await done(api, "DELETE", "/greeter/labels/production")
    await done(api, "DELETE", "/greeter", headers=operator)


async def test_of_changes_of_one_version_one_is_made(api: Api) -> None:
    made = await done(api, "POST", body=KIND)
    tag = f'"{made["digest"]}"'
    changes = [{"template": f"Change {number}."} for number in range(5)]
    answers = await asyncio.gather(
        *(call(api, "PUT", "/greeter", change, If_Match=tag) for change in changes)
    )
    assert sorted(status for status, *_ in answers) == [200, 412, 412, 412, 412]
    assert (await done(api, "GET", "/greeter"))["version"] == 2
    newest = next(headers["ETag"] for status, _, headers in answers if status == 200)
    assert (await call(api, "PUT", "/greeter", KIND | changes[0], If_Match=tag[:-1]))[0] == 422
    assert (await done(api, "PUT", "/greeter", {"template": "Last."}, If_Match=f'"x", {newest}'))[
        "version"
    ] == 3
    unmatched = await asyncio.gather(*(done(api, "PUT", "/greeter", change) for change in changes))
    assert sorted(change["version"] for change in unmatched) == [4, 5, 6, 7, 8]


async def test_a_worker_without_the_tables_reads_those_of_the_front(api: Api) -> None:
    of_front = api.mesh.get(PromptRegistry)
    made = await done(api, "POST", body=KIND)
    worker = PromptRegistry(api.mesh)
    worker._has_table = False
    run = PromptContext(tenant_id="default", agent_id="greeter", task_id="t")
    with pytest.raises(HostError, match="not read yet"):  # it does not take the file meanwhile
        PromptSources([worker, of_front]).resolve("greeter", run)
    assert worker.resolve("greeter") is None
    await worker.start()
    try:
        for _ in range(2):
            await until(lambda: worker.live_texts() is not None)
            assert worker.resolve("greeter", run) is None
        await done(api, "PUT", "/greeter/labels/production", {"version": 1})
        await until(lambda: worker.resolve("greeter", run) is not None)
        assert worker.resolve("greeter", run) == of_front.resolve("greeter", run)
        await done(api, "PUT", "/greeter", {"template": "Be brief."})
        await done(api, "PUT", "/greeter/labels/production", {"version": 2})
        await until(lambda: getattr(worker.resolve("greeter", run), "digest", "") != made["digest"])
    finally:
        await worker.stop()


async def test_status_shows_a_worker_that_is_held_until_it_begins(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshwright.mesh.orchestration.status._HELD_SECONDS", 3600.0)  # not to expire here
    held = {"agents": ["greeter"], "since": "2026-01-01T00:00:00Z", "reason": "no answer in time"}
    api.mesh.tell(WORKER_HELD, held)
    shown = [{"worker": api.mesh.aggregate_id, **held}]
    assert await held_workers(api, 1) == shown
    api.mesh.tell(WORKER_BEGUN, {})
    assert await held_workers(api, 0) == []


async def held_workers(api: Api, count: int) -> list[dict[str, Any]]:
    """The workers that the status shows as held, once there are that many."""
    async with asyncio.timeout(60):
        while True:
            async with api.session.get("/status", headers=ADMIN) as answer:
                held = (await answer.json())["held"]
            if len(held) == count:
                return held


async def until(holds: Any) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                if holds():
                    return
            except HostError:
                pass
            await asyncio.sleep(0.01)


async def test_a_change_that_no_event_told_of_counts_after_the_ttl(
    tmp_path: Path, model: ScriptedModel
) -> None:
    settings = {"llmops": {"ttl_seconds": 1}, "prompts": {"reload_seconds": 0.05}}
    async with http_mesh(tmp_path, Greeter, script=model, admin_token=TOKEN, **settings) as api:
        await done(api, "POST", body=KIND)
        statement = "INSERT INTO prompt_labels VALUES ('default', 'greeter', 'production', 1)"
        await api.mesh.database.write(_execute, statement)
        source = api.mesh.get(PromptSources)
        run = PromptContext(agent_id="greeter", task_id="t")
        await until(lambda: source.resolve("greeter", run).source == "registry")


def _execute(session: Any, statement: str) -> None:
    session.execute(statement)


async def test_the_command_line_registers_files_and_moves_labels(tmp_path: Path) -> None:
    file = tmp_path / "greeter.prompt"
    text = "---\ntemperature: 0.1\ntags: [cheap]\n---\nBe kind.\n"
    file.write_text(text)
    data = ("--data", str(tmp_path / "data"))

    async def run(*arguments: str, status: int = 0) -> str:
        ended = await mesh("registry", *arguments, *data, MESH_TRUST="1")
        assert ended.status == status, ended
        return ended.out + ended.err

    assert "greeter v1" in await run("add", str(file), "--message", "The first.")
    file.write_text(text.replace("kind", "brief"))
    assert json.loads(await run("add", str(file), "--json"))["version"] == 2
    assert await run("label", "greeter", "production", "1") == "greeter: production v1\n"
    assert json.loads(await run("list", "--json"))[0]["labels"] == {"production": 1}
    assert "Be kind." in await run("show", "greeter", "--label", "production")
    shown = json.loads(await run("show", "greeter", "--version", "2", "--json"))
    assert (shown["template"], shown["parameters"]) == ("Be brief.", {"temperature": 0.1, "tags": ["cheap"]})
    assert [version["message"] for version in json.loads(await run("versions", "greeter", "--json"))] == [
        "",
        "The first.",
    ]
    assert "has no production" in await run("unlabel", "greeter", "production")
    assert "deleted" in await run("delete", "greeter")
    assert "no prompt is registered" in await run("list")
    file.write_text(text + "{{mood}}")
    assert f"{file}:6: " in await run("add", str(file), status=1)


async def test_a_version_is_tested_by_a_real_task(api: Api, model: ScriptedModel) -> None:
    await done(api, "POST", body=KIND)
    await done(api, "PUT", "/greeter", {"template": "Be brief."})
    tested = await done(api, "POST", "/greeter/test?version=1&model=fast", {"text": "Hello"})
    assert (tested["status"], tested["text"], tested["version"]) == ("succeeded", "answer 0", 1)
    assert (tested["agent_id"], tested["cost_usd"]) == ("greeter", "0")
    [asked] = model.requests
    assert ("Be kind." in asked.messages[0].content, asked.model) == (True, "fast")
    view = await api.client.task(tested["task_id"])
    assert (view.payload, str(view.outcome.prompt).split()[1]) == ({"text": "Hello"}, "registry:v1")
    await done(api, "POST", "/greeter/test", {"text": "Hello"})
    assert model.requests[-1].messages[0].content == "Be brief."
    assert await greeted(api, model) == ("Greet as the file says.", ANY)  # nothing else has changed
    asked_first = await done(api, "POST", "/greeter/test?agent_id=waiter&version=1&wait=0", {"text": "Hello"})
    assert (asked_first["status"], asked_first["agent_id"], asked_first["cost_usd"]) == (
        "running",
        "waiter",
        None,
    )
    for path, status in (
        ("/greeter/test?version=9", 404),
        ("/greeter/test?agent_id=none", 404),
        ("/none/test", 404),
    ):
        assert (await call(api, "POST", path, {"text": "Hello"}))[0] == status
    operator = await holder(api, "default", Role.OPERATOR)
    assert (await call(api, "POST", "/greeter/test", {"text": "Hello"}, headers=operator))[0] == 403


HOSTILE = "{{agent_name}} {{place}} {% raw %} ${x} \\1"
"""Text that a second look at a value would change."""


async def test_inputs_are_filled_from_the_payload_as_plain_text(api: Api, model: ScriptedModel) -> None:
    template = "You are {{agent_name}} at {{place}}. {{instruction}} {{facts}}"
    made = await done(api, "POST", body={"name": "greeter", "template": template})
    names = {"variables": ["agent_name", "place"], "inputs": ["instruction", "facts"]}
    assert made["parameters"] == names
    await done(api, "PUT", "/greeter/labels/production", {"version": 1})
    payload = {"instruction": HOSTILE, "facts": {"n": [1]}, "place": "elsewhere", "agent_name": "root"}
    outcome = await api.client.ask("greeter", payload=payload)
    assert outcome.success, outcome
    expected = f'You are greeter at the harbour. {HOSTILE} {{"n": [1]}}'
    assert model.requests[-1].messages[0].content == expected
    tested = await done(api, "POST", "/greeter/test", payload)
    assert (tested["success"], tested["agent_id"]) == (True, "greeter")
    assert model.requests[-1].messages[0].content == expected
    asked = len(model.requests)
    lacking = await api.client.ask("greeter", "Hello")
    assert lacking.error is not None and not lacking.success and len(model.requests) == asked
    assert "registry:v1:9: prompt greeter needs a value for instruction, facts" in lacking.error.message
    assert "give it as the field instruction of the payload; there are " in lacking.error.message
    status, problem, _ = await call(api, "POST", "/greeter/test", {"instruction": "Greet."})
    assert (status, problem["field"]) == (422, "facts") and "place, agent_name, task" in problem["remedy"]


async def test_a_prompt_of_no_agent_runs_on_a_bare_model(api: Api, model: ScriptedModel) -> None:
    template = "You are a helpful assistant. {{instruction}}"
    prompt = {"name": "bare", "template": template, "parameters": {"temperature": 0.7, "tags": ["kind"]}}
    await done(api, "POST", body=prompt)
    tested = await done(api, "POST", "/bare/test?model=fast", {"instruction": HOSTILE, "text": "Hello"})
    assert (tested["status"], tested["text"], tested["cost_usd"]) == ("succeeded", "answer 0", "0")
    [asked] = model.requests
    assert [message.content for message in asked.messages] == [
        f"You are a helpful assistant. {HOSTILE}",
        "Hello",
    ]
    assert (asked.model, asked.temperature, asked.tags) == ("fast", 0.7, ("kind",))
    assert str(asked.context.prompt).endswith(" registry:v1")
    for query, body, field in (
        ("", {"text": "Hello"}, "instruction"),
        ("?budget_usd=1", {"instruction": "x"}, "budget_usd"),
        ("?wait=0", {"instruction": "x"}, "wait"),
    ):
        status, problem, _ = await call(api, "POST", f"/bare/test{query}", body)
        assert (status, problem["field"]) == (422, field), problem
    assert (await call(api, "POST", "/bare/test?agent_id=greeter", {"instruction": "x"}))[0] == 404
    operator = await holder(api, "default", Role.OPERATOR)
    assert (await call(api, "POST", "/bare/test", {"instruction": "x"}, headers=operator))[0] == 403
    assert len(model.requests) == 1


async def test_a_registered_template_has_roles_and_literal_braces(api: Api, model: ScriptedModel) -> None:
    template = 'Keep \\{{marks}}.\n{{role "user"}}\nHi\n{{role "assistant"}}\nHo\n'
    template += '{{role "user"}}\n{{name}}: {{task}}'
    parameters = {"params": {"stop": ["no", "1e3", "0100", "1:30"]}}
    prompt = {"name": "bare", "template": template, "parameters": parameters}
    created = await done(api, "POST", body=prompt)
    names = {"variables": ["task"], "inputs": ["name"]}
    assert (created["template"], created["parameters"]) == (template, {**parameters, **names})
    await done(api, "POST", "/bare/test", {"name": "Ada", "text": "Hello", "mood": "gay"})
    [asked] = model.requests
    assert [(message.role, message.content) for message in asked.messages] == [
        ("system", "Keep {{marks}}."),
        ("user", "Hi"),
        ("assistant", "Ho"),
        ("user", "Ada: Hello\n\nmood:\ngay"),
    ]
    assert asked.params == parameters["params"]


async def test_a_caller_of_all_tenants_names_one_in_either_header(api: Api) -> None:
    every = await holder(api, "*", Role.ADMIN)
    for headers in (ADMIN, every):
        name = f"of-{len(headers['Authorization'])}"
        await done(
            api, "POST", body={"name": name, "template": "One."}, headers=headers | {"X-Tenant-Id": "acme"}
        )
        both = headers | {"X-Tenant-Id": "acme", "Mesh-Tenant": "acme"}
        assert name in [item["name"] for item in (await done(api, "GET", headers=both))["items"]]
        two = headers | {"X-Tenant-Id": "acme", "Mesh-Tenant": "other"}
        status, problem, _ = await call(api, "GET", headers=two)
        assert (status, problem["field"]) == (422, "X-Tenant-Id"), problem
        status, problem, _ = await call(api, "GET", headers=headers | {"X-Tenant-Id": "../x"})
        assert (status, problem["field"]) == (422, "X-Tenant-Id"), problem
    assert (await done(api, "GET"))["items"] == []
    other = await holder(api, "other", Role.ADMIN)
    status, problem, _ = await call(api, "GET", headers=other | {"X-Tenant-Id": "acme"})
    assert (status, problem["field"]) == (403, "X-Tenant-Id"), problem
