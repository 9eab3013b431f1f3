"""Takes out of a text what looks like a secret. Takes time in proportion to the text's length.

`foreign_words` is the one way by which the words of providers and servers become text of the mesh.

It leaves alone what only resembles a secret: digests, git revisions, UUIDs, ULIDs, and the names that code
gives to secrets. It cannot find them all, which is why private files are not shown in the first place.
Programs that a mesh starts get none of its secrets: `environment_with` names what they get.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

REDACTED = "[redacted]"
MARK = re.compile(r"\[(?:hidden|secret of the mesh): [\d,]+ characters?\]")
"""The text that `Marks` and `secret_of_mesh` put in place of a secret."""
MASK = re.compile(r"\[secret:(\d{1,9})\]")
"""The text in place of a secret that can be put back."""
Mask = Callable[[str], str]
"""Gives the text in place of a secret."""

# With the beginning of the next line in a diff. Each text matches in one way only: else time grows by powers.
_END_OF_LINE = r"(?:(?:\\r)?\\n|\r?\n)[ \t]{0,160}+(?:[+-][ \t]{0,80}+)?"
# Only lines of base64 are the key: whatever else stands between its marks may be a program.
_PRIVATE_KEY = re.compile(
    rf"""
    ( -----BEGIN\ [A-Z0-9 ]{{0,40}}PRIVATE\ KEY(?:\ BLOCK)?-----
      (?:{_END_OF_LINE}(?:Proc-Type|DEK-Info|Version|Comment|Hash):[^\n\\]{{0,200}})*
      (?:{_END_OF_LINE}|[ \t]){{0,4}} )
    ( [A-Za-z0-9+/=]{{20,}}
      (?:(?:{_END_OF_LINE}|[ ])[A-Za-z0-9+/=]{{20,}})*
      (?:(?:{_END_OF_LINE}[A-Za-z0-9+/=]{{1,19}}){{1,2}}(?=(?:{_END_OF_LINE}|[ ])-----END))? )
    """,
    re.VERBOSE,
)
_KNOWN_KEYS = {
    "sk-": r"(?=[A-Za-z_-]{0,40}[0-9])[A-Za-z0-9_-]{16,}",  # OpenAI, Anthropic, LiteLLM, this mesh
    "mesh-admin-": r"[A-Za-z0-9_-]{16,}",  # the admin token of a mesh
    "gAAAAA": r"[A-Za-z0-9_-]{60,}={0,2}",  # what the mesh has encrypted
    **dict.fromkeys(("sk_live_", "sk_test_", "rk_live_", "rk_test_"), r"[A-Za-z0-9]{10,}"),  # Stripe
    **dict.fromkeys(("AKIA", "ASIA"), r"[A-Z0-9]{16}\b"),  # AWS
    **dict.fromkeys(("gho_", "ghp_", "ghr_", "ghs_", "ghu_"), r"[A-Za-z0-9]{20,}"),
    "github_pat_": r"[A-Za-z0-9_]{20,}",
    "glpat-": r"[A-Za-z0-9_-]{20,}",
    "npm_": r"[A-Za-z0-9]{36}",
    "hf_": r"[A-Za-z0-9]{30,}",
    "pypi-": r"[A-Za-z0-9_-]{40,}",
    "xox": r"[abeoprs]-[A-Za-z0-9-]{10,}",  # Slack
    "AIza": r"[A-Za-z0-9_-]{35}",  # Google
    "eyJ": r"[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*",  # a JSON web token
}
"""The forms of known keys, by how they begin."""
_KNOWN = re.compile(rf"\b(?:{'|'.join(begin + rest for begin, rest in _KNOWN_KEYS.items())})")
_URL_PASSWORD = re.compile(r"(://[^\s/:@\"']{0,200}:)([^\s/@\"'{}$<>\[\]]{1,200})(?=@)")
_BEARER = re.compile(r"(\b(?:Bearer|Basic)\s{1,3})([A-Za-z0-9._~+/-]{16,}=*)")

SECRET_NAME = r"(?:passw(?:or)?d|passphrase|requirepass|secret|token|api[_-]?key|access[_-]?key|credential)"
_SECRET_WORDS = ("pass", "secret", "token", "key", "credent")
"""A part of each `SECRET_NAME`, in lower case: without i, which has forms that only `re` takes for it."""
_ASSIGNED = re.compile(
    rf"""
    ({SECRET_NAME}[A-Za-z0-9_-]{{0,40}}\\?["']?(?:\s{{0,8}}[=:]\s{{0,8}}|(?<=requirepass)\s{{1,8}})\\?["']?)
    (?: (?<=")(?P<double>[^"\\\n]{{4,400}})(?=\\?") | (?<=')(?P<single>[^'\\\n]{{4,400}})(?=\\?')
      | (?<!["'])(?P<bare>[^\s"'(){{}}\[\],;<>$=:`|\\]{{6,400}}(?![\w(\[])) )
    """,
    re.VERBOSE | re.IGNORECASE,
)
# In the words of others: a key that is quoted in part, and whatever follows as the key that they refuse.
_STARRED = re.compile(r"[A-Za-z0-9_.-]{0,100}\*{3,}[A-Za-z0-9_-]{1,100}|[A-Za-z0-9_.-]{1,100}\*{3,}")
_REFUSED_KEY = re.compile(
    r"""
    (?! (?<=invalid_) api_key : \s (?-i:[A-Z][a-z]{2,12}) \s)  # the code of an error, before its sentence
    ((?:api|access|secret|virtual|master)[ _-]?key \s{0,3} (?:provided|received|passed|used)? \s{0,3}
        [:=] \s{0,3} [\"'`]?)
    (?!https?://) [^\s\"'`,;()\[\]]{5,400} [^\s\"'`,;()\[\].]
    """,
    re.VERBOSE | re.IGNORECASE,
)
_UNPRINTED = re.compile(r"(?:\s|[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff])+")
_MAX_FOREIGN_CHARS = 300
NAMES_A_SECRET = re.compile(SECRET_NAME, re.IGNORECASE)
# What stands where a secret would, and is none: the name of one, an expression, a placeholder.
_IDENTIFIER = re.compile(r"[A-Za-z_./-]+|[a-z]+(?:_[a-z0-9]+)+|[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")
_PLACEHOLDER = re.compile(
    r"[$<{\[(*%#].*|.*(?:os\.environ/|\$\{|\.\.\.|…).*|[\d\W_]+|[\d.]+[eE][+-]?\d+|\d+\*\w+"
)

# But for digests as lock files write them.
_RANDOM = re.compile(r"(?<![A-Za-z0-9+/_=-])(?<!h1:)(?!sha\d{1,3}-)[A-Za-z0-9+/_-]{28,}")
NO_SECRET = re.compile(r"[0-9a-f]+|[0-9A-Z]+")  # a git revision, a digest, a UUID's part, a ULID
_MIN_CHANGES = 0.3  # of its neighbours: names written in camel case have as many, but few numbers
_MIN_NUMBERS = 3


def _redacted(secret: str) -> str:
    return REDACTED


class Marks:
    """A mask that says how much it hides, such as `[hidden: 24 characters]`, and counts all of it.

    A secret of several lines gets a mark in each, so that a diff keeps its lines.
    """

    def __init__(self, characters: int = 0, lines: int = 0) -> None:
        self.characters, self.lines = characters, lines

    def __call__(self, secret: str) -> str:
        """The mark in place of a secret."""
        return "\n".join(map(self._mark, secret.split("\n")))

    def _mark(self, line: str) -> str:
        before, text, after = _IN_LINE.fullmatch(line).groups()  # type: ignore[union-attr]
        self.characters, self.lines = self.characters + len(text), self.lines + 1
        return f"{before}[hidden: {_characters(text)}]{after}"

    @property
    def counts(self) -> dict[str, int]:
        """How many characters and lines are hidden; empty for none."""
        return {"characters": self.characters, "lines": self.lines} if self.lines else {}


_IN_LINE = re.compile(r"([ \t]*[+-]?[ \t]*)(.*?)(\r?)", re.DOTALL)


def secret_of_mesh(secret: str) -> str:
    """The text in place of a secret that the mesh itself holds. It is never shown."""
    return f"[secret of the mesh: {_characters(secret)}]"


def _characters(text: str) -> str:
    return f"{len(text):,} character{'' if len(text) == 1 else 's'}"


def redact(text: str, mask: Mask = _redacted) -> str:
    """The text with `[redacted]`, or what `mask` gives, in place of whatever looks like a secret."""
    # Most texts have none of the words, and finding these costs a tenth of an expression.
    text = _PRIVATE_KEY.sub(lambda match: f"{match[1]}{mask(match[2])}", text)
    if any(map(text.__contains__, _KNOWN_KEYS)):
        text = _KNOWN.sub(lambda match: mask(match[0]), text)
    text = _URL_PASSWORD.sub(lambda match: f"{match[1]}{mask(match[2])}", text)
    if "Bearer" in text or "Basic" in text:
        text = _BEARER.sub(lambda match: f"{match[1]}{mask(match[2])}", text)
    if any(map(text.casefold().__contains__, _SECRET_WORDS)):
        text = _ASSIGNED.sub(lambda match: _assigned(match, mask), text)
    return _RANDOM.sub(lambda match: _random(match, mask), text)


def foreign_words(text: str, secrets: Iterable[str] = (), *, max_chars: int = _MAX_FOREIGN_CHARS) -> str:
    """The words of another program as one line that may be stored and shown.

    It is without the `secrets` sent there, without keys that are quoted in part, and of `max_chars` at most.
    """
    is_cut = len(text) > 8 * max_chars
    text = _UNPRINTED.sub(" ", text[: 8 * max_chars]).encode(errors="replace").decode()
    text = text.rpartition(" ")[0] if is_cut and " " in text else text  # a secret may be cut in two there
    for secret in sorted(secrets, key=len, reverse=True):  # one may be a part of another
        text = text.replace(secret, REDACTED) if secret else text
    text = _STARRED.sub(REDACTED, _REFUSED_KEY.sub(rf"\g<1>{REDACTED}", redact(text))).strip()
    return text if len(text) <= max_chars else f"{text[: max_chars - 1].rstrip()}…"


def redact_data(data: Any, mask: Mask = _redacted) -> Any:
    """Plain JSON data, redacted throughout; the value of a field whose name tells of a secret is one too."""
    match data:
        case str():
            return redact(data, mask)
        case list():
            return [redact_data(item, mask) for item in data]
        case dict():
            return {redact(name, mask): _field(name, value, mask) for name, value in data.items()}
        case _:
            return data


def _field(name: str, value: Any, mask: Mask) -> Any:
    if isinstance(value, str) and NAMES_A_SECRET.search(name) and _is_secret(value, name):
        return mask(value)
    return redact_data(value, mask)


def _assigned(match: re.Match[str], mask: Mask) -> str:
    name, value = match[1], match["double"] or match["single"] or match["bare"]
    # As in an .env file, or in redis.conf: no program's variable is assigned like that.
    is_literal = match["bare"] is None or re.fullmatch(r"[A-Z0-9_-]+=|(?i:requirepass)\s+", name) is not None
    return f"{name}{mask(value)}" if _is_secret(value, name if is_literal else "") else match[0]


def _is_secret(value: str, name: str) -> bool:
    """Whether an assigned value is a secret; `name` names a literal value, else it is empty."""
    if _PLACEHOLDER.fullmatch(value) or any(character.isspace() for character in value):
        return False
    # A password may be a word, where no program's variable is meant.
    may_be_a_word = "pass" in name.casefold() and value.casefold() not in name.casefold()
    if may_be_a_word and not re.search(r"[._/]", value):
        return True
    return _IDENTIFIER.fullmatch(value) is None


def _random(match: re.Match[str], mask: Mask) -> str:
    text = match[0]
    parts = [part for part in re.split(r"[+/_=-]+", text) if not NO_SECRET.fullmatch(part)]
    kinds = ["a" if one.islower() else "A" if one.isupper() else "0" for one in "".join(parts)]
    if len(set(kinds)) < 3:
        return text
    neighbours = list(pairwise(kinds))
    changes = sum(one != other and "a" in (one, other) for one, other in neighbours)
    numbers = sum(one != "0" and other == "0" for one, other in neighbours)
    return mask(text) if changes >= _MIN_CHANGES * len(kinds) and numbers >= _MIN_NUMBERS else text


_BASICS = ("HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "TMPDIR", "TZ")


def environment_with(names: Iterable[str] = ()) -> dict[str, str]:
    """The variables of this process that every program gets, and those with the names.

    A program gets no others: a broker or git needs no key of a model.
    """
    return {name: os.environ[name] for name in (*_BASICS, *names) if name in os.environ}
