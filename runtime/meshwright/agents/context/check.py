"""Whether a model's text may stand for the deterministic one: it lost nothing needed, and invented nothing.

Names, numbers, versions and paths of it stand in the original, whatever the language. So do all other words,
in some form, or they are common words: of English, or words that hold a sentence together in a language that
the original is in. Scripts without spaces are compared by their neighbouring letters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cached_property

from meshwright.agents.context.plan import DOMAIN_CONTEXT, METADATA, SECTIONS, ContextPlan
from meshwright.agents.context.text import common_forms, count_tokens, forms, matches_form, other_languages

# What a summary may leave out: it was chosen by relevance, and another choice is as good.
_OPTIONAL_SECTIONS = frozenset({SECTIONS["sender_memories"], SECTIONS["conversation_snippet"]})
_HEADER = re.compile(rf"^({'|'.join([METADATA, DOMAIN_CONTEXT, *SECTIONS.values()])}):", re.MULTILINE)
_HAN, _HIRAGANA, _KATAKANA = "々〇\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff", "\u3041-\u309f", "\u30a0-\u30ff"
_LETTERED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
_HANGUL = "\u1100-\u11ff\uac00-\ud7af"
_UNSPACED = f"{_HAN}{_HIRAGANA}{_KATAKANA}{_LETTERED}"
_OTHER = f"{_UNSPACED}{_HANGUL}"
_TERM = re.compile(
    rf"[{_HAN}]+|[{_HIRAGANA}]+|[{_KATAKANA}]+|[{_LETTERED}]+|[{_HANGUL}]+"
    rf"|[^\W{_OTHER}](?:(?:[^\W{_OTHER}]|[.+#/@'’-])*(?:[^\W{_OTHER}]|[+#]))?"
)
_SEPARATOR = re.compile(r"[./@+#_'’-]+")
_APOSTROPHE = re.compile(r"['’]")
_MARKER = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+", re.MULTILINE)
_SENTENCE_START = re.compile(r"(?:^|[.!?:;]\s+|[\"'(\[`*])$")
_COMMON_HAN = frozenset(
    "的了在是和与及或不未无有为以于从到对将被把由用可能应须需并且但而则若如因所其此该每这那们中上下内外"
    "前后时地得着过也都就才只再又还很最更较之同等個与無為對將應須並則時這們過後"
)
_LANGUAGE_WORDS = 3  # so many function words, no common English ones, tell a language
_MAX_ENDING = 3  # letters in which two forms of a word differ at the end
_LEAST_STEM = 4  # letters that they have in common; in other scripts than Latin two
_LEAKS = {
    "an id": re.compile(
        r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"  # UUID
        r"|\b[0-9A-HJKMNP-TV-Z]{26}\b"  # ULID
        r"|\b(?=[0-9a-f]*[0-9])[0-9a-f]{12,}\b"
        r"|\b(?!project_id)(?:\w+_)?id\s*[:=]",
        re.IGNORECASE,
    ),
    "a score": re.compile(
        r"\b(?:score|relevance|similarity|distance|confidence)\s*[:=]\s*[\d.]+", re.IGNORECASE
    ),
    "a timestamp": re.compile(
        r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d|\b1[5-9]\d{8}(?:\d{3})?\b"
        r"|\b(?:created|updated|accessed|expires)_at\b|\btimestamp\s*[:=]",
        re.IGNORECASE,
    ),
}


def problem(text: str, plan: ContextPlan) -> str | None:
    """Say why a model's text may not be used in place of the plan's, or None if it may.

    It may only if nothing needed was lost and nothing was invented: every name, number and unusual word of it
    stands in the original. Too strict is safe here: what is refused is replaced by the original, whole. Never
    repeats more of the text than the one term that is wrong.
    """
    original, sections = _split_sections(plan.text), _split_sections(text)
    checks: Iterable[Iterator[str]] = (
        _shape(text, plan),
        _lost(sections, original, plan),
        _leaked(text, original),
        _invented(text, plan.text),
    )
    return next((problem_text for check in checks for problem_text in check), None)


def _split_sections(text: str) -> dict[str, str]:
    _, *parts = _HEADER.split(text)
    sections: dict[str, str] = {}
    for name, body in zip(parts[::2], parts[1::2], strict=True):
        sections[name] = f"{sections.get(name, '')}{body}".strip()
    return sections


def _shape(text: str, plan: ContextPlan) -> Iterator[str]:
    first = plan.text.partition("\n")[0]
    if not text.startswith(first):
        yield f"it does not begin with {first}"
    tokens = count_tokens(text)
    if tokens > plan.output_tokens:
        yield f"it is longer than what it was made from: {tokens} tokens instead of {plan.output_tokens}"


def _lost(sections: dict[str, str], original: dict[str, str], plan: ContextPlan) -> Iterator[str]:
    for name in original.keys() - _OPTIONAL_SECTIONS:
        if not sections.get(name):
            yield f"section {name} is missing"
    metadata = _squeezed(sections.get(METADATA, ""))
    for line in original.get(METADATA, "").splitlines():
        key, _, value = line.partition(": ")
        if key.lower() not in metadata or _squeezed(value) not in metadata:
            yield f"field {key} of {METADATA} is missing"
    everything = _squeezed(" ".join(sections.values()))
    for passage in plan.verbatim:
        if _squeezed(passage) not in everything:
            yield "something that is to be kept word for word is missing"


def _squeezed(text: str) -> str:
    return " ".join(text.lower().split())


def _leaked(text: str, original: dict[str, str]) -> Iterator[str]:
    """Ids, scores and times, except what stands in the sender's own text."""
    stated = " ".join(body for name, body in original.items() if name not in _OPTIONAL_SECTIONS)
    for what, pattern in _LEAKS.items():
        for match in pattern.finditer(text):
            if match[0] not in stated:
                yield f"it holds {what}"


