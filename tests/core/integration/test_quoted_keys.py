"""A provider that quotes the key that it refuses: nothing of that key is stored or shown."""

import json
import sqlite3
from pathlib import Path

import pytest

from meshwright import Agent, Capability, ToolFailed, tool
from meshwright.agents.run.run import Run
from meshwright.engine.events.filter import EventFilter
from meshwright.engine.sql.sqlite import FILE_NAME
from meshwright.mesh.app import build_mesh
from meshwright.mesh.orchestration.tasks import Tasks
from tests.support.fake_provider import FakeProvider, Fault
from tests.support.running_mesh import mesh, mesh_up
from tests.support.settings import load_settings

KEY = "sk-proj-abcdefghijklmnop1234567890"
OTHERS = {
    KEY: "Incorrect API key provided: {}",  # of a proxy behind the provider
    "sk-proj-abcd***********************wxyz": "Incorrect API key provided: {}. You can find yours there.",
    "****7f3b": "Authentication Fails, Your api key: {} is invalid",
    "wrong-key-of-a-proxy": "Invalid token passed. Received API Key = {}, Key Hash (Token) =e3b0",
}


@pytest.mark.parametrize("key", OTHERS)
async def test_a_key_that_a_provider_quotes_is_shown_nowhere(
    tmp_path: Path, fake: FakeProvider, key: str
) -> None:
    body = {"error": {"message": OTHERS[key].format(key), "code": "invalid_api_key"}}
    fake.faults.extend([Fault(status=401, body=body)] * 20)
    data = tmp_path / "data"
    own = {"OPENAI_API_KEY": "sk-own-key-of-this-mesh-1", "OPENAI_BASE_URL": f"{fake.url}/v1"}
    async with mesh_up(data, **own) as running:
        task_id = await running.submit("Hello")
        await running.until(lambda event: event["event_type"] == "task.waiting")
        shown = {
            path: json.dumps((await running.get(path)).body)
            for path in ("/inbox", "/status", "/models", "/events?limit=1000", f"/tasks/{task_id}")
        }
        for command in (("status",), ("inbox",), ("task", task_id), ("models", "test"), ("events",)):
            done = await mesh(*command, "--url", running.url)
            shown[" ".join(command)] = done.out + done.err
    shown["log"] = await running.errors.whole()
    stored = sqlite3.connect(data / FILE_NAME)
    tables = [row[0] for row in stored.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    shown |= {table: str(stored.execute(f'SELECT * FROM "{table}"').fetchall()) for table in tables}
    stored.close()
    assert {place for place, text in shown.items() if key in text} == set()
    assert {place for place, text in shown.items() if "[redacted]" in text} >= {"/inbox", "inbox", "events"}


class Quoter(Agent):
    """Asks a service that quotes the key that it got."""

    agent_id = "quoter"
    capabilities = (Capability("quoting"),)

    @tool(idempotent=True)
    async def look_up(self) -> str:
        """Look something up."""
        raise ToolFailed(f"the service refused {KEY}")

    async def run(self, run: Run) -> str:
        try:
            return await run.call("look_up")
        except ToolFailed as error:
            raise RuntimeError(f"{KEY} was refused after {error}") from error


async def test_a_key_in_the_error_of_a_tool_or_an_agent_is_shown_nowhere(tmp_path: Path) -> None:
    settings = load_settings(tmp_path, store="memory")
    async with build_mesh(settings, project=tmp_path, agents=[Quoter]) as mesh:
        outcome = await mesh.get(Tasks).ask("quoter", "Hello")
        assert outcome.error is not None and "[redacted] was refused after" in outcome.error.message
        await mesh.tracing.flush()
        events = await mesh.log.query(EventFilter(limit=1000))
    texts = [event.model_dump_json() for event in events]
    assert [text for text in texts if KEY in text] == []
    assert [text for text in texts if "service refused [redacted]" in text]
