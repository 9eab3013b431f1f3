"""Has tasks that wait for money, or for a provider, try again at once."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from meshwright.core.errors import NotFound
from meshwright.events.log import EventLog
from meshwright.events.status import waits_for
from meshwright.kernel.runtime import Runtime
from meshwright.work import Answer
from meshwright.work.protocol import WaitKind
from meshwright.work.reading import read_task, thread_ref

_AT_ONCE = 100  # their turns share commits


async def wake_waiting(host: Runtime, log: EventLog, kind: WaitKind) -> None:
    """Wake each task that waits for such: the most urgent first, then the longest waiting."""

    async def wake(tenant_id: str, task_id: str, key: str) -> None:
        with suppress(NotFound):  # a task of long ago
            record, task = await read_task(host, task_id, tenant_id)
            if (thread := thread_ref(record, task)) is not None:
                await host.call(thread, "resume", Answer(task_id=task_id, key=key, value=None))

    waits = await log.view(waits_for, kind)
    for start in range(0, len(waits), _AT_ONCE):
        await asyncio.gather(*[wake(*wait) for wait in waits[start : start + _AT_ONCE]])
