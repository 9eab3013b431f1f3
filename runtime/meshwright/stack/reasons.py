"""Why a program of the stack ended, from the last lines that it said."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

MAX_TEXT = 300
IS_ERROR = re.compile(r"level=(error|fatal)|\b(error|fatal)\b", re.IGNORECASE)
MESSAGE = re.compile(r'msg="((?:[^"\\]|\\.)*)"')
COMPONENT = re.compile(
    r"process component (\w+) error: .*initialization error occurred for \S+ \(\S+\): (.*)"
)
REMEDIES = {
    "connection to broker": "see whether the MQTT broker of MESH_BROKER_URL runs and lets this user in",
    "connecting to redis": "see whether the Redis of MESH_REDIS_HOST runs and takes MESH_REDIS_PASSWORD",
    "actor state store": "one state store has to have actorStateStore set to true",
}
"""What to do about it, by words of the message."""


class Reason(NamedTuple):
    """What went wrong, and what to do where that is known."""

    text: str
    remedy: str = ""


def reason_of(tail: Sequence[str], where: Callable[[str, str], str] | None = None) -> Reason:
    """What the line says that tells most: the last that is an error, else the last.

    `where` gives the place of a component, by its name and what daprd has against it.
    """
    errors = [line for line in tail if IS_ERROR.search(line)]
    line = (errors or [*tail] or [""])[-1]
    message = MESSAGE.search(line)
    text = " ".join((message[1].replace("\\n", " ").replace('\\"', '"') if message else line).split())
    remedy = next((remedy for words, remedy in REMEDIES.items() if words in text), "")
    refused = COMPONENT.search(text)
    if refused and where:
        text = f"{where(refused[1], refused[2])}: {refused[2]}"
    return Reason(text[:MAX_TEXT], remedy)
