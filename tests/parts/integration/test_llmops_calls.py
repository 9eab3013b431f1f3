"""The calls of an LLMOps service, from a prompt to the answer which version is better, as one walk."""

import asyncio
import json
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from meshwright import Agent, Capability, Run
from meshwright.core.access import Role
from meshwright.engine.events.filter import EventFilter
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.models.port import ModelReply, ModelRequest
from meshwright.testing import ScriptedModel
from tests.support.http_mesh import Api, http_mesh
from tests.support.tenants import holder

PROMPT = {
    "name": "greeter",
    "template": "You are {{agent_name}}. Greet at length.",
    "parameters": {"temperature": 0.3},
}
SHORTER = {"template": "You are {{agent_name}}. Greet in three words.", "message": "Shorter."}
PRICE = Decimal("0.001")
TASKS = 24


class Greeter(Agent):
    """Greets as its prompt says."""

    agent_id = "greeter"
    capabilities = (Capability("greeting"),)
    remembers = False
    prompt_text = "Greet as the file says."

    async def run(self, run: Run) -> str:
        return await run.ask(run.task.text)


def greets_and_judges(request: ModelRequest) -> ModelReply:
    """A model whose judge gives 8 for a reason, and whose other answers say how they were asked."""
    is_short = "three words" in request.messages[0].content
    said = "Hello, dear Ada!" if is_short else "What a great pleasure it is to greet you, dear Ada, in 2026!"
    if request.user == "judge":
        said = json.dumps({"reason": "It greets by name.", "score": 8})
    return ModelReply(content=said, model=f"model-{request.model}", cost_usd=PRICE)


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    model = ScriptedModel(*[greets_and_judges] * 100)
    async with http_mesh(tmp_path, Greeter, script=model, evaluations={"judge": "smart"}) as api:
        yield api


class Tenant:
    """A tenant that calls the mesh."""

    def __init__(self, api: Api, headers: dict[str, str]) -> None:
        self._api = api
        self._headers = headers | {"X-Tenant-Id": "acme"}

    async def __call__(self, method: str, path: str, body: Any = None) -> Any:
        """The answer to a call that succeeds; None where it has no body."""
        async with self._api.session.request(method, path, json=body, headers=self._headers) as answer:
            text = await answer.text()
            assert answer.status < 300, (method, path, text)
            return json.loads(text) if text else None

    async def greeted(self, thread: str) -> str:
        """The answer to a task of a user's thread."""
        task = {"agent_id": "greeter", "thread_id": thread, "payload": {"text": "Greet Ada."}}
        path = f"/tasks/{(await self('POST', '/tasks', task))['task_id']}"
        await self._api.mesh.get(Tasks).outcome(path.removeprefix("/tasks/"), "acme")
        return (await self("GET", path))["outcome"]["result"]["text"]


