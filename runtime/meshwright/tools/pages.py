"""From the bytes of a web page to the text that a person would read on it."""

from __future__ import annotations

import codecs
import re
from html.parser import HTMLParser
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


class Page(NamedTuple):
    """A page as text, with its title."""

    title: str
    text: str


def read_html(html: str) -> Page:
    """Take title and readable text out of HTML, however broken. Its cost is in proportion to the length."""
    parser = _Reader()
    # An end tag brings out the text before it. `close` would too, but on a page made of unclosed comments
    # it takes time in proportion to the square.
    parser.feed(f"{html}</html>")
    return Page(_tidy("".join(parser.title)).replace("\n", " "), _tidy("".join(parser.text)))


def decode(data: bytes, charset: str | None) -> str:
    """Decode a page by the charset of its header, else that of its `meta` element, else UTF-8."""
    named = META_CHARSET.search(data, 0, META_PROBE_BYTES)
    return data.decode(_codec(charset or (named[1].decode() if named else "utf-8")), errors="replace")


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.title: list[str] = []
        self.text: list[str] = []
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if not self._inside and (tag in UNSEEN or tag == "title"):
            self._inside = tag
        self.text.append(OPENINGS.get(tag, "") if tag in INLINE else "\n" + OPENINGS.get(tag, ""))

    def handle_endtag(self, tag: str) -> None:
        if tag == self._inside:
            self._inside = ""
        elif tag not in INLINE:
            self.text.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self.text.append(data)
        elif self._inside == "title":
            self.title.append(data)


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
