"""Work waits while its store is away; everybody else gets an error at once and may ask again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import ParamSpec, TypeVar

from meshwright.core.errors import StoreUnavailable

RETRY_SECONDS = 0.25
ArgsT = ParamSpec("ArgsT")
ResultT = TypeVar("ResultT")
_IS_PATIENT: ContextVar[bool] = ContextVar("_IS_PATIENT", default=False)


def be_patient() -> None:
    """Let this asyncio task, and those that it starts, wait for a store that is away."""
    _IS_PATIENT.set(True)


def is_patient() -> bool:
    """Whether the code waits for a store that is away."""
    return _IS_PATIENT.get()


async def patiently(
    call: Callable[ArgsT, Awaitable[ResultT]], *args: ArgsT.args, **kwargs: ArgsT.kwargs
) -> ResultT:
    """Make a call that may be repeated; patient code repeats it until the store is back.

    Raises StoreUnavailable for other code.
    """
    while True:
        try:
            return await call(*args, **kwargs)
        except StoreUnavailable:
            if not is_patient():
                raise
        await asyncio.sleep(RETRY_SECONDS)
