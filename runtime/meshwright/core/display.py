"""How things read: the columns and the verbs of things that parts keep, and values as text.

Routes, client and commands follow from one `Resource`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

Document = dict[str, Any]
"""One JSON object, as the HTTP API sends it."""
MORE = "…"
"""Stands for text that is cut."""
MAX_TEXT = 200
"""The characters that are shown of a text by a model, a tool or a person."""
_SHORT_ID = 6
_MAX_DIGITS = 30  # of an amount


_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0d\ufeff\uffa0\ufff0-\ufffb\ud800-\udfff\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
    # The form of an emoji, but of nothing else.
    "|(?<![\xa9\xae\u203c\u2049\u2122\u2139\u2194-\u21aa\u231a-\u23ff\u24c2\u25aa-\u27bf\u2934-\u2b55\u3030\u303d"
    "\u3297\u3299\U0001f000-\U0001faff])[\ufe0e\ufe0f]"
)


def visible(text: str) -> str:
    """The text with escapes such as `\\u202e` for all that is unseen, or shows the rest in another order.

    Lines and tabs stay. The page does the same (`unseen.js`).
    """
    return _UNSEEN.sub(lambda match: _escape(match[0]), text)


def printable(text: str) -> str:
    """The text on one line, with escapes for invisible characters and terminal controls."""
    return "".join(
        character if character.isprintable() else " " if character.isspace() else _escape(character)
        for character in visible(text)
    )


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def short(text: Any) -> str:
    """The beginning of a text that somebody else wrote, on one line."""
    line = " ".join(printable(str(text)).split())
    return line if len(line) <= MAX_TEXT else f"{line[: MAX_TEXT - 1]}{MORE}"


def short_id(task_id: Any) -> str:
    """The end of an id: tasks of the same minutes begin alike."""
    text = str(task_id)
    return f"{MORE}{text[-_SHORT_ID:]}" if len(text) > _SHORT_ID + 4 else text


def seconds(duration_ms: Any) -> str:
    """A duration: `0.58 s`."""
    return f"{(duration_ms or 0) / 1000:.2f} s"


def dollars(cost_usd: Any) -> str:
    """A cost: `$0`, `$0.0012`, or `$?` if the price is unknown."""
    if cost_usd is None:
        return "$?"
    cost = Decimal(str(cost_usd))
    if not cost.is_finite() or abs(cost.adjusted()) > _MAX_DIGITS:
        return f"${cost}"  # as it is: written out it could have gigabytes
    return "$0" if not cost else f"${cost:.4f}" if cost >= Decimal("0.0001") else "<$0.0001"


def tokens(usage: Any) -> str:
    """The tokens that a model read and wrote: `612 + 40 tokens`."""
    usage = usage or {}
    return f"{usage.get('prompt_tokens', 0):,} + {usage.get('completion_tokens', 0):,} tokens"


def number(value: Any) -> str:
    """A number without needless digits."""
    return f"{value:.3g}" if isinstance(value, (int, float)) else str(value)


def local_time(text: str | None, zone: str | None = None) -> str:
    """An RFC 3339 time as `2026-11-20 09:31:02+01:00`, in the zone of that name or in this machine's."""
    if not text:
        return ""
    from zoneinfo import ZoneInfo  # takes 2 ms, and few commands show a time

    return datetime.fromisoformat(text).astimezone(ZoneInfo(zone) if zone else None).isoformat(" ", "seconds")


def time_of_day(text: str) -> str:
    """An RFC 3339 time as `09:31:02+01` in this machine's zone, for lines without room for the date."""
    return local_time(text)[11:].removesuffix(":00")  # few zones differ by parts of an hour


def duration(time: timedelta) -> str:
    """A length of time in one or two words: `40 s`, `3 min`, `2 h`, `5 d`."""
    seconds = max(0, int(time.total_seconds()))
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def age(since: str | None) -> str:
    """The time since then: `3 min`."""
    return duration(datetime.now(UTC) - datetime.fromisoformat(since)) if since else ""


def ahead(time: str | datetime | None) -> str:
    """The time until then: `in 40 s`, or `now`; "" for no time."""
    if time is None:
        return ""
    remaining = (datetime.fromisoformat(time) if isinstance(time, str) else time) - datetime.now(UTC)
    return f"in {duration(remaining)}" if remaining.total_seconds() > 0 else "now"


def next_try(time: str | datetime | None) -> str:
    """The time until a deployment gets calls again: `in 40 s`; once that is over, the next call tries it."""
    text = ahead(time)
    return "at the next call" if text == "now" else text


def or_never(text: str | None) -> str:
    """A time of something that may not have happened yet."""
    return local_time(text) or "never"


def file_line(file: Mapping[str, Any]) -> str:
    """A file in a few words: `chart.png (image/png, 12,345 bytes)`."""
    size = file.get("size")
    about = f"{size:,} bytes" if isinstance(size, int) else str(file.get("url") or "elsewhere")
    return printable(f"{file.get('name')} ({file.get('media_type')}, {about})")


