"""A tenant with something of everything that a tenant may have, all of it marked: no other may see a mark."""

from dataclasses import dataclass
from typing import Any

from meshwright import Agent, Capability, Run
from meshwright.core.access import KEY_ROLES, Role
from meshwright.money.keys import Keys
from tests.support.http_mesh import Api

SECRET = "acme-secret"
"""In all that the owner has: no answer to another tenant may hold it."""
THREAD, SCHEDULE, CONFIG, PROMPT, EVALUATION = (
    f"{thing}-of-the-owner" for thing in ("thread", "schedule", "agent", "prompt", "evaluation")
)


class Asker(Agent):
    """Asks a person, and says what it was told."""

    agent_id = "asker"
    capabilities = (Capability("asking"),)
    remembers = False

    async def run(self, run: Run) -> str:
        return str(await run.ask_person(f"{SECRET}? {run.task.text}"))


@dataclass(frozen=True)
class Owned:
    tenant_id: str
    key: str
    key_id: str
    finished: str
    waiting: str
    question: str
    experiment: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    @property
    def ids(self) -> tuple[str, ...]:
        """All that another could guess."""
        return self.finished, self.waiting, self.key_id, self.experiment, SCHEDULE, CONFIG, PROMPT, EVALUATION

    @property
    def marks(self) -> tuple[str, ...]:
        return SECRET, THREAD, f"{self.tenant_id}-agent", *self.ids


async def holder(api: Api, tenant_id: str, *roles: str) -> dict[str, str]:
    """The headers of a new key of a tenant."""
    made = await api.mesh.get(Keys).create(
        f"{tenant_id.strip('*')}-agent", tenant_id=tenant_id, roles=roles or KEY_ROLES
    )
    return {"Authorization": f"Bearer {made.key}"}


async def fill(api: Api, tenant_id: str) -> Owned:
    """Give a tenant a task that has ended, one that waits, an event, a cost, an allowance, a schedule, a
    configuration, a prompt, an evaluation, an experiment and a key. The mesh has the agent `Asker`."""
    made = await api.mesh.get(Keys).create(f"{tenant_id}-agent", tenant_id=tenant_id, roles=[Role.ADMIN])
    headers = {"Authorization": f"Bearer {made.key}"}
    finished, waiting = await finished_task(api, headers, "echo", SECRET), await asked_task(api, headers)
    task = {"agent_id": "echo", "payload": {"text": SECRET}}
    variants = [{"name": "now"}, {"name": SECRET, "temperature": 0}]
    for method, path, expected, body in (
        ("POST", "/events", 202, {"topic": "app.x", "event_type": "x.paid", "payload": {"what": SECRET}}),
        ("POST", "/complete", 200, {"model": "fast", "messages": [{"role": "user", "content": SECRET}]}),
        ("PUT", "/allowances", 200, {"whose": f"tag:{SECRET}", "allowance": "5/day"}),
        ("POST", "/schedules", 201, {"id": SCHEDULE, "cron": "0 7 29 2 *", "task": task}),
        (
            "POST",
            "/api/agents",
            201,
            {"agent_id": CONFIG, "name": SECRET, "llm_provider": "openai", "llm_model": "m"},
        ),
        ("POST", "/v1/prompts", 201, {"name": PROMPT, "template": SECRET, "message": SECRET}),
        ("PUT", f"/v1/prompts/{PROMPT}/labels/production", 200, {"version": 1}),
        (
            "POST",
            "/v1/evaluations",
            201,
            {"evaluation_id": EVALUATION, "data": {"items": [{"output": SECRET}]}, "metrics": ["length"]},
        ),
        ("POST", f"/v1/tasks/{finished}/scores", 201, {"name": "thumbs", "value": 1, "comment": SECRET}),
        ("POST", "/v1/experiments", 201, {"name": SECRET, "agent_id": "asker", "variants": variants}),
    ):
        status, document = await api.call(method, path, json=body, headers=headers)
        assert status == expected, document
    experiment = document["experiment_id"]
    _, view = await api.call("GET", f"/tasks/{waiting}", headers=headers)
    question = view["waits"][0]["wait_id"]
    return Owned(tenant_id, made.key, made.key_id, finished, waiting, question, experiment)


async def check_untouched(api: Api, owned: Owned) -> None:
    """Assert that nobody has changed what the tenant has."""
    [key] = [key for key in await api.mesh.get(Keys).list() if key.key_id == owned.key_id]
    assert key.revoked_at is None and key.replaced_by is None
    views: list[Any] = []
    for path in (
        f"/tasks/{owned.waiting}",
        f"/tasks/{owned.finished}",
        f"/schedules/{SCHEDULE}",
        f"/api/agents/{CONFIG}",
        f"/v1/prompts/{PROMPT}",
        f"/v1/evaluations/{EVALUATION}",
        f"/v1/experiments/{owned.experiment}",
    ):
        status, view = await api.call("GET", path, headers=owned.headers)
        assert status == 200, (path, view)
        views.append(view)
    assert views[0]["status"] == "waiting" and SECRET in str(views[1]["payload"])
    assert not views[2].get("paused") and views[3]["name"] == SECRET
    assert (views[4]["template"], views[4]["labels"]) == (SECRET, {"production": 1})
    assert views[5]["evaluation_id"] == EVALUATION
    assert (views[6]["name"], views[6]["status"]) == (SECRET, "created")


async def finished_task(api: Api, headers: dict[str, str], agent_id: str, text: str) -> str:
    """Submit a task and wait for its end; returns its id."""
    task = {"agent_id": agent_id, "payload": {"text": text}, "thread_id": THREAD}
    status, receipt = await api.call("POST", "/tasks", json=task, headers=headers)
    assert status == 202, receipt
    await _reaches(api, headers, receipt["task_id"], "task.succeeded")
    return receipt["task_id"]


async def asked_task(api: Api, headers: dict[str, str]) -> str:
    """A task that waits for a person."""
    _, receipt = await api.call("POST", "/tasks", json={"agent_id": "asker"}, headers=headers)
    await _reaches(api, headers, receipt["task_id"], "task.waiting")
    return receipt["task_id"]


async def _reaches(api: Api, headers: dict[str, str], task_id: str, event_type: str) -> None:
    path = f"/tasks/{task_id}/events"
    async with api.session.get(path, headers={**headers, "Accept": "text/event-stream"}) as response:
        async for line in response.content:
            if line.startswith(f"event: {event_type}".encode()):
                return
    raise AssertionError(f"{task_id} has no {event_type}")
