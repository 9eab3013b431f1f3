"""The personas: each decides from the conversation alone, so that a process may die at any time.

A persona is a function of the conversation. It asks for the tools of `world.py`, whose results say how far
the work is, and ends with a sentence that holds what only the results can have told it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.support.simulator.conversation import Conversation


@dataclass(frozen=True)
class Ask:
    """One call of a tool."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """What a persona says: a text, or tools that it wants."""

    text: str = ""
    asks: tuple[Ask, ...] = ()


Persona = Callable[[Conversation], Reply]
_WORK = re.compile(r"work item ([\w-]+)")


def fixer(told: Conversation) -> Reply:
    """Edits, runs the tests, fixes the next, until all pass."""
    item = _item(told)
    newest = told.last[-1] if told.last else None
    if newest is None or newest.name == "edit_file":
        return Reply(asks=(Ask("run_tests", {"project": item}),))
    if failing := re.search(r"(\d+) failing, first (test_\d+)", newest.text):
        path = f"src/{failing[2].removeprefix('test_')}.py"
        return Reply(
            asks=(Ask("edit_file", {"project": item, "path": path, "text": f"fixed for {failing[2]}"}),)
        )
    if passed := re.search(r"all (\d+) tests pass", newest.text):
        return Reply(f"Done: all {passed[1]} tests of {item} pass.")
    return Reply(asks=(Ask("run_tests", {"project": item}),))  # a tool that failed: look again


def poller(told: Conversation) -> Reply:
    """Looks at a service until it is healthy, with the same call each time."""
    item = _item(told)
    if told.last and (healthy := re.search(r"healthy since look (\d+)", told.last[-1].text)):
        return Reply(f"Done: {item} is healthy since look {healthy[1]}.")
    return Reply(asks=(Ask("check_health", {"service": item}),))


def researcher(told: Conversation) -> Reply:
    """Searches five times at once, and again for what failed."""
    item = _item(told)
    found = {r.arguments.get("query"): m[1] for r in told.results if (m := re.search(r"fact (\w+)", r.text))}
    queries = [f"{item} question {n}" for n in range(1, 6)]
    if missing := [query for query in queries if query not in found]:
        return Reply(asks=tuple(Ask("search", {"query": query}) for query in missing))
    return Reply(f"Done: {item} is {', '.join(found[query] for query in queries)}.")


def reader(told: Conversation) -> Reply:
    """Answers with each `secret-word-*` of the request, which only a whole payload has."""
    words = sorted(set(re.findall(r"secret-word-\w+", told.text)))
    return Reply(f"Done: {_item(told)} says {' '.join(words)}.")


PERSONAS: dict[str, Persona] = {
    "fixer": fixer,
    "poller": poller,
    "researcher": researcher,
    "reader": reader,
}


def _item(told: Conversation) -> str:
    """The work that it is about, which stands in the request: without it nobody could know."""
    found = _WORK.search(told.text)
    return found[1] if found else "nothing"


def arguments_of(ask: Ask) -> str:
    """The arguments as the model writes them."""
    return json.dumps(ask.arguments)
