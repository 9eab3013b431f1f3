"""What daprd calls, whichever channel it came by: counted, and answered in a way that daprd understands."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from pydantic_core import from_json, to_json

from meshwright.envelope import ActorRef
from meshwright.errors import Draining, MeshError, TooLarge
from meshwright.hosts.dapr.channels.port import SEND_BYTES, STOP_SECONDS, App
from meshwright.hosts.dapr.channels.replies import encode_error, encode_result

logger = logging.getLogger("meshwright.dapr")
MAX_REPLY_BYTES = SEND_BYTES - 64 * 1024  # something is wrapped around it


class Callbacks:
    """The app as a channel calls it. Actors wait for `serve_actors`; after `close` nothing is taken."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._actors_served = asyncio.Event()
        self._closed = False
        self._under_way = 0
        self._all_ended = asyncio.Event()

    @property
    def actor_types(self) -> Mapping[str, Sequence[str]]:
        """What the app hosts."""
        return self._app.actor_types

    def serve_actors(self) -> None:
        """Let actor calls through, those first that came early."""
        self._actors_served.set()

    async def close(self) -> None:
        """Refuse what comes from now on, and wait STOP_SECONDS at most for what is under way."""
        self._closed = True
        self._actors_served.set()
        if self._under_way:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._all_ended.wait(), STOP_SECONDS)

    async def topic(self, pubsub: str, topic: str, message: bytes) -> bool:
        """Give a message to the app; whether it may be acked."""
        if self._closed:
            return False
        with self._counted():
            try:
                return await self._app.on_topic(pubsub, topic, payload(message))
            except Exception as error:  # whatever it was, the message was not taken
                defect = None if isinstance(error, MeshError) else error
                logger.warning("a message on %s has to come again: %r", topic, error, exc_info=defect)
                return False

    async def turn(self, ref: ActorRef, method: str, body: bytes) -> bytes:
        """Run a turn for somebody who knows nothing of us: plain JSON, never empty, or what it raised."""
        await self._actors_served.wait()
        with self._counted():
            try:
                reply = await self._app.on_actor(ref, method, body or b"null") or b"null"
            except Exception as error:  # which its caller is told; a defect is known here too
                if not isinstance(error, MeshError):
                    logger.warning("%s.%s has a defect", ref, method, exc_info=error)
                raise
        if len(reply) > MAX_REPLY_BYTES:
            raise TooLarge(f"the reply of {ref}.{method} has {len(reply)} bytes, over {MAX_REPLY_BYTES}")
        return reply

    async def call(self, ref: ActorRef, method: str, body: bytes) -> bytes:
        """Run a turn for another of our hosts: the reply holds what it returned, or what it raised."""
        try:
            return encode_result(await self.turn(ref, method, body))
        except Exception as error:  # noqa: BLE001 - what a turn raises is its caller's, wherever that is
            return encode_error(error)

    async def reminder(self, ref: ActorRef, name: str) -> None:
        """Hand on the tick of a reminder."""
        await self._actors_served.wait()
        with self._counted():
            await self._app.on_reminder(ref, name)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        if self._closed:
            raise Draining("this worker is stopping", remedy="try again: another takes its place")
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1
            if self._closed and not self._under_way:
                self._all_ended.set()


def payload(message: bytes) -> bytes:
    """The data of a CloudEvent, or the whole of a message that is none."""
    if b'"specversion"' not in message or not message.lstrip().startswith(b"{"):
        return message
    try:
        match from_json(message):
            case {"specversion": _, "id": _, "source": _, "type": _, "data_base64": str(data)}:
                return base64.b64decode(data, validate=True)
            case {"specversion": _, "id": _, "source": _, "type": _, "data": data, **rest}:
                return data.encode() if isinstance(data, str) and _is_text(rest) else to_json(data)
    except ValueError:  # neither JSON nor base64 after all
        pass
    return message


def _is_text(attributes: Mapping[str, object]) -> bool:
    """Whether a string is the data itself, and not JSON that is a string."""
    return "json" not in str(attributes.get("datacontenttype", "json"))
