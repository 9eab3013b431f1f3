"""From the bytes of a web page to the text that a person would read on it."""

from __future__ import annotations

import codecs
import re
from html import unescape
from typing import NamedTuple

UNSEEN = frozenset({"script", "style", "noscript", "template", "svg", "iframe", "select"})
INLINE = frozenset(
    {"a", "abbr", "b", "bdi", "bdo", "button", "cite", "code", "data", "del", "dfn", "em", "font", "i", "img"}
    | {"input", "ins", "kbd", "label", "mark", "q", "s", "samp", "small", "span", "strong", "sub", "sup"}
    | {"td", "th", "time", "tt", "u", "var", "wbr"}
)
OPENINGS = {"li": "- ", "td": " ", "th": " "} | {f"h{level}": "#" * level + " " for level in range(1, 7)}
# What a page may name as its charset; Python also has codecs that take time in proportion to the square.
TEXT_CODECS = re.compile(r"utf-(8|16|32)|ascii|iso8859|iso2022|cp\d|koi8|gb|big5|euc|shift_jis|mac|tis")
META_CHARSET = re.compile(rb"<meta[^>]{0,200}charset=[\"']?([\w.:-]+)", re.IGNORECASE)
META_PROBE_BYTES = 2_048
RAW = {name: re.compile(rf"</{name}[\s/>]", re.IGNORECASE) for name in ("script", "style")}
MARKUP = re.compile(r"<(?:(?P<comment>!--)|[!?]|(?P<end>/)?(?P<tag>[A-Za-z][^\s/>]{0,50}))")
TAG_END = re.compile(r"=\s{0,20}(?P<quote>[\"'])|>")


class Page(NamedTuple):
    """A page as text, with its title."""

    title: str
    text: str


def read_html(html: str) -> Page:
    """Take title and readable text out of HTML, however broken. Its cost is in proportion to the length.

    Attributes are skipped, not read: what a page puts into a single tag cannot hold up other threads.
    """
    reader = _Reader()
    reader.read(html)
    return Page(_tidy("".join(reader.title)).replace("\n", " "), _tidy("".join(reader.text)))


def decode(data: bytes, charset: str | None) -> str:
    """Decode a page by the charset of its header, else that of its `meta` element, else UTF-8."""
    named = META_CHARSET.search(data, 0, META_PROBE_BYTES)
    return data.decode(_codec(charset or (named[1].decode() if named else "utf-8")), errors="replace")


class _Reader:
    def __init__(self) -> None:
        self.title: list[str] = []
        self.text: list[str] = []
        self._inside = ""

    def read(self, html: str) -> None:
        position = 0
        while markup := MARKUP.search(html, position):
            self._take_text(html[position : markup.start()])
            position = self._after(html, markup)
            if position < 0:  # it does not end
                return
        self._take_text(html[position:])

    def _after(self, html: str, markup: re.Match[str]) -> int:
        """Take a comment, a declaration or a tag, and return where it ends, or -1."""
        if markup["comment"]:
            return _past(html, "-->", markup.end())
        if not markup["tag"]:
            return _past(html, ">", markup.end())
        end, tag = _tag_end(html, markup.end()), markup["tag"].lower()
        if markup["end"]:
            self._take_end(tag)
            return end
        self._take_start(tag)
        if tag in RAW:
            close = RAW[tag].search(html, end) if end >= 0 else None
            return close.start() if close else -1
        if html[end - 2 : end] == "/>":
            self._take_end(tag)
        return end

    def _take_start(self, tag: str) -> None:
        if not self._inside and (tag in UNSEEN or tag == "title"):
            self._inside = tag
        self.text.append(OPENINGS.get(tag, "") if tag in INLINE else "\n" + OPENINGS.get(tag, ""))

    def _take_end(self, tag: str) -> None:
        if tag == self._inside:
            self._inside = ""
        elif tag not in INLINE:
            self.text.append("\n")

    def _take_text(self, text: str) -> None:
        if not self._inside:
            self.text.append(unescape(text))
        elif self._inside == "title":
            self.title.append(unescape(text))


def _past(html: str, mark: str, start: int) -> int:
    found = html.find(mark, start)
    return found + len(mark) if found >= 0 else -1


def _tag_end(html: str, start: int) -> int:
    """Where a tag ends, or -1; a > in a quoted value does not end it."""
    while match := TAG_END.search(html, start):
        if not match["quote"]:
            return match.end()
        start = _past(html, match["quote"], match.end())
        if start < 0:
            return _past(html, ">", match.end())
    return -1


def _codec(name: str) -> str:
    try:
        found = codecs.lookup(name).name
    except LookupError:
        return "utf-8"
    return found if TEXT_CODECS.match(found) else "utf-8"


def _tidy(text: str) -> str:
    """One space between words, at most one empty line between paragraphs."""
    lines = [" ".join(line.split()) for line in text.split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
