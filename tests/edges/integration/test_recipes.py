"""The recipes of docs/recipes.md do what the page says, copied as they are."""

import asyncio
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from jinja2 import Environment
from jinja2.nativetypes import NativeEnvironment

from meshwright import Agent, Capability, tool
from meshwright.agents.loader import load_agents
from meshwright.testing import mesh_for
from tests.support.chat_mesh import mention, slack
from tests.support.fake_chats import SLACK_SECRET, FakeChats
from tests.support.fake_forge import FakeForge
from tests.support.http_mesh import http_mesh
from tests.support.mqtt_broker import Mosquitto, ask, client
from tests.support.running_mesh import ROOT, run
from tests.support.webhook_mesh import SECRET, deliver, issue

TOKEN = "the-token-of-this-test-is-long"
PAGE = (ROOT / "docs/recipes.md").read_text()
ALERT = {
    "version": "4",
    "groupKey": "{}:{alertname='Slow'}",
    "status": "firing",
    "receiver": "mesh",
    "groupLabels": {},
    "commonLabels": {},
    "commonAnnotations": {},
    "externalURL": "",
    "alerts": [
        {
            "status": "firing",
            "labels": {"alertname": "Slow", "service": "checkout", "severity": "page"},
            "annotations": {"summary": "p99 is 9 s"},
            "startsAt": "2026-11-28T02:14:00Z",
            "endsAt": "0001-01-01T00:00:00Z",
            "generatorURL": "",
            "fingerprint": "0123456789abcdef",
        }
    ],
}
CLERK = """from meshwright import Agent, Capability, Run


class Clerk(Agent):
    \"\"\"Tells where a parcel is.\"\"\"

    agent_id = "clerk"
    capabilities = (Capability("parcels"),)

    async def run(self, run: Run) -> str:
        return "It is on its way."
"""


class Opener(Agent):
    """Opens a door by a tool that needs an approval."""

    agent_id = "opener"
    capabilities = (Capability("opening"),)
    prompt_text = "Open doors."

    @tool(needs_approval=True)
    async def open(self, door: str) -> str:
        """Open a door."""
        return f"door {door} is open"

    async def run(self, run: Any) -> str:
        return str(await run.call("open", door="a"))


def files(path: str) -> list[str]:
    """The contents that the page gives a file."""
    return re.findall(rf"`{re.escape(path)}`:\n\n```\w+\n(.*?)^```$", PAGE, flags=re.M | re.S)


def settings(table: str) -> dict[str, Any]:
    """The settings of the recipe that has a table."""
    [recipe] = [text for text in files("mesh.toml") if f"[{table}" in text]
    return tomllib.loads(recipe)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors/clerk.py").write_text(CLERK)
    [medic] = files("actors/medic.py")
    (tmp_path / "actors/medic.py").write_text(medic)
    (tmp_path / "mesh.toml").write_text("\n".join(files("mesh.toml")))
    return tmp_path


def test_the_settings_of_the_page_are_checked_and_an_alert_is_a_task_of_the_agent(project: Path) -> None:
    named = set(re.findall(r'"env:(\w+)"', PAGE))
    checked = run("check", cwd=project, **dict.fromkeys(named, TOKEN))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert re.search(
        r"^ok +models +http http://127.0.0.1:8001 \(every call is of qwen3\)", checked.stdout, re.M
    )
    (project / "alert.json").write_text(json.dumps(ALERT))
    tried = run("webhooks", "test", "alerts", "alert.json", cwd=project, **dict.fromkeys(named, TOKEN))
    assert tried.returncode == 0, tried.stdout + tried.stderr
    assert "medic" in tried.stdout and "Slow on checkout: p99 is 9 s" in tried.stdout


def test_an_evaluation_that_got_worse_fails(project: Path) -> None:
    (project / "mesh.toml").unlink()
    [command] = re.findall(r"^mesh (evaluate .*)$", PAGE, flags=re.M)
    for expected, status in (("on its way", 0), ("delivered", 1)):
        item = {"input": "Where is my parcel?", "expected": expected}
        (project / "questions.jsonl").write_text(json.dumps(item) + "\n")
        done = run(*command.split(), cwd=project)
        assert done.returncode == status, done.stdout + done.stderr


