"""Webhooks over real sockets: deliveries are proved, and become tasks once."""

import json
from pathlib import Path
from typing import Any

import pytest

from meshwright import Agent, Capability, Run
from meshwright.core.errors import ConfigError
from meshwright.mesh.app import build_mesh
from meshwright.mesh.orchestration.tasks import Tasks
from tests.support.http_mesh import http_mesh
from tests.support.running_mesh import mesh_up, run
from tests.support.settings import load_settings
from tests.support.webhook_mesh import RULE, SECRET, deliver, event, events, issue, receiving, webhooks


async def test_delivery_that_is_sent_again_is_the_same_task(tmp_path: Path) -> None:
    async with receiving(tmp_path) as api:
        first = await deliver(api, issue())
        [task_id] = first[1]["tasks"]
        outcome = await api.mesh.get(Tasks).outcome(task_id)
        assert first[0] == 202 and outcome.text == "you said: Fix #7: It is broken"
        assert await deliver(api, issue()) == first
        changed = issue(issue={"number": 7, "title": "Edited"})
        assert await deliver(api, changed) == first, "the id of the delivery decides"
        assert (await deliver(api, issue(), "d-2"))[1]["tasks"] != [task_id]
        task = await api.get(f"/tasks/{task_id}")
        accepted = await events(api, event_type="task.accepted")
        received = await events(api, event_type="webhook.received")
        board = await events(api, topic="board")
        [dispatched, *_] = await events(api, event_type="task.dispatched")
    assert dispatched["payload"]["task"]["budget_usd"] == "0.50"
    assert task["requested_by"] == "webhook:github"
    assert task["thread_id"].startswith("acme-api-7-")
    assert len(accepted) == 2
    assert (received[0]["payload"]["delivery"], received[0]["payload"]["tasks"]) == ("d-1", [task_id])
    assert [one["event_type"] for one in board] == ["board.issue_opened"] * 2
    known = {
        "source": "github",
        "repository": "acme/api",
        "number": 7,
        "title": "It is broken",
        "actor": "ada",
    }
    assert board[0]["payload"].items() >= known.items()


PLAIN = {"scheme": "hmac", "header": "X-Hub-Signature-256", "prefix": "sha256="}


@pytest.mark.parametrize(
    ("source", "expected"),
    [({}, True), ({"outside": False}, False), ({"kind": "generic", **PLAIN}, False)],
    ids=["github", "trusted", "generic"],
)
async def test_task_of_a_forge_counts_as_written_by_strangers(
    tmp_path: Path, source: dict[str, Any], expected: bool
) -> None:
    rule = RULE | {"match": {"action": "opened"}}
    async with receiving(tmp_path, rule, source=source) as api:
        [task_id] = (await deliver(api, issue()))[1]["tasks"]
        outcome = await api.mesh.get(Tasks).outcome(task_id)
    assert (outcome.success, outcome.outside) == (True, expected)


async def test_delivery_that_fits_no_rule_is_an_event_and_no_task(tmp_path: Path) -> None:
    async with receiving(tmp_path) as api:
        assert await deliver(api, {"zen": "Keep it simple."}, event="ping") == (200, {"tasks": []})
        received = (await event(api, "webhook.received"))["payload"]
        assert received["event"] == "ping"
        assert "matches event = 'issues', and it is 'ping'" in received["reason"]


async def test_each_rule_that_fits_makes_a_task_for_its_tenant(tmp_path: Path) -> None:
    rules = (RULE, RULE | {"name": "second", "agent": None, "capability": "echoing"})
    async with receiving(tmp_path, *rules, source={"tenant": "acme"}) as api:
        status, answer = await deliver(api, issue())
        ended = [await api.mesh.get(Tasks).outcome(task_id, "acme") for task_id in answer["tasks"]]
        received = await events(api, event_type="webhook.received", tenant_id="acme")
    assert status == 202 and len(ended) == 2 and all(outcome.success for outcome in ended)
    assert len(received) == 1


class Watcher(Agent):
    """Waits for a pull request."""

    agent_id = "watcher"
    capabilities = (Capability("watching"),)
    remembers = False

    async def run(self, run: Run) -> str:
        found = await run.wait_event(
            "board", {"event_type": "board.pull_request_merged", "payload.number": 7}
        )
        return f"{found['payload']['actor']} merged it"


async def test_run_goes_on_with_an_event_of_the_board(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, Watcher, webhooks=webhooks()) as api:
        task_id = await api.submit(agent_id="watcher")
        await event(api, "task.waiting")
        for number in (6, 7):
            merged = issue(action="closed", pull_request={"number": number, "merged": True})
            assert (await deliver(api, merged, f"d-{number}", "pull_request"))[0] == 200
        assert (await api.mesh.get(Tasks).outcome(task_id)).text == "ada merged it"


