"""The personas: each decides from the conversation alone, so that a process may die at any time.

A persona is a function of the conversation. It asks for the tools of `world.py`, whose results say how far
the work is, and ends with a sentence that holds what only the results can have told it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.support.simulator.conversation import Conversation, ToolResult


@dataclass(frozen=True)
class Ask:
    """One call of a tool."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    text: str = ""
    asks: tuple[Ask, ...] = ()
    pictures: tuple[str, ...] = ()


Persona = Callable[[Conversation], Reply]
_WORK = re.compile(r"work item ([\w-]+)")
_WORKED = {
    "edit_file": re.compile("characters written"),
    "run_tests": re.compile("failing, first|tests pass"),
    "check_health": re.compile("starting|healthy"),
    "search": re.compile("fact "),
}


def fixer(told: Conversation) -> Reply:
    """Edits, runs the tests, fixes the next, until all pass."""
    item, newest = item_of(told), _newest(told)
    if newest is None or newest.name != "run_tests":
        return Reply(asks=(Ask("run_tests", {"project": item}),))
    if failing := re.search(r"failing, first (test_\d+)", newest.text):
        path = f"src/{failing[1].removeprefix('test_')}.py"
        return Reply(
            asks=(Ask("edit_file", {"project": item, "path": path, "text": f"fixed for {failing[1]}"}),)
        )
    return Reply(f"Done: {newest.text.removesuffix(' pass')} of {item} pass.")


def poller(told: Conversation) -> Reply:
    """Looks at a service until it is healthy, with the same call each time."""
    item, newest = item_of(told), _newest(told)
    if newest is not None and (healthy := re.search(r"healthy since look \d+", newest.text)):
        return Reply(f"Done: {item} is {healthy[0]}.")
    return Reply(asks=(Ask("check_health", {"service": item}),))


def researcher(told: Conversation) -> Reply:
    """Searches five times at once, and again for what failed."""
    item = item_of(told)
    found = {r.arguments.get("query"): m[1] for r in told.results if (m := re.search(r"fact (\w+)", r.text))}
    if missing := [ask for ask in _searches(item) if ask.arguments["query"] not in found]:
        return Reply(asks=tuple(missing))
    return Reply(f"Done: {item} is {', '.join(found[ask.arguments['query']] for ask in _searches(item))}.")


def releaser(told: Conversation) -> Reply:
    """Searches five times at once, edits and tests until all pass, then looks until it is healthy."""
    item, newest = item_of(told), _newest(told)
    if newest is None or (newest.name == "search" and researcher(told).asks):
        return researcher(told)
    if newest.name in ("search", "edit_file") or "failing" in newest.text:
        return fixer(told)
    if healthy := re.search(r"healthy since look \d+", newest.text):
        tests = re.findall(r"all \d+ tests", "".join(told.pieces))
        return Reply(f"Done: {tests[-1] if tests else 'what'} of {item} pass, {healthy[0]}.")
    return Reply(asks=(Ask("check_health", {"service": item}),))


def reader(told: Conversation) -> Reply:
    """Answers with each `secret-word-*` of the request, which only a whole payload has."""
    words = sorted(set(re.findall(r"secret-word-\w+", told.text)))
    return Reply(f"Done: {item_of(told)} says {' '.join(words)}.")


def painter(told: Conversation) -> Reply:
    """Looks at a photograph, if it can take one, and paints what it saw last: the very same picture."""
    item = item_of(told)
    if "photograph" in told.tools and not told.results:
        return Reply(asks=(Ask("photograph", {"subject": item}),))
    seen = [f" after {picture_id(picture)}" for picture in told.pictures[-1:]]
    return Reply(f"Done: {item} is painted{''.join(seen)}.", pictures=tuple(told.pictures[-1:]))


def buyer(told: Conversation) -> Reply:
    """Charges a card once, then ships until the order is on its way."""
    item, called = item_of(told), {result.name for result in told.results}
    if "charge" not in called:
        return Reply(asks=(Ask("charge", {"order": item}),))
    if shipped := [result.text for result in told.results if result.text.startswith("shipped")]:
        return Reply(f"Done: {item} is {shipped[-1]}.")
    return Reply("Not shipped.") if "ship" in called else Reply(asks=(Ask("ship", {"order": item}),))


PERSONAS: dict[str, Persona] = {
    "fixer": fixer,
    "poller": poller,
    "researcher": researcher,
    "releaser": releaser,
    "reader": reader,
    "painter": painter,
    "buyer": buyer,
}


def decide(persona: str, told: Conversation) -> Reply:
    reply = PERSONAS[persona](told)
    if all(ask.name in told.tools for ask in reply.asks):
        return reply
    known = {result.name: result.text[:80] for result in told.results}
    return Reply(f"Notes on work item {item_of(told)}: {'; '.join(known.values())}")


def _newest(told: Conversation) -> ToolResult | None:
    """The newest result of a call that was right; a persona tries again what went wrong."""
    worked = (
        result
        for result in reversed(told.results)
        if result.name in _WORKED and _WORKED[result.name].search(result.text)
    )
    return next(worked, None)


def _searches(item: str) -> tuple[Ask, ...]:
    return tuple(Ask("search", {"query": f"{item} question {number}"}) for number in range(1, 6))


def item_of(told: Conversation) -> str:
    """The work that it is about, which stands in the request: without it nobody could know."""
    found = _WORK.search(told.text)
    return found[1] if found else "nothing"


def picture_id(picture: str) -> str:
    return hashlib.sha256(base64.b64decode(picture)).hexdigest()[:12]


def arguments_of(ask: Ask) -> str:
    """The arguments as the model writes them."""
    return json.dumps(ask.arguments)
