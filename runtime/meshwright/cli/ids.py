"""Ids as people type them: whole, or any end or beginning that only one of them has."""

from __future__ import annotations

import re
from collections.abc import Iterable

from meshwright.cli.client import MeshClient
from meshwright.errors import InvalidInput

WHOLE = re.compile(r"[0-9A-HJKMNP-TV-Z]{26}")  # an id that the mesh made
SHOWN = 5


async def task_id_of(mesh: MeshClient, given: str) -> str:
    """The id of the task that is meant. Raises InvalidInput where several are.

    One that nothing fits is returned as it is: the mesh says that it does not know it.
    """
    if WHOLE.fullmatch(given):
        return given
    found = await mesh.tasks(status=None, capability=None, limit=SHOWN + 1, task_id=given)
    return meant(given, (task["task_id"] for task in found), "task")


async def wait_key_of(mesh: MeshClient, task_id: str, given: str) -> str:
    """The key under which a task waits that is meant. Raises InvalidInput where several are."""
    asked = await mesh.events(100, task_id=task_id, event_type="task.waiting")
    return meant(given, (str(event["payload"].get("key") or "") for event in asked), "key")


def meant(given: str, known: Iterable[str], what: str) -> str:
    """The one of the known ids that is, begins or ends so. Raises InvalidInput where several do."""
    fitting = list(dict.fromkeys(name for name in known if name.startswith(given) or name.endswith(given)))
    if given in fitting or not fitting:
        return given
    if len(fitting) > 1:
        more = ", ..." if len(fitting) > SHOWN else ""
        raise InvalidInput(
            f"{given!r} fits several ids of a {what}: {', '.join(fitting[:SHOWN])}{more}",
            remedy="give more of it",
            field=f"{what}_id",
        )
    return fitting[0]
