"""Whether a text that a model made shorter may stand for the deterministic one.

It may only if nothing needed was lost and nothing was invented: every name, number and unusual word of it
stands in the original. Too strict is safe here: what is refused is replaced by the original, whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from meshwright.context.plan import DOMAIN_CONTEXT, METADATA, SECTIONS
from meshwright.context.request import Plan
from meshwright.context.text import common_forms, count_tokens, forms, is_form_of

# What a summary may leave out: it was chosen by relevance, and another choice is as good.
_OPTIONAL_SECTIONS = frozenset({SECTIONS["sender_memories"], SECTIONS["conversation_snippet"]})
HEADER = re.compile(rf"^({'|'.join([METADATA, DOMAIN_CONTEXT, *SECTIONS.values()])}):", re.MULTILINE)
TERM = re.compile(r"\w(?:[\w.+#/@'-]*[\w+#])?")
_SEPARATOR = re.compile(r"[./@+#_'-]+")
_MARKER = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+", re.MULTILINE)
SENTENCE_START = re.compile(r"(?:^|[.!?:;]\s+|[\"'(\[`*])$")
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


def problem(text: str, plan: Plan) -> str | None:
    """Say why a model's text may not be used in place of the plan's, or None if it may.

    Never repeats more of the text than the one term that is wrong.
    """
    original, made = _split_sections(plan.text), _split_sections(text)
    checks: Iterable[Iterator[str]] = (
        _shape(text, plan),
        _lost(made, original, plan),
        _leaked(text, original),
        _invented(text, plan.text),
    )
    return next((found for check in checks for found in check), None)


def _split_sections(text: str) -> dict[str, str]:
    """The sections of a text, by name, without their headers."""
    _, *parts = HEADER.split(text)
    sections: dict[str, str] = {}
    for name, body in zip(parts[::2], parts[1::2], strict=True):
        sections[name] = f"{sections.get(name, '')}{body}".strip()
    return sections


def _shape(text: str, plan: Plan) -> Iterator[str]:
    if not text.startswith(f"{METADATA}:"):
        yield f"it does not begin with {METADATA}:"
    tokens = count_tokens(text)
    if tokens > plan.output_tokens:
        yield f"it is longer than what it was made from: {tokens} tokens instead of {plan.output_tokens}"


def _lost(made: dict[str, str], original: dict[str, str], plan: Plan) -> Iterator[str]:
    for name in original.keys() - _OPTIONAL_SECTIONS:
        if not made.get(name):
            yield f"section {name} is missing"
    metadata = _squeezed(made.get(METADATA, ""))
    for line in original[METADATA].splitlines():
        key, _, value = line.partition(": ")
        if key.lower() not in metadata or _squeezed(value) not in metadata:
            yield f"field {key} of {METADATA} is missing"
    everything = _squeezed(" ".join(made.values()))
    for wanted in plan.verbatim:
        if _squeezed(wanted) not in everything:
            yield "something that is to be kept word for word is missing"


def _squeezed(text: str) -> str:
    return " ".join(text.lower().split())


def _leaked(text: str, original: dict[str, str]) -> Iterator[str]:
    """Ids, scores and times, except those that stand in what the sender itself put in words."""
    stated = " ".join(body for name, body in original.items() if name not in _OPTIONAL_SECTIONS)
    for what, pattern in _LEAKS.items():
        for match in pattern.finditer(text):
            if match[0] not in stated:
                yield f"it holds {what}"


def _invented(text: str, source: str) -> Iterator[str]:
    terms = {
        term.lower().removeprefix("v") if _is_version(term) else term.lower() for term in TERM.findall(source)
    }
    words = forms(part for term in terms for part in _SEPARATOR.split(term) if part and not part[0].isdigit())
    for line in _MARKER.sub("", HEADER.sub("", text)).splitlines():
        for match in TERM.finditer(line):
            term = match[0]
            if not _stands(term, line[: match.start()], terms, words):
                yield f"{term!r} does not stand in what it was made from"


def _stands(term: str, before: str, terms: set[str], words: frozenset[str]) -> bool:
    if _is_version(term):
        return term.lower().removeprefix("v") in terms
    if term.lower() in terms:
        return True
    if any(character.isdigit() for character in term) or _SEPARATOR.search(term.removesuffix("'s")):
        return False
    if is_form_of(term, words):
        return True
    ordinary = term.islower() or (term.istitle() and bool(SENTENCE_START.search(before)))
    return ordinary and is_form_of(term, common_forms())


def _is_version(term: str) -> bool:
    return bool(re.match(r"v?\d", term, re.IGNORECASE))
