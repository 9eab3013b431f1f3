"""What starts no task: comments that a mesh has written, repeats by another hook, what a rule excludes."""

import json
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, ClassVar

import pytest

from meshwright import Agent, Capability, tool
from meshwright.component import Table
from meshwright.core.comments import MARKER
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.testing import ScriptedModel, tool_call
from meshwright.tools import mark_comment
from meshwright.toolsets.rest import RestPart, RestService, RestTools
from tests.support.fake_forge import FakeForge
from tests.support.http_mesh import Api, http_mesh
from tests.support.webhook_mesh import RULE, deliver, events, issue, receiving, webhooks

COMMENTED: dict[str, Any] = {**RULE, "name": "answer", "match": {"event": "issue_comment"}}
OURS = mark_comment("Fixed by 3f2a1b.\n\n1. One\n2. Two", "task 01ABC")
QUOTED = "\n".join(f"> {line}" for line in OURS.splitlines())


def comment(body: str, action: str = "created", **more: Any) -> dict[str, Any]:
    author = {"login": "ada", "type": "User"}
    return issue(action=action, comment={"body": body, "user": author}, **more)


async def hear(api: Api, document: Any, delivery: str) -> dict[str, Any]:
    """Deliver a comment; returns the answer."""
    status, answer = await deliver(api, document, delivery, "issue_comment")
    assert status == (202 if answer["tasks"] else 200)
    return answer


@pytest.mark.parametrize(
    "body",
    [
        f"{QUOTED}\n\nNo, do the other one.",
        f"No, do the other one.\n\n{QUOTED}",
        f"{OURS}\n\nNo, do the other one.",
        f"No, do the other one.\n\n{OURS}",
        f"{OURS.replace('Two', 'Two, and three')}",
        f"What does `{MARKER}task 01 -->` mean?",
    ],
    ids=["below", "above", "below a copy", "above a copy", "within a copy", "the line itself"],
)
async def test_a_person_who_quotes_a_comment_of_the_mesh_is_heard(tmp_path: Path, body: str) -> None:
    async with receiving(tmp_path, COMMENTED) as api:
        assert (await hear(api, comment(body.replace("\n", "\r\n")), "d-1"))["tasks"]
        edited = comment(f"{body} Please.", "edited", changes={"body": {"from": body}})
        assert (await hear(api, edited, "d-2"))["tasks"]


@pytest.mark.parametrize(
    "document",
    [
        comment(OURS),
        comment(OURS.replace("\n", "\r\n") + "\r\n"),
        comment(f"Done.\n\n{MARKER}task 01 -->"),
        comment("Another text", "edited", changes={"body": {"from": OURS}}),
        comment(OURS.replace("Two", "Three"), "edited"),
    ],
    ids=["new", "as GitHub keeps it", "without a digest", "edited", "edited from nothing"],
)
async def test_a_comment_of_a_mesh_makes_no_task_and_says_why(tmp_path: Path, document: Any) -> None:
    async with receiving(tmp_path, COMMENTED) as api:
        answer = await hear(api, document, "d-1")
        [received] = await events(api, event_type="webhook.received")
        missed = await hear(api, comment("x", "created") | {"comment": None}, "d-2")
    assert answer["tasks"] == [] and "a mesh wrote this comment" in answer["dropped"][0]
    assert received["payload"]["reason"] == answer["dropped"][0]
    assert missed["tasks"]


class ForgeSettings(Table):
    server: RestService | None = None


class ForgePart(RestPart):
    @tool(idempotent=True)
    async def say(self, text: str) -> Any:
        """Comment on the issue."""
        path = ("repos", "acme", "api", "issues", "7", "comments")
        return (await self.server.call("POST", *path, body={"body": text})).data


class ForgeTools(RestTools):
    name = "forge"
    config_type = ForgeSettings
    parts: ClassVar = {"server": ForgePart}


class Talker(Agent):
    """Comments by a tool of a service, and by one of its own."""

    agent_id = "talker"
    capabilities = (Capability("talking"),)
    prompt_text = "You comment."
    remembers = False
    toolsets = (ForgeTools, "mcp.hub")
    said: ClassVar[list[str]] = []

    @tool(idempotent=True)
    async def tell(self, text: str) -> str:
        """Comment by a client of its own."""
        self.said.append(mark_comment(text))
        return "told"


HUB = Path(__file__).parents[2] / "support" / "mcp_server.py"


@pytest.mark.parametrize("name", ["say", "tell", "hub_add_issue_comment"])
async def test_a_comment_of_a_tool_starts_no_task(tmp_path: Path, name: str) -> None:
    arguments = {"text": "I look into it."}
    if name.startswith("hub"):
        arguments = {"owner": "acme", "repo": "api", "issue_number": "7", "body": "I look into it."}
    Talker.said.clear()
    served = {
        "name": "add_issue_comment",
        "description": "Comments.",
        "inputSchema": {"type": "object", "properties": {"body": {"type": "string"}}},
        "does": "said",
    }
    (tmp_path / "hub.json").write_text(json.dumps([served]))
    hub = {"command": sys.executable, "args": ["-S", "-E", str(HUB), str(tmp_path / "hub.json")]}
    script = ScriptedModel(tool_call(name, **arguments), "Done.")
    async with AsyncExitStack() as stack:
        forge = await stack.enter_async_context(FakeForge())
        api = await stack.enter_async_context(
            http_mesh(
                tmp_path,
                Talker,
                script=script,
                webhooks=webhooks(
                    {**COMMENTED, "agent": "talker", "budget_usd": None}, source={"outside": False}
                ),
                mcp={"hub": {**hub, "tools": ["*"], "approve": "never"}},
                tools={"forge": {"server": {"url": forge.url}}},
            )
        )
        [task_id] = (await hear(api, comment("Look, please."), "d-1"))["tasks"]
        outcome = await api.mesh.get(Tasks).outcome(task_id)
        assert outcome.success, outcome.error
        if name == "say":
            said = (await forge.posted()).body["body"]
        elif name == "tell":
            [said] = Talker.said
        else:
            [result] = [message.text for message in script.requests[-1].messages if message.role == "tool"]
            said = json.JSONDecoder().raw_decode(result, result.index("{"))[0]["body"]
        assert said.startswith("I look into it.\n\n<!--")
        assert (await hear(api, comment(said), "d-2"))["tasks"] == []


