"""A fake of the services of chats over a real socket, as documented: a receiver of a generic channel (`/in`,
signed as Standard Webhooks has it), Slack (`/slack/...`, with socket mode), Mattermost (`/api/v4/...`, with
its WebSocket) and WhatsApp's Cloud API (`/whatsapp/...`). No test reaches the services themselves.

`answers` are given instead, in order, one for each POST: rate limits and errors. `lost` counts the POSTs that
are taken and then answered with an error.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from typing import Any, Self

from aiohttp import WSMsgType, web

KEY = b"k" * 32
WHSEC = f"whsec_{base64.b64encode(KEY).decode()}"
SLACK_SECRET = "the signing secret of Slack"
WHATSAPP_SECRET = "the secret of WhatsApp's app"
PATIENCE_SECONDS = 60


def standard_headers(message_id: str, body: bytes, key: bytes = KEY) -> dict[str, str]:
    """The headers of a message of Standard Webhooks."""
    now = int(time.time())
    signed = base64.b64encode(hmac.digest(key, f"{message_id}.{now}.".encode() + body, "sha256")).decode()
    headers = {"webhook-id": message_id, "webhook-timestamp": str(now), "webhook-signature": f"v1,{signed}"}
    return headers | {"Content-Type": "application/json"}


def slack_headers(body: bytes, *, age: int = 0) -> dict[str, str]:
    """The headers of a request of Slack's."""
    now = int(time.time()) - age
    signed = hmac.new(SLACK_SECRET.encode(), f"v0:{now}:".encode() + body, hashlib.sha256).hexdigest()
    headers = {"X-Slack-Request-Timestamp": str(now), "X-Slack-Signature": f"v0={signed}"}
    return headers | {"Content-Type": "application/json"}


def whatsapp_headers(body: bytes) -> dict[str, str]:
    """The headers of a request of Meta's."""
    signed = hmac.new(WHATSAPP_SECRET.encode(), body, hashlib.sha256).hexdigest()
    return {"X-Hub-Signature-256": f"sha256={signed}", "Content-Type": "application/json"}