@pytest.mark.needs("mosquitto", "mosquitto_rr")
async def test_a_question_is_answered_by_the_templates_for_home_assistant(
    tmp_path: Path, broker: Mosquitto
) -> None:
    [text] = files("automations.yaml")
    [automation] = yaml.safe_load(text)
    topic = automation["triggers"][0]["topic"]
    notify, _, publish = automation["actions"]
    async with http_mesh(tmp_path, Opener, mqtt_url=broker.url) as api, client(broker, topic) as looker:
        receipt = await ask(
            broker, "mesh/default/submit", {"agent_id": "opener", "payload": {"text": "Open."}}
        )
        inbox = (await looker.documents(topic, lambda found: bool(found and found[-1]["items"])))[-1]
        templates = NativeEnvironment()
        known: dict[str, Any] = {"trigger": {"payload_json": inbox}}
        assert all(templates.from_string(one).render(known) for one in automation["conditions"])
        known["item"] = templates.from_string(automation["variables"]["item"]).render(known)
        assert "open" in templates.from_string(notify["data"]["message"]).render(known)
        known["wait"] = {"trigger": {"event": {"data": {"action": "MESH_APPROVE"}}}}
        words = Environment(autoescape=False)
        topic = words.from_string(publish["data"]["topic"]).render(known)
        answer = json.loads(words.from_string(publish["data"]["payload"]).render(known))
        assert (await ask(broker, topic, answer))["task_id"] == receipt["task_id"]
        assert (await api.client.outcome(receipt["task_id"])).text == "door a is open"


async def test_the_report_of_the_night_is_scheduled_and_made(tmp_path: Path) -> None:
    [digest] = [each for each in load_agents(ROOT / "actors", ROOT) if each.agent_id == "digest-agent"]
    async with http_mesh(tmp_path, digest, schedules=settings("[schedules.jobs")["schedules"]) as api:
        _, began = await api.call("POST", "/schedules/night/run")
        outcome = await api.client.outcome(began["task_id"])
        shown = await api.get("/schedules/night")
    assert outcome.success and "Digest from " in (outcome.text or "")
    assert shown["history"][0]["task_id"] == began["task_id"]


async def test_a_question_in_slack_is_decided_from_there(tmp_path: Path) -> None:
    given = settings("channels.ops")["channels"]["ops"] | {"agent": "opener", "secret": SLACK_SECRET}
    person = given["answer_by"][0]
    async with FakeChats() as chats:
        given |= {"token": "xoxb-test", "url": f"{chats.url}/slack"}
        async with http_mesh(tmp_path, Opener, channels={"chat": given}) as api:
            await slack(api, mention())
            [question] = await chats.until(1)
            await slack(api, mention("1.6", text="<@UBOT> approve", user="U-else", thread_ts="1.5"))
            await slack(api, mention("1.7", text="<@UBOT> approve", user=person, thread_ts="1.5"))
            done = await chats.until_posted(text="door a is open")
            [decided] = (await api.get("/events", event_type="wait.ended"))["items"]
    assert "open" in question["text"] and done["channel"] == question["channel"] == "C1"
    assert decided["payload"]["answered_by"].endswith(person)


async def test_an_issue_gets_its_answer_as_a_comment(tmp_path: Path) -> None:
    given = settings("webhooks.sources.github")["webhooks"]
    async with FakeForge() as forge:
        given["sources"]["github"] |= {"secret": SECRET, "token": "t", "api_url": forge.url}
        given["rules"][0]["agent"] = "echo"
        async with http_mesh(tmp_path, webhooks=given) as api:
            opened = issue(issue={"number": 7, "title": "It is broken", "body": "Since noon."})
            assert (await deliver(api, opened))[0] == 202
            comment = await forge.posted()
            assert (await deliver(api, opened))[0] in (200, 202)
            tasks = (await api.get("/tasks"))["items"]
    assert comment.path == "/repos/acme/api/issues/7/comments" and "It is broken" in comment.body["body"]
    assert len(tasks) == 1


@pytest.mark.parametrize(
    ("ships", "text"), [(True, "charged and shipped"), (False, "charged, and not shipped")]
)
async def test_a_workflow_as_temporal_has_it(tmp_path: Path, ships: bool, text: str) -> None:
    (tmp_path / "actors").mkdir()
    [order] = files("actors/order.py")
    (tmp_path / "actors/order.py").write_text(order)
    [agent] = load_agents(tmp_path / "actors", tmp_path)
    async with mesh_for(agent) as mesh:
        asking = asyncio.create_task(mesh.ask("order", "a lamp"))
        [question] = await mesh.questions()
        await mesh.answer(question, {"approve": ships})
        outcome = await asking
    assert outcome.text == text
