"""Channels over real sockets: messages of chats become tasks once, and replies go back there in order."""

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from meshwright.agents.prompts import PromptSources
from meshwright.core.encoding import encode
from meshwright.core.errors import ConfigError
from meshwright.core.settings import load_settings
from meshwright.edges.channels.component import active_channels
from meshwright.edges.channels.relay import ChannelSender
from meshwright.edges.replies.courier import Courier
from meshwright.engine.events.filter import EventFilter
from meshwright.engine.work.protocol import TaskKey
from meshwright.mesh.app import build_mesh
from meshwright.mesh.orchestration.tasks import Tasks
from tests.support.chat_mesh import (
    PERSONA,
    channels,
    http_channel,
    mattermost_channel,
    mention,
    say,
    slack,
    slack_channel,
    whatsapp,
    whatsapp_channel,
)
from tests.support.fake_chats import WHSEC, FakeChats, standard_headers


async def test_message_is_answered_once_where_it_came_from(tmp_path: Path) -> None:
    async with FakeChats() as chats, channels(tmp_path, chat=http_channel(chats, tenant="acme")) as api:
        status, first = await say(api, "chat", "m-1", "hello")
        [accepted] = first["accepted"]
        assert status == 200 and accepted["id"] == "m-1"
        assert (await say(api, "chat", "m-1", "hello"))[1] == first, "a repeat is the same task"
        assert (await say(api, "chat", "m-2", "and then?"))[1]["accepted"][0]["thread_id"] == (
            accepted["thread_id"]
        )
        reply, second = await chats.until(2)
        task = await api.mesh.get(Tasks).task(accepted["task_id"], "acme")
        with pytest.raises(Exception, match="no task"):
            await api.mesh.get(Tasks).task(accepted["task_id"])
    shape = {"id", "tenant_id", "channel", "channel_metadata", "sender", "content", "timestamp", "thread_id"}
    assert reply.keys() == shape | {"reply_to", "context"}
    known = {"tenant_id": "acme", "channel": "http", "sender": "echo", "content": "you said: hello"}
    assert reply.items() >= (known | {"thread_id": "t-1", "reply_to": "m-1"}).items()
    assert reply["context"]["task_id"] == accepted["task_id"]
    assert second["reply_to"] == "m-2"
    assert task.requested_by == "channel:chat:ada"


async def test_metadata_of_any_json_comes_back(tmp_path: Path) -> None:
    metadata = {"x": 1, "team": {"id": "T1", "flags": [True, None, 0.5]}, **{f"k{n}": n for n in range(40)}}
    async with FakeChats() as chats, channels(tmp_path, chat=http_channel(chats)) as api:
        assert (await say(api, "chat", "m-1", "hello", channel_metadata=metadata))[0] == 200
        [reply] = await chats.until(1)
        assert reply["channel_metadata"] == metadata
        large = {"channel_metadata": {"x": "y" * 16_384}}
        status, problem = await say(api, "chat", "m-2", "hello", **large)
        assert (status, problem["field"]) == (422, "channel_metadata") and "16,384 bytes" in problem["detail"]


async def test_delivery_that_proves_nothing_is_refused(tmp_path: Path) -> None:
    async with FakeChats() as chats:
        off = http_channel(chats, active=False)
        async with channels(tmp_path, chat=http_channel(chats), off=off) as api:
            body = json.dumps({"id": "1", "sender": "a", "content": "x", "thread_id": "t"}).encode()
            wrong = standard_headers("1", body, key=b"x" * 32)
            refused = [
                await api.call("POST", f"/channels/{name}", data=body, headers=headers)
                for name, headers in (
                    ("chat", wrong),
                    ("ghost", standard_headers("1", body)),
                    ("off", standard_headers("1", body)),
                )
            ]
            assert [status for status, _ in refused] == [401, 401, 401]
            assert (await say(api, "chat", "m", "", thread_id="t"))[0] == 422
            assert (await say(api, "chat", "m", "x", tenant_id="other"))[0] == 422
            assert (await say(api, "chat", "m", "x", nonsense=1))[0] == 422
            assert not await api.mesh.log.query(EventFilter(event_type="task.accepted"))


async def test_previous_secret_is_as_good_for_messages_and_replies(tmp_path: Path) -> None:
    newer = f"whsec_{base64.b64encode(b'n' * 32).decode()}"
    async with FakeChats() as chats:
        given = http_channel(chats, secret=newer, previous_secret=WHSEC)
        async with channels(tmp_path, chat=given) as api:
            assert (await say(api, "chat", "m-1", "signed with the old one"))[0] == 200
            body = json.dumps({"id": "m-2", "sender": "a", "content": "x", "thread_id": "t"}).encode()
            headers = standard_headers("m-2", body, key=b"n" * 32)
            assert (await api.call("POST", "/channels/chat", data=body, headers=headers))[0] == 200
            await chats.until(2)