class FakeChats:
    """Keeps what was posted, in order."""

    def __init__(self) -> None:
        self.posts: list[dict[str, Any]] = []
        self.ids: list[str] = []
        self.looked = 0
        self.clients: set[object] = set()
        self.answers: list[web.Response | None] = []
        self.lost = 0
        self.links: list[web.WebSocketResponse] = []
        self.envelopes: list[dict[str, Any]] = []
        self.said: dict[str, dict[str, Any]] = {}
        self.typing: list[dict[str, Any]] = []
        self.typing_answers: list[web.Response] = []
        self.url = ""
        self._news = asyncio.Condition()

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/in", self._http)
        app.router.add_post("/slack/chat.postMessage", self._slack)
        app.router.add_post("/slack/assistant.threads.setStatus", self._slack_status)
        app.router.add_get("/slack/conversations.replies", self._slack_replies)
        app.router.add_get("/slack/conversations.history", self._slack_history)
        app.router.add_post("/slack/apps.connections.open", self._slack_open)
        app.router.add_get("/slack/link", self._slack_link)
        app.router.add_post("/whatsapp/{number}/messages", self._whatsapp)
        app.router.add_get("/api/v4/users/me", self._mattermost_me)
        app.router.add_get("/api/v4/users/bot-id/channels", self._mattermost_channels)
        app.router.add_get("/api/v4/channels/town/posts", self._mattermost_posts)
        app.router.add_get("/api/v4/posts/{root}/thread", self._mattermost_thread)
        app.router.add_post("/api/v4/posts", self._mattermost)
        app.router.add_post("/api/v4/users/bot-id/typing", self._mattermost_typing)
        app.router.add_get("/api/v4/websocket", self._mattermost_link)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def until(self, count: int) -> list[dict[str, Any]]:
        async with self._news, asyncio.timeout(PATIENCE_SECONDS):
            await self._news.wait_for(lambda: len(self.posts) >= count)
        return self.posts

    async def until_posted(self, **fields: Any) -> dict[str, Any]:
        """The first post with these fields, once there is one."""

        def found() -> dict[str, Any] | None:
            return next((post for post in self.posts if fields.items() <= post.items()), None)

        async with self._news:  # a mesh that is killed all the time takes its time: the test has a limit
            return await self._news.wait_for(found)

    async def _take(self, document: dict[str, Any], taken: web.Response) -> web.Response:
        if self.answers and (answer := self.answers.pop(0)) is not None:
            return answer
        async with self._news:
            self.posts.append(document)
            self._news.notify_all()
        if self.lost:
            self.lost -= 1
            return web.json_response({"ok": False, "error": "internal_error"}, status=500)
        return taken

    async def _http(self, request: web.Request) -> web.Response:
        body = await request.read()
        signed = f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}.".encode() + body
        expected = f"v1,{base64.b64encode(hmac.digest(KEY, signed, 'sha256')).decode()}"
        assert expected in request.headers["webhook-signature"].split()
        document = json.loads(body)
        if document["type"] == "typing":
            return await self._shows(document["data"], web.Response())
        assert document["type"] == "message"
        if request.headers["webhook-id"] in self.ids:  # a receiver drops a repeat by its id
            return web.Response()
        answer = await self._take(document["data"], web.Response())
        if document["data"] in self.posts:
            self.ids.append(request.headers["webhook-id"])
        return answer

    async def _slack(self, request: web.Request) -> web.Response:
        self.clients.add(request.transport and request.transport.get_extra_info("peername"))
        assert request.headers["Authorization"] == "Bearer xoxb-test"
        document = await request.json()
        return await self._take(document, web.json_response({"ok": True, "ts": f"{time.time():.6f}"}))

    async def _slack_status(self, request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == "Bearer xoxb-test"
        return await self._shows(await request.json(), web.json_response({"ok": True}))

    async def _mattermost_typing(self, request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == "Bearer mm-test"
        return await self._shows(await request.json(), web.json_response({"status": "OK"}))

    async def _shows(self, document: dict[str, Any], taken: web.Response) -> web.Response:
        """Somebody is typing: `typing_answers` are given first, in order."""
        async with self._news:
            self.typing.append(document)
            self._news.notify_all()
        return self.typing_answers.pop(0) if self.typing_answers else taken

    async def until_typing(self, **shown: Any) -> None:
        """Wait until typing is shown with these fields."""
        async with self._news, asyncio.timeout(PATIENCE_SECONDS):
            await self._news.wait_for(lambda: any(shown.items() <= known.items() for known in self.typing))

    async def _slack_replies(self, request: web.Request) -> web.Response:
        assert request.query["include_all_metadata"] == "true"
        self.looked += 1
        messages = [
            {"text": post["text"], "metadata": post["metadata"]}
            for post in self.posts
            if (post.get("channel"), post.get("thread_ts")) == (request.query["channel"], request.query["ts"])
        ]
        return web.json_response({"ok": True, "messages": messages})

    async def _slack_history(self, request: web.Request) -> web.Response:
        assert request.query["include_all_metadata"] == "true" and float(request.query["oldest"]) > 0
        self.looked += 1
        own = [post for post in self.posts if post.get("channel") == request.query["channel"]]
        messages = [{"text": post["text"], "metadata": post["metadata"]} for post in own]
        return web.json_response({"ok": True, "messages": messages})

    async def _slack_open(self, request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == "Bearer xapp-test"
        return web.json_response({"ok": True, "url": f"{self.url.replace('http', 'ws')}/slack/link"})

    async def _slack_link(self, request: web.Request) -> web.WebSocketResponse:
        """A connection of socket mode: what is not acknowledged is sent again over the next one."""
        link = web.WebSocketResponse()
        await link.prepare(request)
        self.links.append(link)
        await link.send_json({"type": "hello", "num_connections": 1})
        for envelope in self.envelopes:
            await link.send_json(envelope)
        async for message in link:
            if message.type == WSMsgType.TEXT:
                acknowledged = message.json()["envelope_id"]
                self.envelopes = [one for one in self.envelopes if one["envelope_id"] != acknowledged]
                async with self._news:
                    self._news.notify_all()
        return link

    async def slack_says(self, event: dict[str, Any], envelope_id: str) -> None:
        """Send an event over the connection, or over the next where there is none."""
        payload = {"type": "event_callback", "event_id": "Ev1", "event": event}
        envelope = {"envelope_id": envelope_id, "type": "events_api", "payload": payload}
        self.envelopes.append(envelope)
        for link in self.links:
            if not link.closed:
                await link.send_json(envelope)

    async def acknowledged(self) -> None:
        """Wait until there is nothing left to acknowledge."""
        async with self._news, asyncio.timeout(PATIENCE_SECONDS):
            await self._news.wait_for(lambda: not self.envelopes)

    async def mattermost_says(self, post_id: str, message: str, **more: Any) -> None:
        """Have somebody post in the channel `town`; those who are connected see it at once."""
        post = {"id": post_id, "user_id": "ada", "channel_id": "town", "message": message, "root_id": ""}
        post |= {"create_at": int(time.time() * 1000), "type": "", "props": {}} | more
        self.said[post_id] = post
        data = {"channel_type": "O", "post": json.dumps(post)}
        for link in self.links:
            if not link.closed:
                await link.send_json({"event": "posted", "data": data, "seq": 5})

    async def mattermost_sends(self, text: str) -> None:
        """Send those who are connected a message of the server's."""
        for link in self.links:
            if not link.closed:
                await link.send_str(text)

    async def _mattermost_me(self, request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == "Bearer mm-test"
        return web.json_response({"id": "bot-id", "username": "mira"})

    async def _mattermost_channels(self, request: web.Request) -> web.Response:
        return web.json_response([{"id": "town", "type": "O", "last_post_at": int(time.time() * 1000)}])

    async def _mattermost_posts(self, request: web.Request) -> web.Response:
        since = int(request.query["since"])
        posts = {post_id: post for post_id, post in self.said.items() if post["create_at"] >= since}
        return web.json_response({"order": [*posts][::-1], "posts": posts})

    async def _mattermost_thread(self, request: web.Request) -> web.Response:
        self.looked += 1
        own = [post for post in self.posts if post.get("root_id") == request.match_info["root"]]
        return web.json_response({"posts": {str(number): post for number, post in enumerate(own)}})

    async def _mattermost(self, request: web.Request) -> web.Response:
        document = await request.json()
        await self.mattermost_says(f"own-{len(self.posts)}", **(document | {"user_id": "bot-id"}))
        return await self._take(document, web.json_response({"id": "p"}, status=201))

    async def _mattermost_link(self, request: web.Request) -> web.WebSocketResponse:
        link = web.WebSocketResponse()
        await link.prepare(request)
        challenge = await link.receive_json()
        assert (challenge["action"], challenge["data"]) == ("authentication_challenge", {"token": "mm-test"})
        await link.send_json({"event": "hello", "data": {}, "seq": 0})
        await link.send_json({"status": "OK", "seq_reply": challenge["seq"]})
        async with self._news:
            self.links.append(link)
            self._news.notify_all()
        async for _ in link:
            pass
        return link

    async def linked(self, count: int) -> None:
        """Wait for so many connections, counting those that ended."""
        async with self._news, asyncio.timeout(PATIENCE_SECONDS):
            await self._news.wait_for(lambda: len(self.links) >= count)

    async def _whatsapp(self, request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == "Bearer wa-test"
        document = await request.json()
        document["number"] = request.match_info["number"]
        if "typing_indicator" in document:
            return await self._shows(document, web.json_response({"success": True}))
        return await self._take(document, web.json_response({"messages": [{"id": "wamid.out"}]}))
