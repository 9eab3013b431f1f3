"""Push notifications: a task's updates by POST to the URLs that its clients have named, at least once.

An address of the courier is one configuration, so that it outlives kill -9, is retried for a day, and is
in order for each task.
"""

from __future__ import annotations

import asyncio
from typing import Any

from meshwright import Event
from meshwright.component import Caller, Forbidden, InvalidInput, Mesh, NotFound, Operations
from meshwright.core.encoding import encode
from meshwright.core.errors import TooLarge
from meshwright.core.task_events import TaskWaiting, WaitEnded
from meshwright.edges.outgoing_requests import HttpPool, Receivers, TryLater
from meshwright.edges.replies.courier import Address, Courier, LineSender, Undeliverable
from meshwright.engine.work.protocol import TaskKey
from meshwright.engine.work.record import TaskView
from meshwright.kit import derived_id
from meshwright.mesh.identity.rules import GET_OUTCOME
from meshwright.parts.a2a import wire
from meshwright.parts.a2a.errors import TASK_NOT_FOUND, ProtocolError
from meshwright.parts.a2a.settings import A2aSettings
from meshwright.parts.a2a.wire import Document

SCHEME = "a2a"
TOKEN_HEADER = "X-A2A-Notification-Token"
_TIMEOUT_SECONDS = 15.0
_LOOK_SECONDS = 1.0  # between two looks at a run that works beside its question
_GONE = 410
_FOR_PEOPLE = ("person", "money")


class UpdateAddress(Address, kw_only=True):
    """A configuration of a client; token and credentials are encrypted."""

    config_id: str
    task_id: str
    tenant_id: str
    requested_by: str
    roles: tuple[str, ...]
    base_url: str
    url: str
    token: str = ""
    scheme: str = ""
    credentials: str = ""

    @property
    def caller(self) -> Caller:
        """The client, as what it may see was when it named the URL."""
        roles = frozenset(self.roles)
        return Caller(tenant_id=self.tenant_id, requested_by=self.requested_by, roles=roles)

    def write(self) -> Document:
        """Returns it as the protocol has it, without its secrets."""
        document = {"id": self.config_id, "taskId": self.task_id, "url": self.url}
        return {**document, "authentication": {"scheme": self.scheme}} if self.scheme else document


class PushConfigs:
    """The configurations of one caller."""

    def __init__(self, operations: Operations, settings: A2aSettings, base_url: str) -> None:
        self._operations, self._settings, self._base_url = operations, settings, base_url
        self._caller, self._cipher = operations.caller, operations.mesh.cipher
        self._courier = operations.mesh.get(Courier)

    async def set(self, task_id: str, config: wire.PushConfig, *, is_new: bool = False) -> Document:
        """Name a URL for a task, which may be about to be made; durable when this returns.

        The outcome of a task that is not new, and has ended, is sent as well. Raises InvalidInput, Forbidden.
        """
        if config.url.startswith("http:") and not self._settings.push_networks:
            raise InvalidInput(
                "Notifications are pushed by https",
                remedy="Use https, or allow a private network with push_networks in [a2a] of mesh.toml",
                field="url",
            )
        if not is_new:
            GET_OUTCOME.check_task(self._caller, (await self._operations.see(task_id)).requested_by)
        config_id = config.id or derived_id(task_id, config.url)
        auth = config.authentication
        address = UpdateAddress(
            client=self._client(config_id),
            config_id=config_id,
            task_id=task_id,
            tenant_id=self._caller.tenant_id,
            requested_by=self._caller.requested_by,
            roles=tuple(sorted(self._caller.roles)),
            base_url=self._base_url,
            url=config.url,
            token=self._encrypt(config.token),
            scheme=auth.scheme if auth else "",
            credentials=self._encrypt(auth.credentials if auth else ""),
        )
        try:
            await self._courier.ask(
                SCHEME, self._key(task_id), address, may_have_ended=not is_new, replaces=True
            )
        except TooLarge as error:
            remedy = "Delete one of them, or follow the task by SubscribeToTask"
            raise InvalidInput(f"{error.message}: no more URLs", remedy=remedy, field="url") from None
        return address.write()

    async def find(self, task_id: str, config_id: str) -> UpdateAddress | None:
        """Returns a configuration; None where the caller has none of that id."""
        return next((one for one in await self._own(task_id) if one.config_id == config_id), None)

    async def get(self, task_id: str, config_id: str) -> Document:
        """Returns a configuration. Raises ProtocolError."""
        if (address := await self.find(task_id, config_id)) is None:
            problem = f"Task {task_id} has no push notification configuration {config_id!r}"
            raise ProtocolError(TASK_NOT_FOUND, problem, field="id")
        return address.write()

    async def find_all(self, task_id: str) -> list[Document]:
        """Returns those of a task, the oldest first."""
        return [address.write() for address in await self._own(task_id)]

    async def delete(self, task_id: str, config_id: str) -> None:
        """Forget a configuration: nothing more is sent, retries neither. Idempotent."""
        await self._courier.forget(SCHEME, self._key(task_id), self._client(config_id))

    async def _own(self, task_id: str) -> list[UpdateAddress]:
        stored = await self._courier.asked(SCHEME, self._key(task_id))
        own = self._caller.requested_by
        return [one for one in stored if isinstance(one, UpdateAddress) and one.requested_by == own]

    def _key(self, task_id: str) -> TaskKey:
        return TaskKey(self._caller.tenant_id, task_id)

    def _client(self, config_id: str) -> str:
        """Each configuration is a client of the courier, which bounds how many a task has."""
        return f"{self._caller.requested_by} {config_id}"

    def _encrypt(self, secret: str) -> str:
        return self._cipher.encrypt(secret) if secret else ""


