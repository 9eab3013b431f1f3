"""Deliveries: messages into the mailboxes of cells that live here, or through Dapr to where they live."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, get_type_hints

from pydantic import TypeAdapter

from meshwright.clock import Clock
from meshwright.envelope import ActorRef, Message
from meshwright.errors import MailboxFull, NotFound
from meshwright.host import dead_letter
from meshwright.hosts.dapr.cells import Cell, Cells, Delivery
from meshwright.hosts.dapr.channels.replies import CALL, DELIVER, decode_reply
from meshwright.hosts.dapr.executor import Executor, refuse
from meshwright.hosts.dapr.futures import ENDED
from meshwright.hosts.dapr.sidecar import Sidecar
from meshwright.messages import Event
from meshwright.turns import ActorKind


class Deliveries:
    """Gives messages to actors. `elsewhere` are the kinds that live in other apps."""

    def __init__(
        self,
        cells: Cells,
        executor: Executor,
        sidecar: Sidecar,
        clock: Clock,
        *,
        max_mailbox: int,
        begin: Callable[[Coroutine[Any, Any, None], str], object],
        emit: Callable[[Sequence[Event]], Awaitable[None]],
    ) -> None:
        self.elsewhere: dict[str, ActorKind] = {}
        self._cells = cells
        self._executor = executor
        self._sidecar = sidecar
        self._clock = clock
        self._max_mailbox = max_mailbox
        self._begin = begin
        self._emit = emit
        self._returns: dict[tuple[str, str], TypeAdapter[Any]] = {}

    def kind(self, ref: ActorRef) -> ActorKind:
        """The actor's kind, wherever it lives. Raises NotFound."""
        kind = self._cells.kinds.get(ref.type) or self.elsewhere.get(ref.type)
        if kind is None:
            raise NotFound(f"no actor type {ref.type!r} is registered", field="type")
        return kind

    async def call(self, message: Message) -> Any:
        """Run a turn and return its reply, in the shape that the turn declares."""
        if message.to.type in self._cells.kinds:
            return await self.put(message, is_call=True)
        adapter = self._returned(self.kind(message.to), message.method)
        reply = await self._sidecar.invoke(message.to, CALL, message.encode())
        return adapter.validate_python(decode_reply(reply))

    async def deliver(self, message: Message) -> None:
        """Give a message that may come again to its actor; one that nobody can take is recorded."""
        try:
            self.kind(message.to)
        except NotFound as error:
            await self._emit([dead_letter(message, error, self._clock.now())])
            return
        if message.to.type in self._cells.kinds:
            await self.put(message, once=True)
        else:
            decode_reply(await self._sidecar.invoke(message.to, DELIVER, message.encode()))

    def put(
        self, message: Message, *, once: bool = False, alarm: bool = False, is_call: bool = False
    ) -> asyncio.Future[Any]:
        """Put a message into the mailbox of an actor that lives here; await what comes of it.

        Raises MailboxFull, NotFound.
        """
        loop = asyncio.get_running_loop()
        cell = self._cells.find(message.to, loop.time())
        if len(cell.mailbox) >= self._max_mailbox:
            raise MailboxFull(
                f"{cell.ref} has {len(cell.mailbox)} messages waiting", remedy="try again in a moment"
            )
        reply: asyncio.Future[Any] = loop.create_future()
        cell.mailbox.append(Delivery(message, reply, once, alarm, is_call))
        if not cell.working:
            cell.working = True
            self._begin(self._work(cell), "turns")
        return reply

    def refuse_all(self) -> None:
        """Tell whoever waits that the host has ended."""
        for cell in self._cells:
            refuse(cell.mailbox, ENDED)

    async def _work(self, cell: Cell) -> None:
        try:
            await self._executor.run(cell)
        finally:
            cell.working = False

    def _returned(self, kind: ActorKind, method: str) -> TypeAdapter[Any]:
        known = self._returns.get((kind.type, method))
        if known is None:
            declared = kind.methods.get(method)
            hint = get_type_hints(declared.call).get("return", Any) if declared else Any
            known = self._returns[kind.type, method] = TypeAdapter(hint)
        return known