async def test_alert_that_still_fires_is_the_task_that_it_was(tmp_path: Path) -> None:
    def group(*names: str) -> dict[str, Any]:
        alerts = [
            {
                "status": "firing",
                "fingerprint": name,
                "startsAt": "2030-01-01T00:00:00Z",
                "labels": {"name": name},
            }
            for name in names
        ]
        return {"version": "4", "status": "firing", "receiver": str(len(names)), "alerts": alerts}

    rule = {
        "source": "alerts",
        "match": {"event": "firing"},
        "agent": "echo",
        "text": "{{alert.labels.name}}",
    }
    sources = {"alerts": {"kind": "alertmanager", "secret": SECRET}}
    headers = {"Authorization": f"Bearer {SECRET}"}
    async with http_mesh(tmp_path, webhooks={"sources": sources, "rules": [rule]}) as api:

        async def send(document: Any) -> list[str]:
            return (await api.call("POST", "/webhooks/alerts", json=document, headers=headers))[1]["tasks"]

        first, again = await send(group("disk")), await send(group("disk", "cpu"))
        resolved = group("disk")
        resolved["alerts"][0]["status"] = "resolved"
        assert await send(resolved) == []
        texts = [(await api.mesh.get(Tasks).outcome(task_id)).text for task_id in again]
        accepted = await events(api, event_type="task.accepted")
    assert again[:1] == first and texts == ["you said: disk", "you said: cpu"]
    assert len(accepted) == 2


async def test_rule_whose_agent_is_missing_fails_loudly_and_later_works(tmp_path: Path) -> None:
    async with receiving(tmp_path, RULE | {"agent": "ghost"}) as api:
        status, problem = await deliver(api, issue())
        failed = await event(api, "webhook.failed")
        assert not await events(api, event_type="webhook.received")
    assert (status, problem["code"]) == (404, "NotFound")
    assert failed["payload"]["delivery"] == "d-1" and "ghost" in failed["payload"]["reason"]


@pytest.mark.parametrize(
    ("document", "headers", "status", "code"),
    [
        (issue(), {"X_Hub_Signature_256": "sha256=00"}, 401, "Unauthenticated"),
        (issue(), {"X_Hub_Signature_256": ""}, 401, "Unauthenticated"),
        (b"{nope", {}, 400, "MalformedJson"),
        (b"[]", {}, 400, "MalformedJson"),
        (b"payload=%7B%7D", {"Content_Type": "application/x-www-form-urlencoded"}, 415, "UnsupportedType"),
        (b'{"a":' * 60 + b"1" + b"}" * 60, {}, 413, "TooLarge"),
        (b"[" * 90_000, {}, 413, "TooLarge"),
        (b'{"a":"' + b"x" * 5_000 + b'"}', {}, 413, "TooLarge"),
    ],
)
async def test_what_is_no_delivery_is_refused(
    tmp_path: Path, document: Any, headers: dict[str, str], status: int, code: str
) -> None:
    large = 200_000 if document == b"[" * 90_000 else 4_000
    async with receiving(tmp_path, max_body_bytes=large) as api:
        answered = await deliver(api, document, **headers)
        assert (answered[0], answered[1]["code"]) == (status, code)
        assert not await events(api, event_type="task.accepted")
        assert SECRET not in json.dumps(answered[1])


async def test_wrong_signature_and_unknown_source_are_audited_and_look_alike(tmp_path: Path) -> None:
    async with receiving(tmp_path) as api:
        for number in range(30):
            assert (await deliver(api, issue(), f"d-{number}", secret="guess"))[0] == 401
        unknown = await api.call("POST", "/webhooks/other", json={})
        assert (unknown[0], unknown[1]["code"]) == (401, "Unauthenticated")
        assert (await api.call("POST", "/webhooks/other", json={}, headers={"Authorization": "Bearer x"}))[
            0
        ] == 401
        recorded = await events(api, event_type="audit.recorded")
    refused = [one["payload"] for one in recorded if one["payload"]["action"] == "credentials.refused"]
    assert 1 <= len(refused) <= 10, "a flood is not recorded one by one"
    assert refused[0]["caller"]["edge"] == "webhook:github"


async def test_password_that_is_no_ascii_is_a_wrong_one(tmp_path: Path) -> None:
    source = {"kind": "generic", "scheme": "basic", "secret": "ada:secret"}
    async with http_mesh(tmp_path, webhooks={"sources": {"hook": source}}) as api:
        headers = {"Content-Type": "application/json", "Authorization": "Basic \u00e9\u00e9=="}
        status, _ = await api.call("POST", "/webhooks/hook", data=b"{}", headers=headers)
    assert status == 401


