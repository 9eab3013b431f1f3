"""An answer made of quotations: the passages that fit the question best, each with where it stands."""

from __future__ import annotations

import re
from collections.abc import Sequence
from heapq import nlargest
from itertools import count

from meshwright.models.offline.kit import purpose_of
from meshwright.models.offline.passages import Passage, file_weight, quote, record_line
from meshwright.models.offline.planning import MATERIAL, settles
from meshwright.models.offline.talk import Result, Talk
from meshwright.models.offline.terms import centrality, coverage, relevance, telling_words

MAX_POINTS = 5
MAX_CANDIDATES = 100  # passages that are compared with one another
MAX_RECORDS = 10
MIN_SHARE = 0.3  # of the best passage's score, for another to be quoted beside it
MIN_COVERAGE = 0.25  # of the question's terms, for a passage to be quoted
MAX_OVERLAP = 0.7  # of the words of a passage with one that is quoted already
NUMBERS = {"one": 1, "a single": 1, "two": 2, "three": 3, "four": 4, "five": 5}
COUNT = re.compile(
    r"\b(one|a single|two|three|four|five|[1-9])\s+(?:short\s+)?(?:sentences?|points?|bullets?|lines?)\b",
    re.I,
)
HONEST = (
    "This is the built-in offline model: it quotes what it is given and knows nothing itself. "
    "Set LITELLM_BASE_URL or a provider's key for a model that does."
)


def answer(talk: Talk) -> str:
    """Answer the question from the material; says so where there is nothing to answer from."""
    parts = [part for result in talk.answers if (part := told(result))]
    if not any(settles(result) for result in talk.results):
        points = chosen(talk)
        parts += [listed(points)] if points else []
    failures = [f"{result.name} failed: {quote(result.error)}" for result in talk.results if result.error]
    return "\n\n".join(parts or failures) or nothing_found(talk)


def told(result: Result) -> str:
    """What is told of a result as it is: records in their order, another agent's words, a plain value.

    Nothing of texts that were searched, read or fetched: of those the best passages are quoted.
    """
    purpose = purpose_of(result.name)
    if purpose == "delegate":
        who = next(
            (str(value) for name, value in result.arguments.items() if "agent" in name), "the other agent"
        )
        return f"{who} answers:\n\n{str(result.value).strip()}"
    if purpose == "remember":
        return f"{quote(str(result.value))} ({quote(str(result.arguments.get('text', '')))})"
    if purpose in MATERIAL:
        return ""
    return records(result)


def records(result: Result) -> str:
    """A list of records or names, line by line; a short value as it is."""
    value = result.value
    if (
        isinstance(value, dict)
        and len(lists := [each for each in value.values() if isinstance(each, list)]) == 1
    ):
        value = lists[0]
    if isinstance(value, list):
        lines = [f"- {quote(record_line(each) if isinstance(each, dict) else str(each))}" for each in value]
        more = [f"- and {len(lines) - MAX_RECORDS} more"] if len(lines) > MAX_RECORDS else []
        return (
            "\n".join([f"{result.name} gives:", *lines[:MAX_RECORDS], *more])
            if lines
            else f"{result.name} gives nothing."
        )
    if isinstance(value, dict):
        return f"{result.name} gives: {quote(', '.join(f'{key}: {each}' for key, each in value.items()))}"
    lines = str(value).strip().splitlines()
    return (
        f"{result.name} gives: {quote(lines[0])}"
        if len(lines) == 1
        else "\n".join([f"{result.name} gives:", *lines[:40]])
    )


def chosen(talk: Talk) -> list[Passage]:
    """The passages to quote, best first and no two alike; for a summary the central ones, in their order."""
    if not talk.wanted:
        return summary(talk)
    near = [passage for passage in talk.material if is_near(passage, talk)]
    best = nlargest(MAX_CANDIDATES, zip(scored(near, talk), count(), near, strict=False))
    near = wholes([passage for _, _, passage in sorted(best, key=lambda each: each[1])])
    scores = scored(near, talk)
    return [near[place] for place in distinct(near, scores, points_wanted(talk), MIN_SHARE)]


def scored(passages: Sequence[Passage], talk: Talk) -> list[float]:
    """How well each passage answers the question."""
    return weighted(relevance([passage.terms for passage in passages], talk.wanted), passages)


def summary(talk: Talk) -> list[Passage]:
    """The central passages of what came with the question or was found, in their order."""
    scores = weighted(centrality([passage.terms for passage in talk.found]), talk.found)
    return [talk.found[place] for place in sorted(distinct(talk.found, scores, points_wanted(talk), 0.0))]


def weighted(scores: Sequence[float], passages: Sequence[Passage]) -> list[float]:
    """The scores by what passages of that kind, of files of that kind, are worth."""
    weights = (passage.weight * file_weight(passage.source) for passage in passages)
    return [score * weight for score, weight in zip(scores, weights, strict=True)]


def is_near(passage: Passage, talk: Talk) -> bool:
    """Whether a passage has enough of the question's terms; one that no tool found needs half of them."""
    return coverage(passage.terms, talk.wanted) >= (MIN_COVERAGE if passage.source else 0.5)


def wholes(passages: Sequence[Passage]) -> list[Passage]:
    """The passages without those that are a part of another of their source, as a line of a sentence is."""
    texts: dict[str, list[str]] = {}
    for passage in passages:
        texts.setdefault(passage.source, []).append(passage.text)
    return [
        each
        for each in passages
        if not (each.source and any(each.text in text != each.text for text in texts[each.source]))
    ]


def distinct(
    passages: Sequence[Passage], scores: Sequence[float], max_points: int, min_share: float
) -> list[int]:
    """The best places, without passages that say the same as a better one, or are far worse than the best."""
    places: list[int] = []
    words: list[set[str]] = []
    order = sorted(range(len(passages)), key=lambda place: -scores[place])
    for place in order:
        if len(places) == max_points or scores[place] <= min_share * scores[order[0]]:
            break
        own = set(passages[place].terms)
        if own and all(len(own & other) <= MAX_OVERLAP * min(len(own), len(other)) for other in words):
            places.append(place)
            words.append(own)
    return places


def points_wanted(talk: Talk) -> int:
    """How many points the question asks for."""
    match = COUNT.search(talk.asked)
    if not match:
        return MAX_POINTS
    return NUMBERS.get(match[1].lower()) or int(match[1])


def listed(points: Sequence[Passage]) -> str:
    """The passages as an answer: one as a sentence, several as a list."""
    lines = [cited(passage) for passage in points]
    return lines[0] if len(lines) == 1 else "\n".join(f"- {line}" for line in lines)


def cited(passage: Passage) -> str:
    """A passage with where it stands."""
    text = quote(passage.text)
    return f"{text} ({passage.citation})" if passage.citation else text


def nothing_found(talk: Talk) -> str:
    """What is said where no material fits."""
    if not talk.wanted and not talk.results:
        return f"Hello. {HONEST}"
    looked = ", ".join(dict.fromkeys(result.name for result in talk.results))
    about = f" about {quote(' '.join(telling_words(talk.asked)), 80)!r}" if talk.wanted else ""
    where = f" (asked: {looked})" if looked else ""
    return f"I found nothing{about} in what I was given{where}. {HONEST}"