class UpdateSender(LineSender[UpdateAddress]):
    """POSTs what has become of a task: that it works, its questions, and its end with all artifacts."""

    scheme = SCHEME
    kind = UpdateAddress
    scope = "a2a"

    def __init__(self, mesh: Mesh, settings: A2aSettings) -> None:
        self._mesh = mesh
        self._receivers = Receivers()
        self.http = HttpPool(timeout_seconds=_TIMEOUT_SECONDS, networks=settings.push_networks)

    def wants(self, event: Event) -> bool:
        """Whether a task begins to work, asks a person, or has got an answer."""
        wait = TaskWaiting.read(event) or WaitEnded.read(event)
        return event.event_type == "task.started" if wait is None else wait.kind in _FOR_PEOPLE

    def line(self, address: UpdateAddress) -> str:
        """The updates of a task arrive in order at each URL."""
        return f"{address.tenant_id} {address.task_id} {address.client}"

    async def tell(self, address: UpdateAddress, event: Event) -> None:
        """POST the status of the task. Raises Undeliverable, TryLater."""
        if event.task_id != address.task_id or not await self._is_set(address):
            return  # of a task that it delegated, or deleted meanwhile
        view, caller = await self._see(address), address.caller
        is_question = TaskWaiting.read(event) is not None
        while is_question and view.outcome is None and view.status != "waiting":
            if not wire.questions(view, caller):
                return
            await asyncio.sleep(_LOOK_SECONDS)  # no event says when the rest of the run waits too
            view = await self._see(address)
        asks = view.status == "waiting" and bool(wire.questions(view, caller))
        if view.outcome is None and asks == is_question:  # else the event of the question says it
            ids = {"taskId": view.task_id, "contextId": view.thread_id}
            await self._post(address, {"statusUpdate": {**ids, "status": wire.task_status(view, caller)}})

    async def send(self, address: UpdateAddress, document: bytes) -> None:
        """POST the task, which has ended. Raises Undeliverable, TryLater."""
        if await self._is_set(address):
            view = await self._see(address)
            task = wire.write_task(view, address.caller, address.base_url, history_length=0)
            await self._post(address, {"task": task})

    async def _is_set(self, address: UpdateAddress) -> bool:
        task = TaskKey(address.tenant_id, address.task_id)
        return address in await self._mesh.get(Courier).asked(SCHEME, task)

    async def _see(self, address: UpdateAddress) -> TaskView:
        try:
            return await Operations(self._mesh, address.caller).see(address.task_id)
        except (NotFound, Forbidden):
            raise Undeliverable("the task is not there any more") from None

    async def _post(self, address: UpdateAddress, update: Document) -> None:
        headers = {"Content-Type": "application/a2a+json", "A2A-Version": "1.0"}
        cipher, receivers = self._mesh.cipher, self._receivers
        if address.token:
            headers[TOKEN_HEADER] = cipher.decrypt(address.token)
        if address.credentials:
            headers["Authorization"] = f"{address.scheme} {cipher.decrypt(address.credentials)}"
        request: dict[str, Any] = {"data": encode(update), "headers": headers, "max_bytes": 0}
        with (
            receivers.sending(f"{address.tenant_id} {address.url}"),
            receivers.bounded(f"tenant {address.tenant_id}"),
        ):
            status = (await self.http.request("POST", address.url, **request)).status
            if status == _GONE:
                raise Undeliverable("the receiver answered 410: it wants no more")
            if not 200 <= status < 300:
                raise TryLater(f"the receiver answered {status}")
