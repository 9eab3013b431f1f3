"""A context made shorter by leaving out, never by rewording: what is kept stands in the original."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from meshwright.models.offline.passages import SENTENCE_END
from meshwright.models.offline.terms import centrality, relevance, terms

HEADER = re.compile(r"^([A-Z][A-Z_]{3,}):[ \t]*(.*)$")
LIMIT = re.compile(r"\b(?:under|below|at most|fewer than|no more than|within)\s+([\d,]{1,12})\s+tokens", re.I)
# Times, ids and scores that a context must not carry on.
LEAK = re.compile(
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d|\b1[5-9]\d{8}(?:\d{3})?\b"
    r"|\b[0-9A-HJKMNP-TV-Z]{26}\b|\b[0-9a-f]{8}-[0-9a-f]{4}-|\b(?=[0-9a-f]*\d)[0-9a-f]{12,}\b"
    r"|\b(?:created|updated|accessed|expires)_at\b|\btimestamp\s*[:=]"
    r"|\b(?:score|relevance|similarity|distance|confidence)\s*[:=]|\b\w+_(?:id|at)\s*[:=]",
    re.I,
)
KEPT_WHOLE = frozenset({"METADATA", "CONSTRAINTS", "KNOWN_FAILURES", "OPEN_QUESTIONS"})
HEADER_TOKENS = 8  # of a section that is not needed
MARKER = "- "
NEW_LINE = "\n"
TOPIC = "DOMAIN_CONTEXT"
OPTIONAL = frozenset({"RELEVANT_MEMORIES", "CONVERSATION_CONTEXT"})


@dataclass(frozen=True, slots=True)
class Unit:
    """An entry of a section, or one of its sentences: its list mark, the space before it, and its text."""

    section: str
    entry: int
    marker: str
    space: str
    text: str
    needed: bool = False


def shorten(text: str, max_tokens: int, count_tokens: Callable[[str], int]) -> str:
    """Shorten a context to a number of tokens, as far as its needed parts allow.

    METADATA, constraints, failures and questions stay whole, and the task keeps its first sentence. What
    else fits is kept by how much it has to do with the task, in the order of the original; of memories and
    conversation only what says no time, id or score.
    """
    units = list(units_of(text))
    scores = worth(units)
    kept = {place for place, unit in enumerate(units) if unit.needed}
    left = max_tokens - count_tokens(written(units, kept)) - len(OPTIONAL) * HEADER_TOKENS
    for place in sorted(set(range(len(units))) - kept, key=lambda place: (-scores[place], place)):
        cost = count_tokens(units[place].text) + 1
        if cost <= left:
            kept.add(place)
            left -= cost
    return written(units, kept)


def units_of(text: str) -> Iterator[Unit]:
    """Cut a context into what can be kept or left out."""
    seen: set[str] = set()
    for number, (section, entry) in enumerate(entries_of(text)):
        if section in OPTIONAL and LEAK.search(entry):
            continue
        whole = section in KEPT_WHOLE or (number == 0 and not section)
        text = entry.removeprefix(MARKER)
        marker = MARKER if text != entry else ""
        for space, sentence in [("", text)] if whole else sentences(text):
            needed = whole or (section not in OPTIONAL and section not in seen)
            yield Unit(section, number, marker, space, sentence, needed)
            seen.add(section)


def sentences(text: str) -> Iterator[tuple[str, str]]:
    """The sentences of a text, each with the white space before it."""
    space, start = "", 0
    for end in SENTENCE_END.finditer(text):
        yield space, text[start : end.start()]
        space, start = end[0], end.end()
    yield space, text[start:]


def entries_of(text: str) -> Iterator[tuple[str, str]]:
    """The entries of each section, with their indented lines."""
    section = ""
    held: list[str] = []
    for line in text.splitlines():
        header = HEADER.match(line)
        if held and (header or not line.startswith((" ", "\t"))):
            yield section, "\n".join(held)
            held.clear()
        if header:
            section = header[1]
            held.extend([header[2]] if header[2] else [])
        elif line.strip():
            held.append(line)
    if held:
        yield section, "\n".join(held)


def worth(units: Sequence[Unit]) -> list[float]:
    """How much each unit has to do with the task; without a task, with all the others."""
    texts = [terms(unit.text) for unit in units]
    task = terms(" ".join(unit.text for unit in units if unit.section == TOPIC))
    return relevance(texts, task) if task else centrality(texts)


def written(units: Sequence[Unit], kept: set[int]) -> str:
    """The kept units as a text again."""
    lines: list[str] = []
    section, entry = "", -1
    for place in sorted(kept):
        unit = units[place]
        if unit.section != section:
            lines += [NEW_LINE, f"{unit.section}:"]
        if unit.entry == entry:
            lines += [unit.space, unit.text]
        else:
            lines += [NEW_LINE, unit.marker, unit.text]
        section, entry = unit.section, unit.entry
    return "".join(lines).removeprefix(NEW_LINE)


def limit_in(instructions: str, default: int) -> int:
    """The tokens that the instructions allow, or the default."""
    limits = [int(digits.replace(",", "") or 0) for digits in LIMIT.findall(instructions)]
    return min([default, *(limit for limit in limits if limit > 0)])
