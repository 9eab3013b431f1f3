"""A client of a mesh at a broker: publishes tasks over connections that may end, and takes outcomes."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from meshwright.core.messages import TaskRequest
from meshwright.edges.broker.connection import (
    JSON,
    BrokerAway,
    BrokerConnection,
    BrokerRefuses,
    MqttMessage,
    Publication,
    publish_or_raise,
)
from meshwright.edges.broker.dialer import BrokerDialer
from meshwright.edges.broker.topics import ANONYMOUS, Topics

_SESSION_SECONDS = 600
_ONLINE_SECONDS = 60.0
_RETRY_SECONDS = 1.0
_LOOK_SECONDS = 0.2
_MAX_CUTS = 5
"""Connections in a row that end before a message on them is acknowledged: that is no accident."""


@dataclass
class Submission:
    """A task that is published `times` times, each with its `key` if it has one."""

    number: int
    text: str
    """The text of its payload, which no other has."""
    request: TaskRequest
    key: str | None = None
    times: int = 1
    acknowledged: int = 0
    """How often the broker has acknowledged it."""
    unsure: int = 0
    """How often the connection ended before it did. Without a key it is not published once more then."""

    @property
    def is_sent(self) -> bool:
        """Whether nothing of it is left to publish."""
        return self.acknowledged + (self.unsure if self.key is None else 0) >= self.times

    @property
    def bounds(self) -> tuple[int, int]:
        """The least and most tasks that it may become."""
        if self.key is None:
            return self.acknowledged, self.acknowledged + self.unsure
        return min(1, self.acknowledged), 1


class Submitter:
    """Publishes submissions in order, as far as they are allowed."""

    def __init__(
        self, dialer: BrokerDialer, topics: Topics, marker: str, tasks: Iterable[Submission]
    ) -> None:
        """The topic `marker` retains "running", and "ended" once this process has ended."""
        self._dialer, self._topics, self._marker = dialer, topics, marker
        self._tasks = [*tasks]
        self._left = deque(self._tasks)
        self._replies = topics.replies_to(topics.submit)
        self._online, self._is_publishing = asyncio.Event(), False
        self.allowed = 0
        """Submissions with a smaller number may be published."""
        self.outcomes: dict[str, str] = {}
        """The status of each task whose outcome arrived, by its id."""
        self.repeated = 0
        """Outcomes that arrived again."""
        self.refusals: list[str] = []
        """A sentence on each message that the mesh refused."""
        self.problem = ""
        """The reason why it is not connected, or publishes no more; "" while neither is so."""
        self.has_given_up = False
        """Whether it publishes no more."""
        self.sessions_lost = 0
        """How often the broker had lost the session of this client."""

    @property
    def acknowledged(self) -> int:
        """The messages that the broker has acknowledged."""
        return sum(task.acknowledged for task in self._tasks)

    @asynccontextmanager
    async def publishing(self) -> AsyncIterator[None]:
        """Publish and take outcomes within a block, which begins once the mesh is online.

        Raises BrokerRefuses before the block; trouble within it is a `problem`.
        """
        running = asyncio.create_task(self._run(), name="mqtt-submitter")
        online = asyncio.create_task(self._online.wait())
        try:
            await asyncio.wait(
                [running, online], timeout=_ONLINE_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            if running.done():
                running.result()
            if not self._online.is_set():
                raise BrokerRefuses(
                    f"The mesh has not been online at {self._topics.status} for {_ONLINE_SECONDS:g} s",
                    remedy="Let its user publish there, and read what is retained",
                )
            yield
        finally:
            for task in (running, online):
                task.cancel()
            await asyncio.wait([running, online])

    async def _run(self) -> None:
        cuts = acknowledged = 0
        while cuts < _MAX_CUTS:
            try:
                connection = await self._dialer.open(
                    self._topics.client_id("client"),
                    self._take,
                    _SESSION_SECONDS,
                    will=Publication(self._marker, b"ended", retain=True),
                )
                try:
                    await self._begin(connection)
                    self.problem = ""
                    await self._publish(connection)
                finally:
                    await connection.close()
            except BrokerAway as error:
                is_refusal = isinstance(error, BrokerRefuses)
                if is_refusal and not self._online.is_set():
                    raise
                self.problem = error.message
                if self.acknowledged > acknowledged:
                    cuts, acknowledged = 0, self.acknowledged
                cuts += _MAX_CUTS if is_refusal else self._is_publishing
                if cuts == _MAX_CUTS and not is_refusal:
                    self.problem += f", {cuts} times before it had acknowledged a message"
                self._is_publishing = False
                await asyncio.sleep(_RETRY_SECONDS)
        self.has_given_up = True

    async def _begin(self, connection: BrokerConnection) -> None:
        connection.receive()
        self.sessions_lost += self._online.is_set() and not connection.session_present
        for name in (self._topics.status, f"{self._replies}#"):
            await connection.observe(name)
        await publish_or_raise(connection, Publication(self._marker, b"running", retain=True))

    async def _publish(self, connection: BrokerConnection) -> None:
        """Publish all that is left, as it is allowed, and wait for the end. Raises BrokerAway."""
        while self._left:
            task = self._left[0]
            if task.is_sent:
                self._left.popleft()
            elif task.number >= self.allowed:
                await connection.sleep(_LOOK_SECONDS)
            else:
                task.unsure += 1
                self._is_publishing = True
                await publish_or_raise(connection, self._publication(task))
                self._is_publishing = False
                task.unsure, task.acknowledged = task.unsure - 1, task.acknowledged + 1
        raise await connection.ended()

    def _publication(self, task: Submission) -> Publication:
        key = () if task.key is None else (("idempotency-key", task.key),)
        return Publication(
            self._topics.submit,
            task.request.model_dump_json(exclude_none=True).encode(),
            content_type=JSON,
            response_topic=f"{self._replies}{task.number}",
            user_properties=(("reply", "outcome"), *key),
        )

    def _take(self, connection: BrokerConnection, message: MqttMessage) -> None:
        connection.release()
        connection.acknowledge(message)
        document: Any = None
        with suppress(ValueError):
            document = json.loads(message.payload)
        if not isinstance(document, dict):
            return
        if message.topic == self._topics.status:
            if document.get("status") == "online":
                self._online.set()
        elif "task_id" not in document:
            self.refusals.append(f"a message of {ANONYMOUS} was refused: {document.get('detail')}")
        else:
            self.repeated += document["task_id"] in self.outcomes
            self.outcomes[document["task_id"]] = document["status"]