async def test_from_a_prompt_to_the_better_version(api: Api) -> None:
    sent = Tenant(api, await holder(api, "acme", Role.ADMIN))

    # A prompt, its versions, and a real task that tests one
    made = await sent("POST", "/v1/prompts", PROMPT)
    assert (made["prompt_id"], made["version"]) == ("greeter", 1)
    assert (await sent("PUT", "/v1/prompts/greeter", SHORTER))["version"] == 2
    first = await sent("GET", "/v1/prompts/greeter?version=1")
    assert (first["template"], first["parameters"]["temperature"]) == (PROMPT["template"], 0.3)
    assert (await sent("GET", "/v1/prompts/greeter"))["version"] == 2
    tested = await sent("POST", "/v1/prompts/greeter/test", {"text": "Greet Ada."})
    assert (tested["success"], tested["text"]) == (True, "Hello, dear Ada!")
    assert Decimal(tested["cost_usd"]) == PRICE

    # An experiment: the variant of a requester never changes, and each task counts for its own
    variants = [{"name": "long", "version": 1}, {"name": "short", "version": 2}]
    wanted = {"name": "Shorter?", "agent_id": "greeter", "variants": variants}
    experiment = await sent("POST", "/v1/experiments", wanted)
    path = f"/v1/experiments/{experiment['experiment_id']}"
    assert (await sent("GET", path))["status"] == "created"
    assert (await sent("POST", f"{path}/run", {}))["experiment"]["runs_over"] == "tasks"
    answers = [await sent.greeted(f"user-{number % (TASKS // 2)}") for number in range(TASKS)]
    assert answers[: TASKS // 2] == answers[TASKS // 2 :]
    results = await sent("GET", f"{path}/results")
    ended = {variant["variant"]: variant["ended"] for variant in results["variants"]}
    assert ended == {
        "long": sum("pleasure" in said for said in answers),
        "short": answers.count("Hello, dear Ada!"),
    }
    assert min(ended.values()) > 0 and results["variants"][1]["missing"] > 0
    assert {figure["metric"] for figure in results["figures"]} >= {"success", "cost_usd", "tokens"}
    assert (await sent("POST", f"{path}/stop"))["status"] == "stopped"

    # An evaluation of answers: a judge's score and reason for each criterion, and metrics without a model
    items = [
        {"input": "Greet Ada.", "output": said, "context": "Ada is here in 2026."} for said in {*answers}
    ]
    plan = {
        "criteria": ["warmth", "brevity"],
        "metrics": ["length", "readability", "sentiment", "factuality"],
    }
    evaluation = await sent("POST", "/v1/evaluations", {"data": {"items": items}, **plan})
    path = f"/v1/evaluations/{evaluation['evaluation_id']}"
    async with asyncio.timeout(60):
        await anext(api.mesh.log.tail(EventFilter(event_type="evaluation.ended", after_seq=0)))
    shown = await sent("GET", path)
    means = {figure["name"]: figure["mean"] for figure in shown["figures"]}
    assert (shown["status"], means["warmth"], means["brevity"]) == ("done", 8, 8)
    assert (means["length"], 0 < means["factuality"] < 1, means["sentiment"] > 0) == (8, True, True)
    assert means["readability"] is not None and Decimal(shown["cost_usd"]) == 4 * PRICE
    for item in (await sent("GET", f"{path}/items"))["items"]:
        assert item["texts"]["reasons"] == {name: ["It greets by name."] for name in plan["criteria"]}

    # All of it was charged to the tenant, and is found by version
    costs = await sent("GET", "/costs?by=prompt")
    assert sum(Decimal(item["cost_usd"]) for item in costs["items"]) == PRICE * (1 + TASKS + 4)

    await sent("DELETE", "/v1/prompts/greeter")
    assert (await sent("GET", "/v1/prompts"))["items"] == []
    assert (await sent("GET", "/v1/prompts/greeter?version=2"))["template"] == SHORTER["template"]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/prompts", None),
        ("POST", "/v1/prompts", PROMPT),
        ("GET", "/v1/experiments", None),
        ("POST", "/v1/experiments", {}),
        ("GET", "/v1/evaluations", None),
        ("POST", "/v1/evaluations", {"data": {"items": [{"output": "x"}]}, "metrics": ["length"]}),
    ],
)
async def test_the_header_of_another_tenant_is_refused(api: Api, method: str, path: str, body: Any) -> None:
    own = await holder(api, "acme", Role.ADMIN)
    headers = {**own, "X-Tenant-Id": "other"}
    status, problem = await api.call(method, path, json=body, headers=headers)
    assert (status, problem["field"]) == (403, "X-Tenant-Id"), problem
    assert (await api.call("GET", path, headers={**own, "X-Tenant-Id": "acme"}))[0] == 200


async def test_one_response_is_judged_by_an_object_of_criteria(api: Api) -> None:
    sent = Tenant(api, await holder(api, "acme", Role.ADMIN))
    criteria = {"warmth": "It is friendly.", "brevity": {"words": 5}}
    for field in ("expected_criteria", "criteria"):
        made = await sent("POST", "/v1/evaluations", {"response": "Hello, dear Ada!", field: criteria})
        wanted = EventFilter(event_type="evaluation.ended", aggregate_id=None, after_seq=0)
        async with asyncio.timeout(60):
            ended = api.mesh.log.tail(wanted)
            while (await anext(ended)).payload["evaluation_id"] != made["evaluation_id"]:
                pass
        path = f"/v1/evaluations/{made['evaluation_id']}"
        shown = await sent("GET", path)
        assert {figure["name"]: figure["mean"] for figure in shown["figures"]} == {"warmth": 8, "brevity": 8}
        [item] = (await sent("GET", f"{path}/items"))["items"]
        assert item["texts"]["reasons"] == {name: ["It greets by name."] for name in criteria}
    headers = await holder(api, "acme", Role.ADMIN)
    for body, words in (
        ({"criteria": criteria}, "give either data or a response"),
        ({"response": "x", "criteria": {"two words": "x"}}, "criteria.0.name"),
        ({"response": "", "data": {"items": [{"output": "x"}]}, "metrics": ["length"]}, "either data or"),
    ):
        status, problem = await api.call("POST", "/v1/evaluations", json=body, headers=headers)
        assert (status, words in str(problem)) == (422, True), problem