def _invented(text: str, source: str) -> Iterator[str]:
    original = Original(source)
    for line in _MARKER.sub("", _HEADER.sub("", text)).splitlines():
        for term, is_known in original.terms(line):
            if not is_known:
                yield f"{term!r} does not stand in what it was made from"


class Original:
    """The terms of an original, and the words and endings that a shorter text of it may have."""

    def __init__(self, source: str) -> None:
        self._found = set(_TERM.findall(source))
        self._terms = {_plain(term) for term in self._found}
        parts = {part for term in self._found for part in _SEPARATOR.split(term) if part[:1].isalpha()}
        self._words = forms(parts)
        self._stems = {part.lower()[:length] for part in parts for length in _stem_lengths(part)}

    def terms(self, line: str) -> Iterator[tuple[str, bool]]:
        """The names, numbers and words of a line of another text, each with whether it may stand there."""
        for match in _TERM.finditer(line):
            yield match[0], self._has(match[0], line[: match.start()])

    @cached_property
    def _ordinary(self) -> frozenset[str]:
        """The words that hold sentences together in the languages of the original, but for English."""
        telling = ((words, words & self._words - common_forms()) for words in other_languages())
        return frozenset().union(*(words for words, specific in telling if len(specific) >= _LANGUAGE_WORDS))

    @cached_property
    def _neighbours(self) -> set[str]:
        """The neighbouring letters of scripts without spaces."""
        return {pair for term in self._found for pair in _pairs(term)}

    def _has(self, term: str, before: str) -> bool:
        """Whether a term may stand in a text of this, with the rest of its line before it."""
        if _plain(term) in self._terms:
            return True
        if re.match(f"[{_UNSPACED}]", term):
            return self._has_unspaced(term)
        if any(character.isdigit() for character in term):
            return False
        parts = _APOSTROPHE.split(term)
        if len(parts) > 1:  # l'idea, SQLite's
            return all(len(part) < 2 or self._has(part, before) for part in parts)
        return not _SEPARATOR.search(term) and self._has_word(term, before)

    def _has_word(self, word: str, before: str) -> bool:
        if matches_form(word, self._words) or word.lower() in self._ordinary:
            return True
        if word.islower() or word.istitle():
            if (not word.isascii() or self._ordinary) and self._is_inflected(word.lower()):
                return True
            starts = word.islower() or _SENTENCE_START.search(before)
            return bool(starts) and matches_form(word, common_forms())
        is_particle = len(word) <= _MAX_ENDING and before[-1:].isalnum() and re.match(f"[{_HANGUL}]", word)
        return word.lower() == word.upper() and (bool(is_particle) or self._is_inflected(word))

    def _is_inflected(self, word: str) -> bool:
        """Whether a word differs from one of the original in its ending alone."""
        return any(word[:length] in self._stems for length in _stem_lengths(word))

    def _has_unspaced(self, run: str) -> bool:
        """Whether a run of letters of a script without spaces comes of the original.

        Hiragana are endings and particles, and a name in Katakana stands there whole.
        """
        if re.match(f"[{_HIRAGANA}]", run):
            return True
        if re.match(f"[{_KATAKANA}]", run):
            return False
        pairs = _pairs(run)
        is_neighbour = [pair in self._neighbours for pair in pairs]
        size = _pair_size(run)
        return all(
            any(is_neighbour[max(0, place - size + 1) : place + 1]) or character in _COMMON_HAN
            for place, character in enumerate(run)
        )


def _stem_lengths(word: str) -> range:
    """How many letters a word has without an ending."""
    least = _LEAST_STEM if word.isascii() or "\u00c0" <= max(word) <= "\u024f" else 2
    return range(max(least, len(word) - _MAX_ENDING), len(word) + 1)


def _pair_size(run: str) -> int:
    return 4 if re.match(f"[{_LETTERED}]", run) else 2


def _pairs(run: str) -> list[str]:
    """The neighbouring letters of a run: two characters of Chinese, four letters of Thai."""
    if not re.match(f"[{_HAN}{_LETTERED}]", run):
        return []
    size = _pair_size(run)
    return [run[place : place + size] for place in range(max(1, len(run) - size + 1))]


def _plain(term: str) -> str:
    """A term in lower case, a version without its v."""
    lower = term.lower()
    return lower.removeprefix("v") if re.match(r"v?\d", lower) else lower