async def test_reply_waits_for_the_earlier_ones_of_its_conversation(tmp_path: Path) -> None:
    async with FakeChats() as chats, channels(tmp_path, chat=http_channel(chats)) as api:
        chats.answers = [web.Response(status=429, headers={"Retry-After": "1"})]
        for number in range(5):
            await say(api, "chat", f"m-{number}", str(number))
        posts = await chats.until(5)
        delayed = await api.mesh.log.query(EventFilter(event_type="reply.delayed"))
    assert [post["reply_to"] for post in posts] == [f"m-{number}" for number in range(5)]
    assert delayed


async def test_persona_has_its_prompt_and_is_of_its_tenant_alone(tmp_path: Path) -> None:
    persona = PERSONA | {"escalation": ["money back"], "system_prompt": "You know Acme's catalogue."}
    async with FakeChats() as chats:
        given = http_channel(chats, agent=None, persona=persona, tenant="acme")
        async with channels(tmp_path, chat=given) as api:
            await say(api, "chat", "m-1", "hello")
            [reply] = await chats.until(1)
            prompt = api.mesh.get(PromptSources).resolve("channel-chat")
            other = await api.submit(agent_id="channel-chat", text="hello")
            outcome = await api.mesh.get(Tasks).outcome(other)
    system = prompt.render_from({"agent_name": "channel-chat", "task": "", "context": "memories"}).system
    assert system.startswith("You know Acme's catalogue.\n\nYour name is Mira. Your role is support at Acme.")
    for part in ("professional and warm", "whether you are an AI, you say so honestly", "- money back"):
        assert part in system
    assert reply["sender"] == "Mira"
    assert outcome.error is not None and "another tenant" in outcome.error.message


async def test_slack_mentions_are_answered_in_their_thread(tmp_path: Path) -> None:
    async with FakeChats() as chats, channels(tmp_path, chat=slack_channel(chats)) as api:
        challenge = await slack(api, {}, type="url_verification", challenge="c-1")
        assert challenge == (200, {"accepted": [], "challenge": "c-1"})
        assert (await slack(api, mention(), age=3600))[0] == 401, "an old request may be a replay"
        ignored = [
            mention(bot_id="B1"),
            {"type": "message", "user": "U1", "text": "among people", "channel": "C1", "ts": "2"},
            mention(subtype="message_changed"),
        ]
        for event in ignored:
            assert (await slack(api, event))[1]["accepted"] == []
        first = await slack(api, mention())
        assert await slack(api, mention(), event_id="Ev2") == first
        await slack(api, mention("1.7", thread_ts="1.5"))
        posts = await chats.until(2)
    assert [(post["channel"], post["thread_ts"]) for post in posts] == [("C1", "1.5")] * 2
    assert posts[0]["text"] == "you said: hello"


async def test_replies_call_nobody_and_load_nothing(tmp_path: Path) -> None:
    said = "<!channel> & <@U2> <https://evil.example|bank>"
    async with FakeChats() as chats, channels(tmp_path, chat=slack_channel(chats)) as api:
        sent = said.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        await slack(api, mention(text=f"<@UBOT> {sent}"))
        [post] = await chats.until(1)
    assert post["text"] == f"you said: {sent}"
    assert post["unfurl_links"] is post["unfurl_media"] is False


@pytest.mark.parametrize(
    "event",
    [
        {"user": "U" * 300},
        {"ts": [1]},
        {"ts": 1e300, "user": {"a": 1}},
        {"channel": "C" * 300, "text": "x" * 9},
    ],
    ids=str,
)
async def test_signed_message_that_is_none_is_no_error_of_ours(tmp_path: Path, event: dict[str, Any]) -> None:
    async with FakeChats() as chats, channels(tmp_path, chat=slack_channel(chats)) as api:
        status, _ = await slack(api, mention(**event))
        assert status in (200, 422)
        assert (await slack(api, mention("1.9")))[0] == 200


async def test_slack_reply_that_arrived_without_a_word_is_not_posted_twice(tmp_path: Path) -> None:
    async with FakeChats() as chats, channels(tmp_path, chat=slack_channel(chats)) as api:
        chats.lost = 1
        await slack(api, mention())
        await slack(api, mention("1.7", thread_ts="1.5"))
        posts = await chats.until(2)
    assert chats.looked >= 1
    assert len({post["metadata"]["event_payload"]["id"] for post in posts}) == len(posts) == 2


async def test_replies_share_a_connection(tmp_path: Path) -> None:
    async with FakeChats() as chats, channels(tmp_path, chat=slack_channel(chats)) as api:
        for number in range(1, 4):
            await slack(api, mention(f"1.{number}"))
            await chats.until(number)
    assert len(chats.clients) == 1


