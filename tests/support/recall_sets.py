"""Memories with a question each, in three sets, and questions to which no memory is relevant.

The parameters of recall were first chosen by the first set; the second was written afterwards, and is held
out: 100 memories in English and German, 48 of them with a question, in the same words (w), as a paraphrase
that shares none (p) or in other forms of the words (f). The third, the fresh one, was written before a later
choice and without a look at results: 84 memories, 72 with a question, where a paraphrase shares a name or a
word (p) or none (x). Its questions without a memory are far from all work (3), or near to it (4).

The vectors of the texts of the first two sets were made by all-MiniLM-L6-v2 (384 numbers, English alone) and
are stored as single bytes, behind the SHA-256 of the texts.
"""

from __future__ import annotations

import hashlib
from array import array
from typing import NamedTuple

from tests.support.running_mesh import ROOT

_FOLDER = ROOT / "tests" / "support"
_DIMENSIONS = 384


class Case(NamedTuple):
    kind: str
    text: str
    question: str


def _lines(name: str) -> list[str]:
    return (_FOLDER / name).read_text().splitlines()


_FIRST = [Case(*line.split("|")) for line in _lines("recall_cases.txt")]
_SECOND = [Case(*line.split("|")) for line in _lines("recall_held_out.txt")]
_THIRD = [Case(*line.split("|")) for line in _lines("recall_fresh.txt")]
_SETS = {"first": _FIRST, "held out": _SECOND, "fresh": _THIRD}
CASES = {name: [case for case in cases if case.question] for name, cases in _SETS.items()}
TEXTS = {name: [case.text for case in cases] for name, cases in _SETS.items()}
EMBEDDED = ("first", "held out")
"""The sets whose texts have vectors."""
_IRRELEVANT = [line.split("|") for line in _lines("recall_irrelevant.txt")]
IRRELEVANT = {
    name: [question for of, question in _IRRELEVANT if of == number]
    for name, number in (("first", "1"), ("held out", "2"), ("fresh", "3"), ("near", "4"))
}


def vectors() -> dict[str, list[float]]:
    """The vector of each text and question of `EMBEDDED`. Fails where one was changed since."""
    texts = [text for name in EMBEDDED for text in TEXTS[name]]
    texts += [case.question for name in EMBEDDED for case in CASES[name]]
    texts += [question for name in EMBEDDED for question in IRRELEVANT[name]]
    data = (_FOLDER / "recall_vectors.bin").read_bytes()
    assert data[:32] == hashlib.sha256("\n".join(texts).encode()).digest(), "texts have no vectors"
    numbers = array("b", data[32:])
    rows = [numbers[start : start + _DIMENSIONS] for start in range(0, len(numbers), _DIMENSIONS)]
    return {text: [number / 127 for number in row] for text, row in zip(texts, rows, strict=True)}
