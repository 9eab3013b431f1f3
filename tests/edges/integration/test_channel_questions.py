"""Questions of tasks from a chat are asked and answered in that chat, once."""

import asyncio
from pathlib import Path

import pytest

from meshwright import Agent, Capability, Run, tool
from meshwright.core import topics
from meshwright.engine.events.filter import EventFilter
from meshwright.engine.events.inbox import Inbox
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.testing import ScriptedModel, tool_call
from tests.support.chat_mesh import (
    PERSONA,
    channels,
    http_channel,
    mattermost_channel,
    mention,
    say,
    slack,
    slack_channel,
)
from tests.support.fake_chats import FakeChats
from tests.support.http_mesh import http_mesh
from tests.support.observer import Watch


class Asker(Agent):
    """Asks a person, and says what that answered."""

    agent_id = "asker"
    capabilities = (Capability("asking"),)
    remembers = False

    async def run(self, run: Run) -> str:
        return f"They said: {await run.ask_person('Which colour?')}"


class Hostile(Agent):
    """Asks with text that is another than it seems, and a secret."""

    agent_id = "hostile"
    capabilities = (Capability("hostility"),)
    remembers = False

    async def run(self, run: Run) -> str:
        return await run.ask_person("Pay \u202e001\u202c to \u200bann by token=Zk3x9Q2pLm8v ?")


class Curious(Agent):
    """Asks two questions, one after the other."""

    agent_id = "curious"
    capabilities = (Capability("curiosity"),)
    remembers = False

    async def run(self, run: Run) -> str:
        return f"{await run.ask_person('Which colour?')} and {await run.ask_person('Which size?')}"


async def test_message_that_is_delivered_again_answers_no_other_question(tmp_path: Path) -> None:
    async with FakeChats() as chats:
        given = http_channel(chats, agent="curious", answer_by=["ada"])
        async with channels(tmp_path, Curious, chat=given) as api:
            first = await say(api, "chat", "m-1", "paint it")
            await chats.until(1)
            assert await say(api, "chat", "m-1", "paint it") == first, "it is a task, and no answer"
            answers = await asyncio.gather(*(say(api, "chat", "m-2", "green") for _ in range(3)))
            await chats.until(2)
            assert await say(api, "chat", "m-2", "green") == answers[0] == answers[1] == answers[2]
        async with channels(tmp_path, Curious, chat=given) as api:
            assert await say(api, "chat", "m-2", "green") == answers[0]
            await say(api, "chat", "m-3", "large")
            posts = await chats.until(3)
            accepted = await api.mesh.log.query(EventFilter(event_type="task.accepted"))
    assert posts[2]["content"] == "green and large"
    assert len(accepted) == 1


async def test_a_chat_shows_what_is_unseen_and_says_what_is_hidden(tmp_path: Path) -> None:
    async with FakeChats() as chats:
        given = http_channel(chats, agent="hostile", answer_by=["ada"])
        async with channels(tmp_path, Hostile, chat=given) as api:
            await say(api, "chat", "m-1", "pay")
            [question] = await chats.until(1)
    assert question["content"].startswith(
        "Pay \\u202e001\\u202c to \\u200bann by token=[hidden: 12 characters] ? "
        "Hidden here: 12 characters in 1 line. The page and `mesh inbox ID --reveal` show them."
    )


async def test_question_is_answered_in_the_chat_by_those_who_may(tmp_path: Path) -> None:
    async with FakeChats() as chats:
        given = http_channel(chats, agent="asker", answer_by=["boss"])
        async with channels(tmp_path, Asker, chat=given) as api:
            _, asked = await say(api, "chat", "m-1", "paint it")
            [question] = await chats.until(1)
            _, given_by_boss = await say(api, "chat", "m-2", "green", sender="boss")
            _, again = await say(api, "chat", "m-2", "green", sender="boss")
            posts = await chats.until(2)
            open_tasks = await api.mesh.log.query(EventFilter(event_type="task.accepted"))
            [reached] = await api.mesh.log.query(EventFilter(event_type="question.reached"))
    assert question["content"].startswith("Which colour?") and question["context"]["kind"] == "question"
    assert given_by_boss == again and again["accepted"][0]["task_id"] == asked["accepted"][0]["task_id"]
    assert posts[1]["content"] == "They said: green"
    assert len(open_tasks) == 1
    assert reached.payload["by"] == "channel chat"


