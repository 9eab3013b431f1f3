"""Which model an agent calls, changed over HTTP while it works: one process."""

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from benchmarks.machine import rss_mb
from benchmarks.sides import run_side
from meshwright.cli.serving import collecting
from meshwright.core.access import KEY_ROLES
from meshwright.engine.sql.encryption import new_key
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.models.port import Model
from meshwright.money.keys import Keys
from meshwright.parts.agent_config import records
from meshwright.parts.agent_config.client import AgentConfigClient
from meshwright.parts.agent_config.operations import AgentConfigs
from tests.support.configured_agents import ADMIN, AS_ADMIN, KEY, called, change, config, mesh_of, next_event
from tests.support.fake_provider import FakeProvider, Fault
from tests.support.http_mesh import Api
from tests.support.running_mesh import mesh
from tests.support.tenants import holder


async def test_the_next_call_goes_to_what_was_configured_meanwhile(
    tmp_path: Path, fake: FakeProvider
) -> None:
    async with mesh_of(tmp_path) as api:
        made = await change(api, "POST", "", config(fake.at("east"), llm_temperature=0.2, llm_max_tokens=77))
        assert made[0] == 201, made
        task_id = await api.submit(agent_id="asker", text="Begin.")
        [first, *_] = await called(fake, "east", 3)
        assert (first.body["model"], first.body["temperature"], first.body["max_tokens"]) == (
            "small",
            0.2,
            77,
        )
        assert first.headers["Authorization"] == f"Bearer {KEY}"
        moved = {"llm_endpoint": fake.at("west"), "llm_model": "large"}
        assert (await change(api, "PUT", "/asker", moved))[0] == 200  # of the same server: the key goes there
        before = len(fake.calls)
        await called(fake, "west", 3)
        assert {call.of for call in fake.calls[before + 1 :]} == {"west"}  # one may have been under way
        fake.replies.append({"content": "stop"})
        assert (await api.mesh.get(Tasks).outcome(task_id)).text == "stop"
        await change(api, "DELETE", "/asker")
        calls = len(fake.calls)
        offline = await api.client.ask("echo", "What is 2 + 2?")
        assert offline.status == "succeeded" and len(fake.calls) == calls


async def test_a_changed_key_lets_tasks_go_on_that_wait_for_it(tmp_path: Path, fake: FakeProvider) -> None:
    patient = {"park": True, "park_seconds": 600, "max_park_seconds": 600}
    async with mesh_of(tmp_path, models=patient) as api:
        await change(api, "POST", "", config(fake.at("east")))
        fake.faults_of["east"].append(Fault(status=401))
        task_id = await api.submit(agent_id="asker", text="Begin.")
        while not (await api.get("/status"))["waits"]:
            await asyncio.sleep(0.02)
        [item] = (await api.get("/inbox"))["items"]
        assert item["subject"]["deployment"].startswith("agents/default/asker@")
        fake.replies.append({"content": "stop"})
        assert (await change(api, "PUT", "/asker", {"llm_api_key": f"{KEY}-new"}))[0] == 200
        assert (await api.mesh.get(Tasks).outcome(task_id)).text == "stop"
        assert (await api.get("/inbox"))["items"] == []
        assert len(fake.calls) == 2


async def test_a_change_that_no_event_told_of_counts_after_the_ttl(
    tmp_path: Path, fake: FakeProvider
) -> None:
    async with mesh_of(tmp_path, agent_config={"ttl_seconds": 1}) as api:
        await change(api, "POST", "", config(fake.at("east")))
        task_id = await api.submit(agent_id="asker", text="Begin.")
        await called(fake, "east")
        row = await api.mesh.database.read(records.find, "default", "asker")
        moved = row.model_copy(update={"llm_endpoint": fake.at("west"), "updated_at": row.updated_at + 1})
        await api.mesh.database.write(records.replace, row, moved)
        await called(fake, "west")
        fake.replies.append({"content": "stop"})
        await api.mesh.get(Tasks).outcome(task_id)