def join(parts: Sequence[object]) -> str:
    """Those parts of a line that say something."""
    return "  ".join(str(part) for part in parts if part)


def score(card: Any) -> str:
    """A score with its factors: `score 1.05 = weight 1 x health 1 x success 1 x preferred 1.05`."""
    if not isinstance(card, dict) or "score" not in card:
        return ""
    always = [name for name in ("weight", "health", "success") if name in card]
    boosts = [name for name in ("streak", "preferred") if card.get(name, 1) != 1]
    factors = " x ".join(f"{name} {number(card[name])}" for name in [*always, *boosts])
    return f"score {number(card['score'])}" + (f" = {factors}" if factors else "")


def finish(reason: Any) -> str:
    """Why a model's reply ended, if it did not end by itself: `ended by length`."""
    if reason == "unknown":
        return "its provider did not say why it ended"
    return f"ended by {short(reason)}" if reason not in (None, "stop") else ""


def fault(error: Any) -> str:
    """An error with its type: `ToolFailed: no such file`."""
    if isinstance(error, dict):
        return short(f"{error.get('type', 'error')}: {error.get('message', '')}")
    if hasattr(error, "message"):
        return short(f"{error.type or 'error'}: {error.message}")
    return short(error or "")


Need = Literal["log", "state", "change", "work"]
"""The need of a command for a mesh that does not run.

To read its `log`, or also the `state` of tasks, budgets and keys: no code of the folder runs. To `change`
something: the agents are loaded, and what waits for them stays untouched. That they `work`.
"""
_MIN_COLUMN = 8  # characters that a shortened column keeps


def _written(value: object) -> str:
    return str(value or "")


class Column(NamedTuple):
    """One column of a table.

    A terminal shows no column without text. On a narrow one, columns are shortened in the order of `cut`, the
    last column after them; if that is not enough, columns are left out in the same order, except the first
    and the one with the highest number.
    """

    head: str
    """The heading."""
    field: str = ""
    """The field of each item that it shows. "": the whole item."""
    write: Callable[[Any], str] = _written
    """Renders the value as text."""
    cut: int = 0
    """The place in the order in which columns are shortened, from 1. 0: it keeps its width."""
    from_end: bool = False
    """Whether it is shortened at its beginning, so that its end stays."""
    least: int = _MIN_COLUMN
    """The characters that it keeps when it is shortened."""

    def cell(self, item: Document) -> str:
        """The text of an item."""
        return printable(self.write(item.get(self.field) if self.field else item))


def _always(answer: Document) -> bool:
    return True


@dataclass(frozen=True)
class Verb:
    """A command on one thing: a request, and the sentence that reports its answer."""

    name: str
    """The name of the command: `mesh RESOURCE NAME ID`."""
    help: str
    """Its line in the help."""
    says: Callable[[Document], str] | None = None
    """Renders the answer as a sentence; the answer has the id as `id`. None: it is printed as JSON."""
    method: str = "POST"
    """The HTTP method of the request."""
    path: str = ""
    """The path below that of the thing, such as `/pause`."""
    hides: Sequence[str] = ()
    """Fields that are left out where the answer is printed as JSON."""
    succeeded: Callable[[Document], bool] = _always
    """Whether an answer is a success. If not, the exit status is 1."""


@dataclass(frozen=True)
class Resource:
    """Things of one kind, which a route lists: commands and client follow from this description."""

    name: str
    """The name: `client.resource(NAME)`, and `mesh NAME` unless `command` is set."""
    path: str
    """The path of their list. With an id after it, it is the path of one of them."""
    columns: Sequence[Column]
    """The columns of the table that `list` prints."""
    help: str
    """The help of the group of their commands."""
    empty: str
    """The sentence that is printed in place of a table without rows."""
    lists: str = ""
    """The help of the command `list`. "": it follows from the name."""
    command: str = ""
    """The name of the group of commands. "": `name`."""
    id: str = "ID"
    """The name of an id in the help, such as `PERSON`."""
    need: Need = "state"
    """The need of the commands for a mesh that does not run."""
    verbs: Sequence[Verb] = ()
    """Commands on one of them."""

    def item_path(self, name: str) -> str:
        """The path of one of them."""
        return f"{self.path}/{quote(name, safe='')}"


def left_out_text(tools: Mapping[str, str]) -> str:
    """The end of a sentence that names tools which are left out, with their reasons; "" if there are none."""
    return f"; left out: {', '.join(f'{name} ({reason})' for name, reason in tools.items())}" if tools else ""


def result_text(result: Mapping[str, Any]) -> str:
    """Returns the `text` of a result or a payload; without one all of it as JSON."""
    text = result.get("text")
    return text if isinstance(text, str) else as_text(result)


def as_text(value: Any) -> str:
    """Returns a text as it is, and any other value as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