async def test_a_claimed_question_is_answered_in_the_chat_only_deliberately(tmp_path: Path) -> None:
    async with FakeChats() as chats:
        given = http_channel(chats, agent="asker", answer_by=["ada"])
        async with channels(tmp_path, Asker, chat=given) as api:
            _, asked = await say(api, "chat", "m-1", "paint it")
            await chats.until(1)
            [item] = (await api.get("/inbox"))["items"]
            assert (await api.call("POST", f"/inbox/{item['id']}/claim"))[0] == 200
            _, refused = await say(api, "chat", "m-2", "green")
            [_, notice] = await chats.until(2)
            assert (await api.get("/inbox"))["items"][0]["status"] == "open"
            await say(api, "chat", "m-3", "Anyway: dark green")
            [*_, reply] = await chats.until(3)
            accepted = await api.mesh.log.query(EventFilter(event_type="task.accepted"))
    assert refused["accepted"][0]["task_id"] == asked["accepted"][0]["task_id"]
    assert notice["content"].startswith("anonymous is looking at that question until ")
    assert notice["content"].endswith("To answer all the same, begin your reply with the word anyway.")
    assert reply["content"] == "They said: dark green"
    assert len(accepted) == 1


class Patient(Agent):
    """Asks one person, and is not answered."""

    agent_id = "patient"
    capabilities = (Capability("patience"),)
    remembers = False

    async def run(self, run: Run) -> str:
        return await run.ask_person("Which colour?", may_answer=["channel:chat:ada"])


async def test_a_question_that_nobody_answers_is_reminded_of_and_goes_to_the_next_in_the_chat(
    tmp_path: Path,
) -> None:
    people = {"remind_seconds": 2, "then": ["channel:chat:boss"]}
    async with FakeChats() as chats:
        given = http_channel(chats, agent="patient", answer_by=["ada", "boss"])
        async with http_mesh(tmp_path, Patient, channels={"chat": given}, people=people) as api:
            _, asked = await say(api, "chat", "m-1", "paint it")
            [question, reminder, escalation] = await chats.until(3)
            _, answered = await say(api, "chat", "m-2", "green", sender="boss")
            [*_, reply] = await chats.until(4)
    assert question["content"].startswith("Which colour?")
    assert reminder["content"].startswith("Nobody has answered for ")
    assert reminder["content"].endswith(" s:\n\nWhich colour?\n\nReply here to answer.")
    assert escalation["content"].startswith("Nobody has answered for ")
    assert ", so channel:chat:boss may answer as well:\n\nWhich colour?" in escalation["content"]
    assert [post["context"]["kind"] for post in (question, reminder, escalation)] == [
        "question",
        "reminder",
        "reminder",
    ]
    assert answered["accepted"][0]["task_id"] == asked["accepted"][0]["task_id"]
    assert reply["content"] == "green"


async def test_reminders_of_tasks_from_elsewhere_go_to_the_chat_for_reminders(tmp_path: Path) -> None:
    people, page = {"remind_seconds": 2, "then": ["bob"]}, {"url": "https://mesh.example.com"}
    async with FakeChats() as chats:
        given = http_channel(chats, agent="patient", reminders="on-call")
        async with http_mesh(tmp_path, Patient, channels={"chat": given}, people=people, page=page) as api:
            task_id = await api.submit(agent_id="patient", payload={"text": "paint it"})
            [reminder, escalation] = await chats.until(2)
            [item] = (await api.get("/inbox"))["items"]
    assert item["task_id"] == task_id
    assert [post["thread_id"] for post in (reminder, escalation)] == ["on-call", "on-call"]
    assert reminder["content"].startswith("Nobody has answered for ")
    link = f"https://mesh.example.com/#/inbox?item={item['id']}"
    assert reminder["content"].endswith(f" s:\n\nWhich colour?\n\nmesh inbox {item['id']}\n{link}")
    assert ", so bob may answer as well:\n\nWhich colour?" in escalation["content"]