async def test_without_an_active_configuration_the_built_in_model_answers(tmp_path: Path) -> None:
    async with mesh_of(tmp_path) as api:
        seeded = await api.get("/api/agents/default")
        assert (seeded["agent_id"], seeded["llm_model"], seeded["is_active"]) == (
            "default-agent",
            "mistral:7b-instruct",
            False,
        )
        assert api.mesh.get(Model).name.startswith("offline")


async def test_the_first_default_comes_back_where_the_default_is_deleted(
    tmp_path: Path, fake: FakeProvider
) -> None:
    def same(seeded: Any) -> Any:
        return {name: value for name, value in seeded.items() if name != "created_at"}

    async with mesh_of(tmp_path) as api:
        first = same(await api.get("/api/agents/default"))
        wanted = {"llm_provider": "custom_openai", "llm_endpoint": fake.at("d"), "llm_model": "any"}
        for path in ("/default", "/default-agent"):
            assert (await change(api, "PUT", "/default", wanted))[1]["is_active"]
            assert (await change(api, "DELETE", path))[0] == 200
            assert same(await api.get("/api/agents/default")) == first
        assert api.mesh.get(AgentConfigs).last_read("default", "asker") is None

        own = config(fake.at("east"), is_default=True)
        assert (await change(api, "POST", "", own))[0] == 201
        assert (await api.get("/api/agents/default"))["agent_id"] == "asker"
        assert (await change(api, "DELETE", "/default-agent"))[0] == 200
        assert [one["agent_id"] for one in (await api.get("/api/agents"))["items"]] == ["asker"]
        assert (await change(api, "DELETE", "/asker"))[0] == 200
        assert same(await api.get("/api/agents/default")) == first
    async with mesh_of(tmp_path) as api:
        assert same(await api.get("/api/agents/default")) == first


async def test_an_active_former_default_is_no_default_again_by_itself(tmp_path: Path) -> None:
    async with mesh_of(tmp_path) as api:
        assert (await change(api, "PUT", "/default", {"llm_model": "mistral:other"}))[1]["is_active"]
        assert (await change(api, "POST", "", config("http://127.0.0.1:9", is_default=True)))[0] == 201
        assert (await change(api, "DELETE", "/asker"))[0] == 200
        status, problem = await change(api, "GET", "/default")
        assert (status, "no default agent" in problem["detail"]) == (404, True)
        assert (await change(api, "PUT", "/default-agent", {"is_default": True}))[0] == 200
        assert (await api.get("/api/agents/default"))["llm_model"] == "mistral:other"


async def test_an_answer_is_put_back_as_it_is(tmp_path: Path, fake: FakeProvider) -> None:
    async with mesh_of(tmp_path) as api:
        await change(api, "POST", "", config(fake.at("east"), llm_max_tokens=99))
        for path in ("/asker", "/default", "/default-agent"):
            before = await api.get(f"/api/agents{path}")
            status, after = await change(api, "PUT", path, before)
            assert status == 200, after
            del before["updated_at"], before["problem"], after["updated_at"], after["problem"]
            assert after == before
        assert (await change(api, "GET", "/asker/llm"))[1]["llm_api_key"] == KEY
        status, problem = await change(api, "PUT", "/asker", {"agent_id": "other", "llm_model": "x"})
        assert (status, problem["field"]) == (422, "agent_id")
        status, problem = await change(api, "PUT", "/asker", {"llm_modle": "x"})
        assert (status, problem["field"]) == (422, "llm_modle")