async def test_deliveries_need_no_key_where_all_else_does(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, webhooks=webhooks(), require_keys=True) as api:
        assert (await deliver(api, issue()))[0] == 202
        assert (await api.call("GET", "/tasks"))[0] == 401


def test_source_without_a_secret_is_refused_off_loopback(tmp_path: Path) -> None:
    sources = {"sources": {"open": {"insecure": True}}}
    settings = load_settings(tmp_path, listen_host="0.0.0.0", webhooks=sources, model="offline")
    with pytest.raises(ConfigError, match="'open'"):
        build_mesh(settings, project=tmp_path, agents=[])
    local = build_mesh(
        load_settings(tmp_path, webhooks=sources, model="offline"), project=tmp_path, agents=[]
    )
    assert any("open has no secret" in warning for warning in local.warnings)


async def test_previous_secret_is_as_good_until_it_is_taken_out(tmp_path: Path) -> None:
    async with receiving(tmp_path, source={"secret": "new", "previous_secret": "old"}) as api:
        taken = [
            (await deliver(api, issue(), secret, secret=secret))[0] for secret in ("new", "old", "older")
        ]
    async with receiving(tmp_path, source={"secret": "new"}) as api:
        taken.append((await deliver(api, issue(), secret="old"))[0])
    assert taken == [202, 202, 401, 401]


TRIAGE = """
from typing import Literal

from pydantic import BaseModel

from meshwright import Agent, Capability, Run


class Incident(BaseModel):
    service: str
    errors: int
    level: Literal["low", "high"] = "low"


class Triage(Agent):
    agent_id = "triage"
    capabilities = (Capability("triaging", input_schema=Incident),)

    async def run(self, run: Run) -> dict[str, object]:
        return {"seen": run.task.payload}
"""
TRIAGE_RULE = """
[webhooks.sources.alarms]
insecure = true
[[webhooks.rules]]
source = "alarms"
agent = "triage"
"""


@pytest.fixture
def alarms(tmp_path: Path) -> Path:
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors" / "triage.py").write_text(TRIAGE)
    (tmp_path / "alarm.json").write_text('{"name": "checkout", "count": 412}')
    return tmp_path


async def test_a_rule_gives_an_agent_the_payload_that_it_declares(alarms: Path) -> None:
    fields = '{service = "{{name}}", errors = "{{count}}", level = "high"}'
    (alarms / "mesh.toml").write_text(f"{TRIAGE_RULE}payload = {fields}")
    assert "ok    webhooks" in run("check", cwd=alarms).stdout
    tried = run("webhooks", "test", "alarms", "alarm.json", cwd=alarms)
    assert tried.returncode == 0 and "1 of 1 rules match" in tried.stdout, tried.stderr
    assert "  errors  412\n" in tried.stdout
    async with mesh_up(alarms / ".mesh", cwd=alarms) as running:
        delivered = await running.post("/webhooks/alarms", {"name": "checkout", "count": 412})
        assert delivered.status == 202
        outcome = await running.outcome(delivered.body["tasks"][0])
    assert outcome["result"] == {"seen": {"service": "checkout", "errors": 412, "level": "high"}}


@pytest.mark.parametrize(
    ("fields", "checked", "tried"),
    [
        ('text = "{{name}}"', "payload.service is required", "payload.service is required"),
        ('payload = {service = "{{name}}", errors = "no"}', "payload.errors", "payload.errors"),
        ('payload = {service = "{{name}}", errors = "{{name}}"}', "", "payload.errors"),
        ('payload = {service = "{{name}}", errors = "{{gone}}"}', "", "payload.errors is required"),
    ],
)
async def test_a_payload_that_its_agent_does_not_take_is_said_before(
    alarms: Path, fields: str, checked: str, tried: str
) -> None:
    (alarms / "mesh.toml").write_text(TRIAGE_RULE + fields)
    lines = [line for line in run("check", cwd=alarms).stdout.splitlines() if " webhooks " in line]
    assert len(lines) == 1 and lines[0].startswith("FAIL" if checked else "ok") and checked in lines[0]
    done = run("webhooks", "test", "alarms", "alarm.json", cwd=alarms)
    assert done.returncode == 1 and f"triaging of triage does not take it: {tried}" in done.stdout
    async with mesh_up(alarms / ".mesh", cwd=alarms) as running:
        assert (await running.post("/webhooks/alarms", {"name": "checkout", "count": 412})).status == 422