class Boss(Agent):
    """Has the asker ask, and passes on what that says."""

    agent_id = "boss"
    capabilities = (Capability("leading"),)
    delegates_to = ("asker", "deployer")
    remembers = False

    async def run(self, run: Run) -> str:
        answer = await run.delegate(run.task.text, "do it")
        return f"It says: {answer}"


async def test_question_of_a_delegated_task_is_asked_and_answered_in_the_chat(tmp_path: Path) -> None:
    async with FakeChats() as chats:
        given = http_channel(chats, agent="boss", answer_by=["boss"])
        async with channels(tmp_path, Boss, Asker, chat=given) as api:
            _, accepted = await say(api, "chat", "m-1", "asker")
            [question] = await chats.until(1)
            _, answered = await say(api, "chat", "m-2", "green", sender="boss")
            posts = await chats.until(2)
            asking = await api.mesh.get(Tasks).task(answered["accepted"][0]["task_id"])
    root = accepted["accepted"][0]["task_id"]
    assert question["content"].startswith("Which colour?") and question["reply_to"] == "m-1"
    assert question["context"]["task_id"] == root == asking.parent_task_id
    assert posts[1]["content"] == "It says: They said: green"


class Deployer(Agent):
    """Deploys, where it may."""

    agent_id = "deployer"
    capabilities = (Capability("deploying"),)
    remembers = False

    @tool(needs_approval=True)
    async def deploy(self, target: str) -> str:
        """Deploy it.

        Args:
            target: where to
        """
        return f"deployed to {target}"


@pytest.mark.parametrize(
    ("agent", "word", "result"),
    [
        ("deployer", "Approve, go", "deployed to live"),
        ("deployer", "no not today", "denied"),
        ("boss", "approve", "deployed to live"),
    ],
)
async def test_approval_is_decided_in_the_chat(tmp_path: Path, agent: str, word: str, result: str) -> None:
    model = ScriptedModel(tool_call("deploy", target="live"), "Settled.")
    async with FakeChats() as chats:
        given = http_channel(chats, agent=agent, answer_by=["boss"])
        async with channels(tmp_path, Boss, Deployer, script=model, chat=given) as api:
            for number, sender, content in ((1, "ada", "deployer"), (2, "boss", word)):
                await say(api, "chat", f"m-{number}", content, sender=sender)
                posts = await chats.until(number)
            audited = await api.mesh.log.query(EventFilter(event_type="audit.recorded"))
    assert "Reply approve or deny" in posts[0]["content"]
    assert result in str(model.requests[-1].messages)
    action = "task.approved" if "deployed" in result else "task.denied"
    assert action in [event.fields.get("action") for event in audited]


async def test_what_was_said_before_a_question_is_no_answer_when_it_comes_again(tmp_path: Path) -> None:
    async with FakeChats() as chats:
        given = http_channel(chats, agent="asker", answer_by=["boss"])
        async with channels(tmp_path, Asker, chat=given) as api:
            early = await say(api, "chat", "m-0", "yes, paint it", sender="boss")
            await chats.until(1)
            assert await say(api, "chat", "m-0", "yes, paint it", sender="boss") == early
            questions = (await api.mesh.get(Inbox).page("default")).items
    assert [question.task_id for question in questions] == [early[1]["accepted"][0]["task_id"]]


