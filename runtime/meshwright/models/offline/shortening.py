"""A context made shorter by leaving out, never by rewording: what is kept stands in the original."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from meshwright.models.offline.passages import SENTENCE_END
from meshwright.models.offline.terms import centrality, relevance, terms

HEADER = re.compile(r"^([A-Z][A-Z_]{3,}):[ \t]*(.*)$")
LIMIT = re.compile(r"\b(?:under|below|at most|fewer than|no more than|within)\s+([\d,]+)\s+tokens", re.I)
# Times, ids and scores that a context must not carry on.
LEAK = re.compile(
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d|\b1[5-9]\d{8}(?:\d{3})?\b"
    r"|\b[0-9A-HJKMNP-TV-Z]{26}\b|\b[0-9a-f]{8}-[0-9a-f]{4}-|\b(?=[0-9a-f]*\d)[0-9a-f]{12,}\b"
    r"|\b(?:score|relevance|similarity|distance|confidence)\s*[:=]|\b\w+_(?:id|at)\s*[:=]",
    re.I,
)
KEPT_WHOLE = frozenset({"METADATA", "CONSTRAINTS"})
TOPIC = "DOMAIN_CONTEXT"
OPTIONAL = frozenset({"RELEVANT_MEMORIES", "CONVERSATION_CONTEXT"})


@dataclass(frozen=True, slots=True)
class Unit:
    """An entry of a section, or one of its sentences."""

    section: str
    entry: int
    text: str
    needed: bool = False


def shorten(text: str, max_tokens: int, count_tokens: Callable[[str], int]) -> str:
    """Shorten a context to a number of tokens, as far as its needed parts allow.

    METADATA and CONSTRAINTS stay whole, and every section keeps its first sentence; memories and
    conversation only as far as they say no time, id or score. What else fits is kept by how much it has
    to do with the task, in the order of the original.
    """
    units = list(units_of(text))
    scores = worth(units)
    kept = {place for place, unit in enumerate(units) if unit.needed}
    for place in sorted(range(len(units)), key=lambda place: -scores[place]):
        if place not in kept and count_tokens(written(units, kept | {place})) <= max_tokens:
            kept.add(place)
    return written(units, kept)


def units_of(text: str) -> Iterator[Unit]:
    """Cut a context into what can be kept or left out."""
    seen: set[str] = set()
    for number, (section, entry) in enumerate(entries_of(text)):
        if section in OPTIONAL and LEAK.search(entry):
            continue
        whole = section in KEPT_WHOLE or (number == 0 and not section)
        for sentence in [entry] if whole else SENTENCE_END.split(entry):
            yield Unit(section, number, sentence, whole or (section not in OPTIONAL and section not in seen))
            seen.add(section)


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
            lines.append(f"{unit.section}:")
        if unit.entry == entry:
            lines[-1] += f" {unit.text}"
        else:
            lines.append(unit.text)
        section, entry = unit.section, unit.entry
    return "\n".join(lines)


def limit_in(instructions: str, default: int) -> int:
    """The tokens that the instructions allow, or the default."""
    limits = [int(each.replace(",", "")) for each in LIMIT.findall(instructions)]
    return min([default, *(limit for limit in limits if limit > 0)])