async def test_the_default_decides_for_agents_without_their_own(tmp_path: Path, fake: FakeProvider) -> None:
    async with mesh_of(tmp_path) as api:
        wanted = {"llm_provider": "custom_openai", "llm_endpoint": fake.at("default"), "llm_model": "any"}
        status, changed = await change(api, "PUT", "/default", wanted)
        assert (status, changed["is_active"], changed["agent_id"]) == (200, True, "default-agent")
        task_id = await api.submit(agent_id="asker", text="Begin.")
        await called(fake, "default")
        own = config(fake.at("own"))
        assert (await change(api, "POST", "", own))[0] == 201
        await called(fake, "own")
        assert (await change(api, "PUT", "/asker", {"is_active": False}))[0] == 200
        await called(fake, "default", len(fake.calls_of("default")) + 2)
        fake.replies.append({"content": "stop"})
        await api.mesh.get(Tasks).outcome(task_id)
        assert all(
            "Authorization" not in c.headers or KEY not in str(c.headers) for c in fake.calls_of("default")
        )


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"llm_provider": "opnai"}, "llm_provider", "there is no provider 'opnai': known are ollama, openai"),
        ({"llm_endpoint": "ftp://models"}, "llm_endpoint", "http:// or https://"),
        ({"llm_endpoint": "http://user:pass@models"}, "llm_endpoint", "must not hold credentials"),
        ({"llm_endpoint": "http://169.254.169.254/latest"}, "llm_endpoint", "link-local"),
        ({"llm_endpoint": "http://2852039166/latest"}, "llm_endpoint", "link-local"),
        ({"llm_endpoint": "http://[::ffff:169.254.169.254]/"}, "llm_endpoint", "link-local"),
        ({"llm_api_key": "os.environ/MESH_ADMIN_TOKEN"}, "llm_api_key", "environment"),
        ({"llm_model": "os.environ/HOME"}, "llm_model", "environment"),
        ({"llm_model": "gpt 5"}, "llm_model", "may use printable ASCII without spaces"),
        ({"llm_timeout": 0}, "llm_timeout", "greater than 0"),
        ({"llm_temperature": 2.1}, "llm_temperature", "2"),
        ({"llm_max_tokens": 0}, "llm_max_tokens", "1"),
        ({"agent_id": "default"}, "agent_id", "tenant's default agent"),
        ({"llm_api_key_encrypted": "x"}, "llm_api_key_encrypted", "llm_api_key_encrypted"),
    ],
)
async def test_a_wrong_field_is_named(
    tmp_path: Path, fields: dict[str, Any], field: str, message: str
) -> None:
    async with mesh_of(tmp_path) as api:
        status, problem = await change(api, "POST", "", config("http://127.0.0.1:9", **fields))
        assert (status, problem["field"]) == (422, field), problem
        assert message in problem["detail"]
        assert KEY not in json.dumps(problem)


async def test_a_stored_key_does_not_follow_to_another_address(tmp_path: Path, fake: FakeProvider) -> None:
    async with mesh_of(tmp_path) as api:
        await change(api, "POST", "", config(fake.url))
        status, problem = await change(api, "PUT", "/asker", {"llm_endpoint": "http://127.0.0.1:9"})
        assert (status, problem["field"]) == (422, "llm_api_key")
        moved = {"llm_endpoint": "http://127.0.0.1:9", "llm_api_key": None}
        assert (await change(api, "PUT", "/asker", moved))[1]["has_api_key"] is False


