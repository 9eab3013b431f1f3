"""Metrics of answers, without a model, and the figures that sum up evaluations."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from importlib import import_module
from pathlib import Path
from statistics import fmean
from typing import Any

from meshwright import ToolFailed
from meshwright.agents.context.check import Original
from meshwright.agents.sandbox import process
from meshwright.core.plugins import install_command
from meshwright.kit import ConfigError, InvalidInput
from meshwright.parts.evaluations.records import (
    EvaluationFigure,
    EvaluationItem,
    EvaluationSummary,
    EvaluationView,
    ItemFigures,
    ItemState,
    ItemTexts,
    Judgement,
    Kind,
    Spec,
)
from meshwright.parts.evaluations.table import EvaluationRow, ItemRow

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_VOWELS = re.compile(r"[aeiouy]+")
_MAX_SENTENCE = 500  # characters: VADER's time grows with the square of a text, 54,000 took half a minute


def length(text: str) -> float:
    """How many words a text has."""
    return float(len(text.split()))


def readability(text: str) -> float | None:
    """Flesch's reading ease of an English text: about 100 is very easy, 30 is hard. None without a word."""
    words = _WORD.findall(text)
    if not words:
        return None
    sentences = sum(1 for part in _SENTENCE_END.split(text) if _WORD.search(part))
    syllables = sum(map(_syllables, words))
    return 206.835 - 1.015 * len(words) / sentences - 84.6 * syllables / len(words)


def _syllables(word: str) -> int:
    lower = word.lower()
    count = len(_VOWELS.findall(lower))
    is_silent = lower.endswith("e") and not lower.endswith(("le", "ee")) and count > 1
    return max(1, count - is_silent)


def sentiment(text: str) -> float | None:
    """The mean sentiment of a text's sentences by VADER, an English lexicon of 2014, from -1 to 1.

    0 where it knows no word; of another language the figure means nothing. None without a sentence. Raises
    InvalidInput where VADER is not installed.
    """
    score = sentence_sentiment()
    sentences = [part for part in _SENTENCE_END.split(text) if _WORD.search(part)]
    pieces = [
        part[at : at + _MAX_SENTENCE] for part in sentences for at in range(0, len(part), _MAX_SENTENCE)
    ]
    return fmean(map(score, pieces)) if pieces else None


@cache
def sentence_sentiment() -> Callable[[str], float]:
    """VADER's compound score of a sentence. Raises InvalidInput where it is not installed."""
    try:
        vader = import_module("vaderSentiment.vaderSentiment")
    except ImportError:
        remedy = install_command("sentiment")
        problem = "The metric 'sentiment' takes the package vaderSentiment, which is not installed"
        raise InvalidInput(problem, remedy=remedy, field="metrics") from None
    analyzer = vader.SentimentIntensityAnalyzer()
    return lambda sentence: float(analyzer.polarity_scores(sentence)["compound"])


def factuality(text: str, context: str) -> float | None:
    """The share of a text's sentences, names and numbers that stand in a context. None without a sentence.

    A sentence does if each of its terms does, in some form, or is a common word.
    """
    original, supported = Original(context), list[bool]()
    for sentence in _SENTENCE_END.split(text):
        terms = [*original.terms(sentence)]
        if not terms:
            continue
        supported.append(all(is_known for _, is_known in terms))
        supported += [is_known for place, (term, is_known) in enumerate(terms) if _is_telling(term, place)]
    return sum(supported) / len(supported) if supported else None


def _is_telling(term: str, place: int) -> bool:
    """Whether a term is a number or a name: one with a capital where its sentence does not begin."""
    return any(map(str.isdigit, term)) or any(map(str.isupper, term if place else term[1:]))


def exact(text: str, expected: str) -> float:
    """1 for the expected text, but for white space, else 0."""
    return float(text.split() == expected.split())


