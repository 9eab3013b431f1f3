"""Agents whose programs are outside, over HTTP."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from meshwright.component import KEY_ROLES
from meshwright.money.keys import Keys
from tests.support.http_mesh import Api, http_mesh

TABLE = {"buyer": {"lease_seconds": 1}}


def bearer(key: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {key.key}"}


class Program:
    """A program of an external agent, as any language would write it."""

    def __init__(self, api: Api, agent: str = "buyer", **headers: str) -> None:
        self.api, self.agent, self.headers = api, agent, headers
        self.run: Any = None

    async def post(self, path: str, **body: Any) -> tuple[int, Any]:
        return await self.api.call("POST", f"/external/{path}", json=body, headers=self.headers)

    async def claim(self, wait: float = 30) -> Any:
        status, claim = await self.post(f"{self.agent}/claim", worker="test", wait=wait)
        assert status == 200, claim
        self.run = claim["run"]
        return self.run

    async def send(self, verb: str, **body: Any) -> tuple[int, Any]:
        return await self.post(f"runs/{self.run['task']['task_id']}/{verb}", token=self.run["token"], **body)

    async def ok(self, verb: str, **body: Any) -> Any:
        status, state = await self.send(verb, **body)
        assert status == 200, state
        return state

    async def beat(self) -> str:
        """Send heartbeats until the run has ended; returns how."""
        while (state := (await self.ok("heartbeat"))["state"]) == "working":
            await asyncio.sleep(0.2)
        return str(state)


async def test_program_does_steps_and_completes(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, external=TABLE) as api:
        task_id = await api.submit(agent_id="buyer", text="tea", payload={"size": 2})
        program = Program(api)
        run = await program.claim()
        assert run["task"]["task_id"] == task_id
        assert (run["task"]["text"], run["task"]["payload"]["size"]) == ("tea", 2)
        begun = await program.ok("steps", key="pay", request={"usd": 3})
        assert (begun["state"], bool(begun["step_id"])) == ("yours", True)
        done = await program.ok("results", key="pay", request={"usd": 3}, value={"receipt": 7})
        assert (done["state"], done["value"]) == ("done", {"receipt": 7})
        again = await program.ok("steps", key="pay", request={"usd": 3})
        assert (again["state"], again["value"]) == ("done", {"receipt": 7})
        assert (await program.ok("complete", text="bought"))["state"] == "complete"
        assert (await api.client.outcome(task_id)).result == {"text": "bought"}


async def test_next_program_gets_the_steps_of_one_that_died(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, external=TABLE) as api:
        task_id = await api.submit(agent_id="buyer", text="tea")
        dead, program = Program(api), Program(api)
        await dead.claim()
        await dead.ok("steps", key="look")
        await dead.ok("results", key="look", value=1)
        step_id = (await dead.ok("steps", key="pay"))["step_id"]
        await program.claim()
        status, problem = await dead.send("results", key="pay", value=1)
        assert (status, problem["field"]) == (409, "token")
        assert (await program.ok("steps", key="look"))["value"] == 1
        assert (await program.ok("steps", key="pay"))["step_id"] == step_id  # its key at services
        await program.ok("results", key="pay", value=2)
        await program.ok("complete", data={"paid": 2})
        assert (await api.client.outcome(task_id)).result == {"paid": 2}


async def test_question_waits_without_a_program(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, external=TABLE) as api:
        task_id = await api.submit(agent_id="buyer", text="tea")
        program = Program(api)
        await program.claim()
        asked = {"key": "size", "kind": "ask", "request": {"question": "Which size?"}}
        assert (await program.ok("steps", **asked))["state"] == "waiting"
        [question] = await api.client.inbox()
        claiming = asyncio.create_task(program.claim())
        await api.client.answer(question, "L")
        assert (await claiming)["task"]["task_id"] == task_id
        assert (await program.ok("steps", **asked))["value"] == "L"
        await program.ok("complete", text="L")
        assert (await api.client.outcome(task_id)).success


async def test_step_in_doubt_is_asked_of_a_person(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, external=TABLE) as api:
        task_id = await api.submit(agent_id="buyer", text="tea")
        dead, program = Program(api), Program(api)
        await dead.claim()
        await dead.ok("steps", key="pay", idempotent=False)
        await program.claim()
        assert (await program.ok("steps", key="pay", idempotent=False))["state"] == "waiting"
        [question] = await api.client.inbox()
        assert question.question.startswith("The mesh or the program stopped while pay was running.")
        claiming = asyncio.create_task(program.claim())
        await api.client.answer(question, {"approve": False, "result": {"receipt": 8}})
        await claiming
        assert (await program.ok("steps", key="pay", idempotent=False))["value"] == {"receipt": 8}
        await program.ok("complete", text="done")
        assert (await api.client.outcome(task_id)).success


async def test_task_waits_while_nobody_works_for_its_agent(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, external=TABLE) as api:
        task_id = await api.submit(agent_id="buyer", text="tea")
        async for event in api.client.follow(task_id):
            if event.fields.get("kind") == "program":
                break
        program = Program(api)
        assert (await program.claim())["task"]["task_id"] == task_id
        await program.ok("complete", text="late is fine")
        assert (await api.client.outcome(task_id)).success


async def test_cancel_reaches_the_program(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, external=TABLE) as api:
        task_id = await api.submit(agent_id="buyer", text="tea")
        program = Program(api)
        await program.claim()
        assert (await program.ok("heartbeat", progress="half"))["state"] == "working"
        await api.client.cancel(task_id)
        assert (await api.client.outcome(task_id)).status == "cancelled"
        assert (await program.ok("heartbeat"))["state"] == "cancelled"
        assert (await program.ok("steps", key="pay"))["state"] == "cancelled"


async def test_failures_have_their_words(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, external=TABLE) as api:
        program = Program(api)
        for declined, kind in ((True, "ToolFailed"), (False, "ExternalTaskFailed")):
            task_id = await api.submit(agent_id="buyer", text="tea")
            await program.claim()
            await program.ok("complete", error={"message": "no tea today"}, declined=declined)
            outcome = await api.client.outcome(task_id)
            assert outcome.error is not None
            assert (outcome.error.type, outcome.error.message) == (kind, "no tea today")


async def test_deadline_reaches_the_program(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, external=TABLE) as api:
        task_id = await api.submit(agent_id="buyer", text="tea", deadline=3)
        program = Program(api)
        await program.claim()
        await program.ok("steps", key="long")
        beating = asyncio.create_task(program.beat())
        assert (await api.client.outcome(task_id)).status == "timed_out"
        assert await beating == "late"


async def test_routes_take_the_role_worker_of_the_tenant(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, external=TABLE) as api:
        keys = api.mesh.get(Keys)
        least, other, own = [
            Program(api, **bearer(await keys.create("program", tenant_id=tenant, roles=roles)))
            for tenant, roles in (("acme", KEY_ROLES), ("other", ["worker"]), ("acme", ["worker"]))
        ]
        assert (await least.post("buyer/claim", wait=0))[0] == 403
        submitted = {"agent_id": "buyer", "payload": {"text": "tea"}}
        status, task = await api.call("POST", "/tasks", json=submitted, headers=least.headers)
        assert status == 202
        run = await own.claim()
        assert run["task"]["task_id"] == task["task_id"]
        other.run = run
        assert await other.claim(wait=0) is None
        other.run = run
        status, refused = await other.send("heartbeat")
        other.run = {**run, "task": {**run["task"], "task_id": "01M8M19JY49PMVVC1BTFF60F3B"}}
        _, unknown = await other.send("heartbeat")
        assert status == 404
        assert refused["detail"].replace(task["task_id"], "X") == unknown["detail"].replace(
            "01M8M19JY49PMVVC1BTFF60F3B", "X"
        )
        assert (await own.ok("complete", text="done"))["state"] == "complete"


async def test_wrong_names_and_requests_say_what_is_wrong(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, external=TABLE) as api:
        program = Program(api)
        status, problem = await program.post("nobody/claim", wait=0)
        assert (status, "there are buyer" in problem["detail"] + problem.get("remedy", "")) == (404, True)
        await api.submit(agent_id="buyer", text="tea")
        await program.claim()
        status, problem = await program.send("steps", key="q", kind="ask", request={"question": ""})
        assert (status, problem["field"]) == (422, "request.question")
        status, problem = await program.send("results", key="unknown", value=1)
        assert (status, problem["field"]) == (409, "key")
        await program.ok("complete", text="done")