async def test_a_key_leaves_by_llm_alone(
    tmp_path: Path, fake: FakeProvider, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    data = tmp_path / "data"
    async with mesh_of(tmp_path, data_dir=data) as api:
        shown = [await change(api, "POST", "", config(fake.at("east")))]
        shown.append(await change(api, "PUT", "/asker", {"name": "Asker", "llm_api_key": KEY}))
        task_id = await api.submit(agent_id="asker", text="Begin.")
        await called(fake, "east")
        fake.replies.append({"content": "stop"})
        await api.mesh.get(Tasks).outcome(task_id)
        shown += [await change(api, "GET", ""), await change(api, "GET", "/asker")]
        status, llm = await change(api, "GET", "/asker/llm")
        assert (status, llm["llm_api_key"], llm["source"]) == (200, KEY, "agent")
        refused = await api.call("GET", "/api/agents/asker/llm")
        assert refused[0] == 401, "an anonymous caller of the same machine got a key"
        shown.append(refused)
        proxied = await change(api, "GET", "/asker/llm", **{"X-Forwarded-For": "203.0.113.7"})
        assert proxied[0] == 403 and "TLS" in proxied[1]["detail"]
        shown += [proxied, await change(api, "DELETE", "/asker")]
        await next_event(api, "agent_config.deleted")
        events = await api.client.events(limit=1000)
        made = {"agent_config.created", "agent_config.changed", "agent_config.deleted"}
        assert made <= {event.event_type for event in events}
        audited = {event.payload.get("action") for event in events if event.event_type == "audit.recorded"}
        assert made | {"agent_config.key_read"} <= audited
        texts = [json.dumps(document) for _, document in shown]
        texts += [event.model_dump_json() for event in events]
    files = [path.read_bytes() for path in data.rglob("*") if path.is_file()]
    assert files and not [file for file in files if KEY.encode() in file]
    assert KEY not in "".join([*texts, caplog.text])


async def test_tenants_have_their_own_configurations(tmp_path: Path, fake: FakeProvider) -> None:
    async with mesh_of(tmp_path) as api:
        key = (await api.mesh.get(Keys).create("asker", tenant_id="acme")).key
        as_acme = {"Authorization": f"Bearer {key}"}
        assert (await change(api, "POST", "", config(fake.at("default"))))[0] == 201
        for method, path in [("POST", ""), ("PUT", "/asker"), ("DELETE", "/asker"), ("GET", "/asker/llm")]:
            body = config(fake.url) if method == "POST" else {"llm_model": "other"}
            refused = await api.call(method, f"/api/agents{path}", json=body, headers=as_acme)
            assert refused[0] == 403, refused
        assert await api.call("GET", "/api/agents", headers=as_acme) == (200, {"items": []})
        for path in ("asker", "default", "default-agent"):
            assert (await api.call("GET", f"/api/agents/{path}", headers=as_acme))[0] == 404
        body = {"agent_id": "asker", "payload": {"text": "Begin."}}
        status, receipt = await api.call("POST", "/tasks", json=body, headers=as_acme)
        assert status == 202
        assert (await api.mesh.get(Tasks).outcome(receipt["task_id"], "acme")).status == "succeeded"
        assert not fake.calls


async def test_a_key_that_cannot_be_decrypted_leaves_out_its_agent_alone(
    tmp_path: Path, fake: FakeProvider, caplog: pytest.LogCaptureFixture
) -> None:
    data = tmp_path / "data"
    async with mesh_of(tmp_path, data_dir=data) as api:
        await change(api, "POST", "", config(fake.url))
    (data / "secret.key").write_text(new_key())
    async with mesh_of(tmp_path, data_dir=data) as api:
        assert "'asker' cannot be decrypted; Give all processes" in caplog.text
        await change(api, "POST", "", config(fake.url, agent_id="other"))
        status, problem = await change(api, "GET", "/asker/llm")
        assert (status, "cannot be decrypted" in problem["detail"]) == (502, True), problem
        async with AgentConfigClient(api.url, ADMIN, environment={}) as models:
            assert (await models.llm("other")).llm_api_key == KEY
            assert (await models.llm("asker")).source == "built-in"
        unchanged = await change(api, "PUT", "/default", {})
        assert (unchanged[0], unchanged[1]["is_active"]) == (200, False)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"llm_api_key": None, "llm_endpoint": None, "llm_provider": "openai"}, "needs OPENAI_API_KEY"),
        ({"llm_api_key": None, "llm_provider": "openai"}, "needs OPENAI_API_KEY"),
        ({}, None),
    ],
)
async def test_a_change_says_what_keeps_the_model_from_being_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], problem: str | None
) -> None:
    if fields.get("llm_endpoint", "") is None:
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    else:  # which goes to no address that a tenant has chosen
        monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-mesh")
    async with mesh_of(tmp_path) as api:
        status, made = await change(api, "POST", "", config("http://127.0.0.1:9", **fields))
        assert status == 201
        assert made["problem"] == problem or problem in made["problem"]


async def test_the_command_line_configures_agents_with_no_key_in_its_arguments(tmp_path: Path) -> None:
    data = ("--data", str(tmp_path / "data"))
    agent = ("config", "agents", "set", "simple-agent", *data)
    wrong = await mesh(*agent, "--provider", "opnai", "--model", "gpt-5.4")
    assert (wrong.status, "there is no provider 'opnai'" in wrong.err) == (1, True), wrong
    made = await mesh(
        *agent,
        "--provider",
        "openai",
        "--model",
        "gpt-5.4",
        "--key-env",
        "THE_KEY",
        THE_KEY=KEY,
        MESH_TRUST="1",
    )
    assert (made.status, made.out) == (0, "simple-agent calls openai/gpt-5.4\n"), made
    listed = await mesh("config", "agents", "list", "--json", *data)
    assert [(item["agent_id"], item["has_api_key"]) for item in json.loads(listed.out)] == [
        ("default-agent", False),
        ("simple-agent", True),
    ]
    assert KEY not in made.out + made.err + listed.out + listed.err
    unset = await mesh(*agent, "--key-env", "NO_SUCH")
    assert (unset.status, "no key in the variable NO_SUCH" in unset.err) == (1, True), unset