async def test_the_same_comment_by_two_hooks_is_one_task(tmp_path: Path) -> None:
    told = comment("Look, please.")
    told["comment"] |= {"id": 71, "updated_at": "2030-01-01T00:00:00Z"}
    async with receiving(tmp_path, COMMENTED) as api:
        by_repository = await hear(api, told, "d-1")
        later = {**told["comment"], "updated_at": "2030-01-01T00:00:01Z"}
        by_organisation = await hear(
            api, {**told, "comment": later, "organization": {"login": "acme"}}, "d-2"
        )
        assert by_organisation == by_repository
        edited = {**told, "action": "edited", "comment": {**told["comment"], "body": "Look there."}}
        edits = [await hear(api, edited, delivery) for delivery in ("d-3", "d-4")]
        received = await events(api, event_type="webhook.received")
        board = await events(api, event_type="board.commented")
    assert edits[0] == edits[1] and edits[0] != by_repository
    assert [one["payload"]["delivery"] for one in received] == ["d-1", "d-2", "d-3", "d-4"]
    assert len(board) == 1


async def test_a_rule_excludes_what_it_says_and_tells_so(tmp_path: Path) -> None:
    unless = {"sender.type": ["Bot", "Organization"], "sender.login": "*-ci"}
    async with receiving(tmp_path, {**COMMENTED, "unless": unless}) as api:
        of_bot = await hear(api, comment("Built.", sender={"login": "acme[bot]", "type": "Bot"}), "d-1")
        of_user = await hear(api, comment("Built.", sender={"login": "acme-ci", "type": "User"}), "d-2")
        of_ada = await hear(api, comment("Look.", sender={"login": "ada", "type": "User"}), "d-3")
        received = await events(api, event_type="webhook.received")
    assert of_bot == {"tasks": [], "dropped": ["rule answer takes nothing where sender.type is 'Bot'"]}
    assert of_user["dropped"] == ["rule answer takes nothing where sender.login is 'acme-ci'"]
    assert len(of_ada["tasks"]) == 1 and "dropped" not in of_ada
    assert [bool(one["payload"].get("reason")) for one in received] == [True, True, False]


async def test_a_rule_makes_no_more_tasks_an_hour_than_it_may(tmp_path: Path) -> None:
    async with receiving(tmp_path, {**COMMENTED, "max_per_hour": 2}) as api:
        first, second, third = [await hear(api, comment(f"Again {n}."), f"d-{n}") for n in range(3)]
        assert await hear(api, comment("Again 0."), "d-0") == first, "a repeat is no further task"
        other = comment("Another.", issue={"number": 8, "title": "Another"})
        elsewhere = await hear(api, other, "d-9")
        third_received = (await events(api, event_type="webhook.received"))[2]
    assert first["tasks"] and second["tasks"] and elsewhere["tasks"]
    assert third["tasks"] == [] and third["dropped"][0] == (
        "rule answer has made 2 tasks within an hour for /repos/acme/api/issues/7/comments (max_per_hour)"
    )
    assert third_received["payload"]["reason"] == third["dropped"][0]


async def test_the_tasks_of_an_hour_are_counted_past_the_end_of_a_process(tmp_path: Path) -> None:
    rule = {**COMMENTED, "max_per_hour": 2}
    async with receiving(tmp_path, rule) as api:
        before = [await hear(api, comment(f"Again {n}."), f"d-{n}") for n in range(2)]
    async with receiving(tmp_path, rule) as api:
        repeated = await hear(api, comment("Again 1."), "d-1")
        more = await hear(api, comment("Again 2."), "d-2")
    assert all(answer["tasks"] for answer in before) and repeated == before[1]
    assert more["tasks"] == [] and "(max_per_hour)" in more["dropped"][0]


async def test_a_loop_that_nothing_marks_ends_by_itself(tmp_path: Path) -> None:
    rule = {**COMMENTED, "thread": None}
    async with receiving(tmp_path, rule) as api:
        answers = [await hear(api, comment(f"And {n}."), f"d-{n}") for n in range(62)]
        alert = await hear(api, {"action": "created", "comment": {"body": "x"}}, "d-99")  # of no issue
    assert [bool(answer["tasks"]) for answer in answers] == [True] * 60 + [False] * 2
    assert "(max_per_hour)" in answers[-1]["dropped"][0] and alert["tasks"]


async def test_a_rule_without_an_issue_counts_its_threads(tmp_path: Path) -> None:
    rule = {**COMMENTED, "thread": "{{comment.body}}", "max_per_hour": 1}
    async with receiving(tmp_path, rule) as api:
        said = [
            await hear(api, {"action": "created", "comment": {"body": body}}, f"d-{number}")
            for number, body in enumerate(("a", "a", "b"))
        ]
    assert [bool(answer["tasks"]) for answer in said] == [True, False, True]