async def test_process_that_takes_over_posts_no_reply_again(tmp_path: Path) -> None:
    async with FakeChats() as chats, channels(tmp_path, chat=slack_channel(chats)) as api:
        others = active_channels(api.mesh.settings.channels)
        other = ChannelSender(api.mesh, others, "")
        [accepted] = (await slack(api, mention()))[1]["accepted"]
        outcome = await api.mesh.get(Tasks).outcome(accepted["task_id"])
        await chats.until(1)
        task = TaskKey("default", accepted["task_id"])
        [address] = await api.mesh.get(Courier).asked(other.scheme, task)
        await other.send(address, encode(outcome))
        await others["chat"].chat.http.stop()
    assert len(chats.posts) == 1


async def test_slack_messages_come_over_a_socket_that_the_mesh_opens(tmp_path: Path) -> None:
    async with FakeChats() as chats:
        given = slack_channel(chats) | {"secret": None, "app_token": "xapp-test"}
        await chats.slack_says(mention(), "e-1")
        async with channels(tmp_path, chat=given) as api:
            [post] = await chats.until(1)
            await chats.acknowledged()
            await chats.links[0].send_json({"type": "disconnect", "reason": "refresh_requested"})
            await chats.slack_says(mention("1.7", thread_ts="1.5"), "e-2")
            await chats.slack_says(mention(), "e-3")
            posts = await chats.until(2)
            await chats.acknowledged()
            accepted = await api.mesh.log.query(EventFilter(event_type="task.accepted"))
            assert (await slack(api, mention("1.9")))[0] == 401, "without a secret there is no webhook"
    assert post["text"] == "you said: hello"
    assert len(posts) == len(accepted) == 2


async def test_mattermost_messages_are_answered_also_those_that_were_missed(tmp_path: Path) -> None:
    async with FakeChats() as chats:
        given = mattermost_channel(chats)
        await chats.mattermost_says("p-0", "an old one, @mira", create_at=1_000_000)
        await chats.mattermost_says("p-1", "@mira hello")
        await chats.mattermost_says("p-2", "among people; not to @miranda")
        chats.lost = 1
        async with channels(tmp_path, chat=given) as api:
            await chats.until(1)
            await chats.linked(1)
            await chats.mattermost_says("p-3", "and then, @mira?", root_id="p-1")
            await chats.mattermost_says("p-4", "joined, @mira", type="system_join_channel")
            await chats.until(2)
            for link in chats.links:
                await link.close()
            for post_id, odd in (("p-x", {"create_at": 10**400}), ("p-y", {"props": ["from_bot"]})):
                long = {"id": post_id, "user_id": "a" * 300, "message": "@mira x", "create_at": 10**13}
                chats.said[post_id] = long | odd
            await chats.mattermost_says("p-5", "@Mira are you back, @all?")
            posts = await chats.until(3)
            accepted = await api.mesh.log.query(EventFilter(event_type="task.accepted"))
    assert [(post["root_id"], post["message"]) for post in posts] == [
        ("p-1", "you said: hello"),
        ("p-1", "you said: and then, ?"),
        ("p-5", "you said: are you back, @\u200ball?"),
    ]
    assert len(accepted) == 3 and chats.looked >= 1


async def test_whatsapp_messages_are_answered(tmp_path: Path) -> None:
    async with FakeChats() as chats, channels(tmp_path, chat=whatsapp_channel(chats)) as api:
        asked = {"hub.mode": "subscribe", "hub.verify_token": "prove it", "hub.challenge": "42"}
        async with api.session.get("/channels/chat", params=asked) as response:
            assert (response.status, await response.text()) == (200, "42")
        wrong = asked | {"hub.verify_token": "guess"}
        assert (await api.call("GET", "/channels/chat", params=wrong))[0] == 401
        for _ in range(2):
            answer = await whatsapp(api, "wamid.1")
            assert answer[0] == 200 and len(answer[1]["accepted"]) == 1
        [post] = await chats.until(1)
        too_late = web.json_response({"error": {"code": 131047}}, status=400)
        chats.answers = [too_late]
        await whatsapp(api, "wamid.2")
        tail = api.mesh.log.tail(EventFilter(event_type="reply.dropped", after_seq=0))
        dropped = await asyncio.wait_for(anext(tail), 60)
        await tail.aclose()
    assert post["number"] == "123" and post["to"] == "4917"
    assert post["context"] == {"message_id": "wamid.1"} and post["text"]["body"] == "you said: hello"
    assert "131047" in str(dropped.fields["reason"])


def test_settings_say_what_is_missing(tmp_path: Path) -> None:
    given = {"kind": "slack", "agent": "echo", "secret": "s"}
    for wrong, told in (
        (given, "needs token"),
        (given | {"secret": None, "token": "t"}, "needs an app_token"),
        (given | {"persona": PERSONA}, "an agent or a persona"),
        ({"kind": "http", "agent": "echo", "secret": "short", "url": "http://x/"}, "whsec_"),
    ):
        with pytest.raises(ConfigError, match=told):
            build_mesh(load_settings(tmp_path, channels={"chat": wrong}), project=tmp_path)
