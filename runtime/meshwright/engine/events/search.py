"""The search in the texts of tasks: requests, questions, answers and errors.

Every database finds the same words: runs of letters and digits, whatever their case. Each character of a
script without spaces (Chinese, Japanese, Thai) is a word, kept apart from its neighbours by a zero-width
space, so that any part of such a text is found as a phrase. SQLite's trigrams would find no word of two
characters, which most Chinese words have.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from meshwright.core.encoding import View
from meshwright.core.errors import InvalidInput

if TYPE_CHECKING:
    from meshwright.engine.sql.database import Session

MAX_QUERY_CHARS = 1_000
_APART = "\u200b"
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
_BOUNDARY = re.compile(f"(?<=[{_UNSPACED}])(?!$)|(?<!^)(?=[{_UNSPACED}])")
_IS_UNSPACED = re.compile(f"[{_UNSPACED}]")
_TERM = re.compile(r'"([^"]*)"(\*?)|(\S+)')
_WORD_CATEGORIES = ("L", "N", "Co", "Mn", "Mc")
_SNIPPET_CHARS = 160
_BEFORE_CHARS = 40  # of a snippet, before its first word
_SPACES = re.compile(r"\s+")

COLUMNS = ("request", "question", "answer", "error")
COLUMN_LIST = ", ".join(COLUMNS)
"""The columns of texts."""
POSITION = "SELECT seq FROM task_texts_position"


# Queries


class Term(NamedTuple):
    """Words that follow one another; the last is the beginning of a word if it is a `prefix`."""

    words: tuple[str, ...]
    is_prefix: bool = False


def parse_terms(text: str) -> list[Term]:
    """The terms of a query, each of which a task must have: words, "phrases", and beginnings such as `pay*`.

    Any other character parts words, as in the texts. Raises InvalidInput for a query that is too long.
    """
    if len(text) > MAX_QUERY_CHARS:
        raise InvalidInput(
            f"The search has {len(text):,} characters, at most {MAX_QUERY_CHARS:,} are read",
            remedy="Search for fewer words",
            field="text",
        )
    terms: dict[Term, None] = {}
    for phrase, star, word in _TERM.findall(text):
        words = tuple(_words(phrase or word))
        if words:
            terms[Term(words, bool(star) or word.endswith("*"))] = None
    return list(terms)


def _words(text: str) -> list[str]:
    kept = (char if _is_of_word(char) else " " for char in separate(text))
    return "".join(kept).split()


def separate(text: str) -> str:
    """A text with words of scripts without spaces apart."""
    return text if text.isascii() else _BOUNDARY.sub(_APART, unicodedata.normalize("NFC", text))


def _is_of_word(char: str) -> bool:
    return unicodedata.category(char).startswith(_WORD_CATEGORIES)


def text_condition(session: Session, text: str) -> tuple[str, dict[str, Any]]:
    """Returns the condition that a task has the words of a query, with its values."""
    terms = parse_terms(text)
    if not terms:
        return "1 = 0", {}
    if session.dialect == "sqlite":
        match = " AND ".join(f'"{" ".join(words)}"{"*" * is_prefix}' for words, is_prefix in terms)
        return "tasks.seq IN (SELECT rowid FROM task_words WHERE task_words MATCH :text)", {"text": match}
    query = " & ".join(_tsquery(term) for term in terms)
    found = "SELECT seq FROM task_texts WHERE words @@ to_tsquery('simple', :text)"
    return f"tasks.seq IN ({found})", {"text": query}


def _tsquery(term: Term) -> str:
    words = [f"'{word}'" for word in term.words]
    return f"({' <-> '.join(words)}{':*' * term.is_prefix})"


# What was found


class TextMatch(View):
    """A piece of a text that has words of the search.

    `of` is `request`, `question`, `answer` or `error`. `pieces` are texts in their order: the second, the
    fourth and so on are words of the search, the others stand around them.
    """

    of: str
    pieces: tuple[str, ...]


def find_matches(session: Session, text: str, seqs: Sequence[int]) -> dict[int, TextMatch]:
    """A piece of the text of each of some tasks, by their `seq`."""
    patterns = [re.compile(_pattern(term), re.IGNORECASE) for term in parse_terms(text)]
    rows = session.select_in(f"SELECT seq, {COLUMN_LIST} FROM task_texts WHERE seq", seqs)  # noqa: S608 code
    return {seq: _best_match(dict(zip(COLUMNS, texts, strict=True)), patterns) for seq, *texts in rows}


def _pattern(term: Term) -> str:
    """Finds a term in a text as people see it."""
    first, last = term.words[0], term.words[-1]
    before = "" if _IS_UNSPACED.match(first) else r"(?<![^\W_])"
    after = "" if term.is_prefix or _IS_UNSPACED.match(last) else r"(?![^\W_])"
    return before + r"[\W_]*".join(map(re.escape, term.words)) + after


def _best_match(texts: dict[str, str], patterns: Sequence[re.Pattern[str]]) -> TextMatch:
    """The text that has most of the terms."""
    plain = {name: _SPACES.sub(" ", text.replace(_APART, "")).strip() for name, text in texts.items()}
    name = max(
        plain, key=lambda name: (sum(bool(p.search(plain[name])) for p in patterns), bool(plain[name]))
    )
    return TextMatch(of=name, pieces=_snippet(plain[name], patterns))


def _snippet(text: str, patterns: Iterable[re.Pattern[str]]) -> tuple[str, ...]:
    spans = sorted(match.span() for pattern in patterns for match in pattern.finditer(text))
    start = max(0, spans[0][0] - _BEFORE_CHARS) if spans else 0
    end = start + _SNIPPET_CHARS
    pieces, reached = ["…" if start else ""], start
    for first, last in spans:
        if first < reached or last > end:
            continue
        pieces[-1] += text[reached:first]
        pieces += [text[first:last], ""]
        reached = last
    pieces[-1] += text[reached:end] + ("…" if len(text) > end else "")
    return tuple(pieces)


def count_unindexed(session: Session, tenant_id: str) -> int:
    """How many of a tenant's tasks have changed behind the position of the index."""
    [(position,)] = session.execute(POSITION).fetchall()
    query = "SELECT count(*) FROM tasks WHERE tenant_id = ? AND last_seq > ?"
    [(count,)] = session.execute(query, (session.bindable(tenant_id), position)).fetchall()
    return int(count)


def delete_texts(session: Session, condition: str, values: Sequence[Any]) -> None:
    """Delete the texts of the tasks that agree with a condition."""
    session.execute(f"DELETE FROM task_texts WHERE seq IN (SELECT seq FROM tasks WHERE {condition})", values)  # noqa: S608 code