def contains(text: str, expected: str) -> float:
    """1 for a text that holds the expected one, whatever case and white space, else 0."""
    return float(_plain(expected) in _plain(text))


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def kappa(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Cohen's kappa of two raters, with quadratic weights: 1 if they agree, 0 if no more than by chance.

    For two values, such as 0 and 1, weights make no difference. None where it is not defined: for fewer than
    two pairs, and where both raters gave one and the same value throughout.
    """
    count = len(pairs)
    if count < 2:
        return None
    first, second = [sum(values) / count for values in zip(*pairs, strict=True)]
    squares = sum(a * a + b * b for a, b in pairs) / count
    by_chance = squares - 2 * first * second
    observed = sum((a - b) ** 2 for a, b in pairs) / count
    return None if by_chance <= 1e-12 else 1 - observed / by_chance


Function = Callable[[str, Mapping[str, Any]], Any]
_OF_TEXT: Mapping[str, Callable[[str], float | None]] = {"length": length, "readability": readability}
_OF_EXPECTED: Mapping[str, Callable[[str, str], float]] = {"exact": exact, "contains": contains}
REGEX, FACTUALITY, SENTIMENT = "regex", "factuality", "sentiment"
BUILT_IN = (*_OF_TEXT, SENTIMENT, FACTUALITY, *_OF_EXPECTED, REGEX)
"""The metrics that every mesh has."""
_SEARCH = "import json, re, sys; found = json.load(sys.stdin); print(int(bool(re.search(*found))))"
_SECONDS = 5.0


class Metrics:
    """The metrics of a mesh by their names: those that every mesh has, and those of its settings."""

    def __init__(self, functions: Mapping[str, str], project: Path) -> None:
        self._project = project
        self._named = functions
        self._functions: dict[str, Function] = {}

    def check(self, names: Sequence[str]) -> None:
        """Raises InvalidInput for a metric that there is not, or whose package is not installed.

        Raises ConfigError for one of the settings that cannot be imported.
        """
        known_names = (*BUILT_IN, *self._named)
        for name in names:
            if name not in known_names:
                remedy = f"Known are {', '.join(known_names)}; [evaluations.metrics] adds your own"
                raise InvalidInput(f"There is no metric {name!r}", remedy=remedy, field="metrics")
            if name in self._named:
                self._function(name)
            elif name == SENTIMENT:
                sentence_sentiment()

    async def measure(self, names: Sequence[str], texts: ItemTexts) -> dict[str, float | None]:
        """The figures of an answer; None where an item has not what a metric takes, or the metric failed."""
        return {name: await self._measure(name, texts) for name in names}

    async def _measure(self, name: str, texts: ItemTexts) -> float | None:
        text, expected = texts.output or "", texts.expected
        if name in self._named:  # a name of the settings counts before ours
            return await self._call(name, texts)
        if name in _OF_TEXT:
            return _OF_TEXT[name](text)
        if name == SENTIMENT:
            return await asyncio.to_thread(sentiment, text)
        if name == FACTUALITY:
            context = texts.context
            return None if context is None else await asyncio.to_thread(factuality, text, context)
        if expected is None:
            return None
        return await _matches(expected, text) if name == REGEX else _OF_EXPECTED[name](text, expected)

    async def _call(self, name: str, texts: ItemTexts) -> float | None:
        item = texts.model_dump(include={"input", "context", "expected", "other"})
        try:
            async with asyncio.timeout(_SECONDS):
                return float(await asyncio.to_thread(self._function(name), texts.output or "", item))
        except Exception:  # noqa: BLE001 the project's own code: whatever it raises, it has no figure
            return None

    def _function(self, name: str) -> Function:
        if name not in self._functions:
            module, _, attribute = self._named[name].partition(":")
            if str(self._project) not in sys.path:
                sys.path.append(str(self._project))  # behind all others, as for agents
            try:
                function = getattr(import_module(module), attribute)
            except Exception as error:
                problem = f"[evaluations.metrics] {name}: {self._named[name]} cannot be imported: {error}"
                raise ConfigError(problem, remedy="Correct it, or the module", field="metrics") from error
            self._functions[name] = function
        return self._functions[name]


async def _matches(pattern: str, text: str) -> float | None:
    """1 where a pattern is found in a text, else 0; None for one that is wrong, or takes too long.

    A pattern of a caller may take for ever, and holds Python's lock meanwhile: it gets a process of its own.
    """
    command = (sys.executable, "-I", "-S", "-c", _SEARCH)
    query = json.dumps([pattern, text])
    try:
        result = await process.run(
            command,
            folder=Path("/"),
            environment={},
            timeout_seconds=_SECONDS,
            max_output_bytes=100,
            input_text=query,
        )
    except ToolFailed:
        return None
    return float(result.output) if result.status == 0 else None


_FEW_LABELS = 20


def make_item(row: ItemRow, *, with_texts: bool) -> EvaluationItem:
    """An item as it is shown."""
    state = ItemState.model_validate_json(row.state)
    figures = None if row.figures is None else ItemFigures.model_validate_json(row.figures)
    return EvaluationItem(
        number=row.number,
        status="open" if figures is None else "failed" if figures.error else "done",
        task_id=state.task_id,
        label=state.label,
        figures=figures,
        texts=ItemTexts.model_validate_json(row.texts) if with_texts and row.texts else None,
    )


def make_summary(row: EvaluationRow, items: Sequence[ItemRow]) -> EvaluationSummary:
    """An evaluation in short; `items` are those of one that runs."""
    spec = Spec.model_validate_json(row.spec)
    fields = {
        "evaluation_id": row.id,
        "name": spec.name,
        "items": row.items,
        "requested_by": spec.requested_by,
        "created_at": datetime.fromtimestamp(row.created_at, UTC),
    }
    if row.ended_at is not None:
        ended_at, cost = datetime.fromtimestamp(row.ended_at, UTC), row.cost_usd
        sums = {"done": row.items, "failed": row.failed, "cost_usd": None if cost is None else Decimal(cost)}
        return EvaluationSummary.model_validate({**fields, **sums, "status": "done", "ended_at": ended_at})
    done_items = [ItemFigures.model_validate_json(item.figures) for item in items if item.figures is not None]
    costs = [item.cost_usd for item in done_items]
    sums = {
        "done": len(done_items),
        "failed": sum(item.error is not None for item in done_items),
        "cost_usd": None if None in costs else sum((cost for cost in costs if cost is not None), Decimal(0)),
    }
    return EvaluationSummary.model_validate({**fields, **sums, "status": "running"})


def make_view(row: EvaluationRow, rows: Sequence[ItemRow]) -> EvaluationView:
    """An evaluation with its figures over the items that are done."""
    spec = Spec.model_validate_json(row.spec)
    items = [item for item_row in rows if (item := make_item(item_row, with_texts=False)).figures is not None]
    figures = [_judged(spec, criterion.name, items) for criterion in spec.criteria]
    for name in spec.metrics:
        values = [item.figures.metrics.get(name) for item in items if item.figures]
        figures.append(_figure(name, "metric", values))
    return EvaluationView(
        **dict(make_summary(row, rows)),
        agent_id=spec.agent_id,
        criteria=spec.criteria,
        metrics=spec.metrics,
        judge=spec.judge,
        figures=figures,
        warnings=_warnings(figures),
    )


def _judged(spec: Spec, name: str, items: Sequence[EvaluationItem]) -> EvaluationFigure:
    judged = [(item, item.figures.criteria.get(name, Judgement())) for item in items if item.figures]
    all_pairs = [_pair(spec, name, item.label, judgement.value) for item, judgement in judged]
    pairs = [pair for pair in all_pairs if pair is not None]
    kind: Kind = "preference" if spec.judge.pairwise else "score"
    counts = {
        "labelled": len(pairs),
        "kappa": kappa(pairs),
        "same_model": sum(judgement.same_model for _, judgement in judged),
        "disagreed": sum(judgement.disagreed for _, judgement in judged),
    }
    return _figure(name, kind, [judgement.value for _, judgement in judged], **counts)


def _figure(name: str, kind: Kind, measured: Sequence[float | None], **counts: Any) -> EvaluationFigure:
    values = [value for value in measured if value is not None]
    return EvaluationFigure(
        name=name,
        kind=kind,
        mean=fmean(values) if values else None,
        lowest=min(values, default=None),
        highest=max(values, default=None),
        count=len(values),
        missing=len(measured) - len(values),
        **counts,
    )


def _pair(spec: Spec, name: str, label: object, value: float | None) -> tuple[float, float] | None:
    """A judge's value beside a person's; None where one of both is missing."""
    expected = label.get(name) if isinstance(label, dict) else label
    if value is None or not isinstance(expected, bool | int | float):
        return None
    if isinstance(expected, bool):
        value = float(value >= (0.5 if spec.judge.pairwise else spec.judge.pass_score))
    return value, float(expected)


def _warnings(figures: Sequence[EvaluationFigure]) -> list[str]:
    warnings: list[str] = []
    for figure in figures:
        if figure.kind == "metric":
            continue
        if figure.same_model:
            warnings.append(
                f"{figure.name}: the model that judged {figure.same_model} items wrote their answers"
            )
        if not figure.labelled:
            warnings.append(f"{figure.name}: no labels of people say how far to trust this judge")
        elif figure.labelled < _FEW_LABELS:
            warnings.append(f"{figure.name}: kappa is of {figure.labelled} labels alone")
    return warnings