async def test_chat_is_told_that_a_person_was_asked_who_is_not_there(tmp_path: Path) -> None:
    async with (
        FakeChats() as chats,
        http_mesh(tmp_path, Asker, channels={"chat": http_channel(chats, agent="asker")}) as api,
    ):
        _, accepted = await say(api, "chat", "m-1", "paint it")
        await chats.until(1)
        [question] = (await api.mesh.get(Inbox).page("default")).items
        await api.mesh.get(Tasks).answer(accepted["accepted"][0]["task_id"], question.wait_id, "blue")
        posts = await chats.until(2)
        assert await api.mesh.log.query(EventFilter(event_type="question.reached")) == []
    assert [post["content"] for post in posts] == [
        "I have asked a colleague. The answer comes here.",
        "They said: blue",
    ]


class Parallel(Agent):
    """Asks two questions at once."""

    agent_id = "parallel"
    capabilities = (Capability("asking-twice"),)
    remembers = False

    async def run(self, run: Run) -> str:
        return " and ".join(await run.gather(run.ask_person("Which colour?"), run.ask_person("Which size?")))


async def test_question_behind_an_open_one_says_so_and_is_asked_once(tmp_path: Path) -> None:
    waits = Watch()
    async with FakeChats() as chats:
        given = http_channel(chats, agent="parallel", answer_by=["ada"])
        async with channels(tmp_path, Parallel, chat=given) as api:
            api.mesh.runtime.listen(topics.TASK_PROGRESS, waits.take, ("task.waiting",))
            await say(api, "chat", "m-1", "paint it")
            questions = [*(await chats.until(2))]
            await say(api, "chat", "m-2", "green")
            await waits.until(lambda: waits.of("task.waiting")[-1].fields.get("repeated") is True)
            await say(api, "chat", "m-3", "large")
            posts = await chats.until(3)
    assert ["the question before this one" in question["content"] for question in questions] == [False, True]
    assert posts[2]["content"] == "green and large"


@pytest.mark.parametrize("kind", ["http", "slack", "mattermost"])
async def test_persona_answers_with_its_model_tools_and_history_or_hands_over(
    tmp_path: Path, kind: str
) -> None:
    persona = PERSONA | {"escalation": ["money back"], "model_preference": "fast", "tools": ["web"]}
    asks = tool_call("hand_over", question="Ada wants her money back")
    model = ScriptedModel("It comes today.", asks, "A colleague says: she gets it")
    said = [("ada", "Where is it?"), ("ada", "My money back!"), ("boss", "she gets it")]
    async with FakeChats() as chats:
        kinds = {"http": http_channel, "slack": slack_channel, "mattermost": mattermost_channel}
        given = kinds[kind](chats) | {
            "agent": None,
            "persona": persona,
            "answer_by": ["boss"],
            "tenant": "acme",
        }
        async with channels(tmp_path, script=model, chat=given) as api:
            if kind == "mattermost":
                await chats.linked(1)
            for number, (sender, content) in enumerate(said, 1):
                if kind == "http":
                    await say(api, "chat", f"m-{number}", content, sender=sender)
                elif kind == "mattermost":
                    thread = {} if number == 1 else {"root_id": "m-1"}
                    await chats.mattermost_says(f"m-{number}", f"@mira {content}", user_id=sender, **thread)
                else:
                    event = mention(f"1.{number}", user=sender, text=f"<@UBOT> {content}", thread_ts="1.1")
                    assert (await slack(api, event))[0] == 200
                posts = await chats.until(number)
    content = {"http": "content", "slack": "text", "mattermost": "message"}[kind]
    assert [post[content].partition("\n")[0] for post in posts] == [
        "It comes today.",
        "Ada wants her money back",
        "A colleague says: she gets it",
    ]
    asked = model.requests[1]
    assert asked.model == "fast"
    assert {"fetch_page", "hand_over"} <= {known.name for known in asked.tools}
    told = [(message.role, str(message.content)) for message in asked.messages]
    assert [role for role, _ in told] == ["system", "user", "assistant", "user"]
    assert "Your name is Mira. Your role is support at Acme." in told[0][1]
    assert "Where is it?" in told[1][1] and told[2][1] == "It comes today." and "My money" in told[3][1]
    assert "she gets it" in str(model.requests[-1].messages)
