"""Places in the work of a task of a shop: its effects are written down, and a task stays where its text says.

A task names its place in its text: `hold=charge:after.` It stays there until the process is killed, if the
file `holds` exists.
"""

import asyncio
import os
from decimal import Decimal
from pathlib import Path

from meshwright import Task
from meshwright.core.money import Budget

FOLDER = Path(os.environ["SHOP_FOLDER"])
POOR = Budget(name="poor", scope="agent", of="poor", limit_usd=Decimal("0.03"), on_empty="ask")
"""Money for two calls."""
RICH = Budget(name="rich", scope="agent", of="deployed-rich", limit_usd=Decimal(10))


def note(task: Task, what: str) -> None:
    """Add a line to the effects, durably."""
    with (FOLDER / "effects").open("a") as file:
        file.write(f"{task.text}\t{what}\n")
        file.flush()
        os.fsync(file.fileno())


async def hold(task: Task, place: str) -> None:
    """Stay at a place, where the task wants to be held there."""
    if f"hold={place}." in task.text and (FOLDER / "holds").exists():
        note(task, "held")
        await asyncio.Event().wait()