async def test_a_tenants_own_endpoint_spends_no_budget_of_the_mesh(
    tmp_path: Path, fake: FakeProvider
) -> None:
    budgets = [
        {"name": "all", "limit_usd": "5"},
        {"name": "askers", "scope": "agent", "of": "asker", "limit_usd": "5"},
        {"name": "rival-day", "scope": "tenant", "of": "rival", "limit_usd": "0.5"},
    ]
    price = {"input": 3, "output": 15}
    async with mesh_of(tmp_path, budgets=budgets, default_price=price, models={"park": False}) as api:
        rival = await holder(api, "rival", "admin", *KEY_ROLES)
        status, made = await api.call("POST", "/api/agents", json=config(fake.at("own")), headers=rival)
        assert status == 201, made
        fake.usage = {"prompt_tokens": 4_000, "completion_tokens": 16_000}  # all that one may claim
        ended = [await _asked(api, fake, rival) for _ in range(4)]
        spent = {
            item["budget"]: item for item in (await api.call("GET", "/budgets", headers=AS_ADMIN))[1]["items"]
        }
        assert {spent[name]["spent_usd"] for name in ("all", "askers")} == {"0"}
        views = (await api.call("GET", "/budgets", headers=rival))[1]["items"]
        [own] = [view for view in views if view["budget"] == "rival-day"]
        costs = (await api.call("GET", "/costs", headers=rival))[1]
        assert own["spent_usd"] == costs["total"]["cost_usd"] == "0.504"
        assert [task["status"] for task in ended] == ["succeeded", "succeeded", "failed", "failed"]
        fake.usage = {"prompt_tokens": 11, "completion_tokens": 7}
        assert (await change(api, "POST", "", config(fake.at("mesh"))))[0] == 201
        assert (await _asked(api, fake, AS_ADMIN))["status"] == "succeeded"
        views = (await api.call("GET", "/budgets", headers=AS_ADMIN))[1]["items"]
        assert {v["budget"]: v["spent_usd"] for v in views if v["budget"] != "rival-day"} == {
            "all": "0.000138",
            "askers": "0.000138",
        }


async def _asked(api: Api, fake: FakeProvider, headers: dict[str, str]) -> Any:
    """A task of one call, once it has ended."""
    fake.replies.append({"content": "stop"})
    task = {"agent_id": "asker", "payload": {"text": "Begin."}}
    status, receipt = await api.call("POST", "/tasks", json=task, headers=headers)
    assert status == 202, receipt
    path = f"/tasks/{receipt['task_id']}"
    while not (document := (await api.call("GET", path, headers=headers))[1]).get("outcome"):
        await asyncio.sleep(0.02)
    fake.replies.clear()
    return document


async def resident_after_calls(folder: str) -> dict[str, float]:
    """The memory of a process after 50 calls of a configured agent, and after 250 more, in MB."""
    grown: dict[str, float] = {}
    async with FakeProvider() as fake, mesh_of(Path(folder)) as api, collecting(lambda: True):
        assert (await change(api, "POST", "", config(fake.at("own"))))[0] == 201
        for rounds in (5, 25):
            for _ in range(rounds):
                fake.replies.extend({"content": "stop"} for _ in range(10))
                tasks = [api.submit(agent_id="asker", text="Begin.") for _ in range(10)]
                outcomes = [api.mesh.get(Tasks).outcome(task_id) for task_id in await asyncio.gather(*tasks)]
                await asyncio.gather(*outcomes)
            grown[f"after {rounds}"] = rss_mb()
    return grown


async def test_calls_of_a_configured_agent_leave_no_memory_behind(tmp_path: Path) -> None:
    before, after = (await run_side(f"{__name__}:resident_after_calls", folder=str(tmp_path))).values()
    assert after - before < 20, "MB for 250 calls"
