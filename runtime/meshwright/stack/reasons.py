"""Why a program of the stack ended, from the last lines that it said."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

MAX_TEXT = 300


class Reason(NamedTuple):
    """What went wrong, and what to do where that is known."""

    text: str
    remedy: str = ""


def reason_of(tail: Sequence[str]) -> Reason:
    """The line that tells most: the last that is an error, else the last."""
    errors = [
        line for line in tail if re.search(r"level=(error|fatal)|\berror\b|\bfatal\b", line, re.IGNORECASE)
    ]
    line = (errors or list(tail) or [""])[-1]
    message = re.search(r'msg="((?:[^"\\]|\\.)*)"', line)
    return Reason(" ".join((message[1] if message else line).split())[:MAX_TEXT])
