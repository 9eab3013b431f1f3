"""Reading web pages: http and https, within limits, from public addresses unless settings allow others."""

from __future__ import annotations

import asyncio
import codecs
import errno
import re
from html import unescape
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import HttpUrl

from meshwright.agents.tools.limited_work import cut
from meshwright.agents.tools.tool import tool
from meshwright.agents.tools.toolset import Toolset
from meshwright.core.errors import InvalidInput, MeshError, ToolFailed
from meshwright.core.http_calls import open_public_socket, read_bounded

if TYPE_CHECKING:
    from aiohttp import ClientError, ClientSession

_READABLE = re.compile(r"text/.+|application/(.+\+)?(json|xml)")
HTML = frozenset({"text/html", "application/xhtml+xml"})
HEADERS = {
    "User-Agent": "meshwright",
    "Accept": "text/html, application/json, application/xml, text/*;q=0.9",
    "Accept-Encoding": "gzip, deflate",
}
MAX_HEADERS = 128
MAX_HEADER_BYTES = 8_190


class WebTools(Toolset):
    """Fetches pages; each call has connections and cookies of its own, so that no task sees another's."""

    @tool(idempotent=True, effect="read", origin="outside")
    async def fetch_page(self, url: HttpUrl) -> dict[str, Any]:
        """Fetch a web page and return its readable text, with its title, HTTP status and final address.

        Args:
            url: the address, http or https
        """
        import aiohttp

        if url.username or url.password:
            raise InvalidInput("the address holds credentials", remedy="leave them out", field="url")
        limit = self.settings.fetch_timeout_seconds
        try:
            async with asyncio.timeout(limit), self._session() as session:
                return await self._fetch(session, str(url))
        except TimeoutError as error:
            raise ToolFailed(f"{url} took longer than {limit:g} seconds") from error
        except aiohttp.ClientError as error:
            raise _failure(url, error) from error

    def _session(self) -> ClientSession:
        import aiohttp

        guard = None if self.settings.allow_private_addresses else open_public_socket
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(socket_factory=guard),
            headers=HEADERS,
            timeout=aiohttp.ClientTimeout(total=None),  # `fetch_page` keeps the time, reading included
            max_headers=MAX_HEADERS,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
        )

    async def _fetch(self, session: ClientSession, url: str) -> dict[str, Any]:
        async with session.get(url, max_redirects=self.settings.max_redirects) as response:
            if not _READABLE.fullmatch(response.content_type):
                raise ToolFailed(f"{response.url} is {response.content_type}, which cannot be read as text")
            data, is_whole = await read_bounded(response, self.settings.max_page_bytes)
        # In a thread, since a large page takes a while.
        page = await asyncio.to_thread(_page, data, response.content_type, response.charset)
        text = cut(page.text, self.settings.max_text_chars)
        if not is_whole:
            text += f"\n[cut: the page is larger than {self.settings.max_page_bytes:,} bytes]"
        return {"url": str(response.url), "status": response.status, "title": page.title, "text": text}


def _page(data: bytes, content_type: str, charset: str | None) -> _WebPage:
    text = decode(data, charset)
    return read_html(text) if content_type in HTML else _WebPage("", text)


def _failure(url: HttpUrl, error: ClientError) -> MeshError:
    import aiohttp

    if isinstance(error, aiohttp.ClientConnectorError) and error.errno == errno.EACCES:
        problem = f"{url} was not fetched: {error.host} leads to a private address ({error.strerror})"
        remedy = "only the setting allow_private_addresses permits that"
        return InvalidInput(problem, remedy=remedy, field="url")
    if isinstance(error, aiohttp.TooManyRedirects):
        return ToolFailed(f"{url} redirects too often")
    return ToolFailed(f"{url} cannot be fetched: {type(error).__name__}: {error}")


_UNSEEN = frozenset({"script", "style", "noscript", "template", "svg", "iframe", "select"})
_INLINE = frozenset(
    {"a", "abbr", "b", "bdi", "bdo", "button", "cite", "code", "data", "del", "dfn", "em", "font", "i", "img"}
    | {"input", "ins", "kbd", "label", "mark", "q", "s", "samp", "small", "span", "strong", "sub", "sup"}
    | {"td", "th", "time", "tt", "u", "var", "wbr"}
)
_OPENINGS = {"li": "- ", "td": " ", "th": " "} | {f"h{level}": "#" * level + " " for level in range(1, 7)}
# What a page may name as its charset; Python also has codecs that take time in proportion to the square.
_TEXT_CODECS = re.compile(r"utf-(8|16|32)|ascii|iso8859|iso2022|cp\d|koi8|gb|big5|euc|shift_jis|mac|tis")
META_CHARSET = re.compile(rb"<meta[^>]{0,200}charset=[\"']?([\w.:-]+)", re.IGNORECASE)
_META_PROBE_BYTES = 2_048
RAW = {name: re.compile(rf"</{name}[\s/>]", re.IGNORECASE) for name in ("script", "style")}
_MARKUP = re.compile(r"<(?:(?P<comment>!--)|[!?]|(?P<end>/)?(?P<tag>[A-Za-z][^\s/>]{0,50}))")
_TAG_END = re.compile(r"=\s{0,20}(?P<quote>[\"'])|>")


class _WebPage(NamedTuple):
    """A page as text, with its title."""

    title: str
    text: str


def read_html(html: str) -> _WebPage:
    """Take title and readable text out of HTML, however broken. Its cost is in proportion to the length.

    Attributes are skipped, not read: what a page puts into a single tag cannot hold up other threads.
    """
    reader = _Reader()
    reader.read(html)
    return _WebPage(_tidy("".join(reader.title)).replace("\n", " "), _tidy("".join(reader.text)))


def decode(data: bytes, charset: str | None) -> str:
    """Decode a page by the charset of its header, else that of its `meta` element, else UTF-8."""
    match = META_CHARSET.search(data, 0, _META_PROBE_BYTES)
    return data.decode(_codec(charset or (match[1].decode() if match else "utf-8")), errors="replace")


class _Reader:
    def __init__(self) -> None:
        self.title: list[str] = []
        self.text: list[str] = []
        self._inside = ""

    def read(self, html: str) -> None:
        position = 0
        while markup := _MARKUP.search(html, position):
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
        if not self._inside and (tag in _UNSEEN or tag == "title"):
            self._inside = tag
        self.text.append(_OPENINGS.get(tag, "") if tag in _INLINE else "\n" + _OPENINGS.get(tag, ""))

    def _take_end(self, tag: str) -> None:
        if tag == self._inside:
            self._inside = ""
        elif tag not in _INLINE:
            self.text.append("\n")

    def _take_text(self, text: str) -> None:
        if not self._inside:
            self.text.append(unescape(text))
        elif self._inside == "title":
            self.title.append(unescape(text))


def _past(html: str, mark: str, start: int) -> int:
    end = html.find(mark, start)
    return end + len(mark) if end >= 0 else -1


def _tag_end(html: str, start: int) -> int:
    """The index at which a tag ends, or -1; a > in a quoted value does not end it."""
    while match := _TAG_END.search(html, start):
        if not match["quote"]:
            return match.end()
        start = _past(html, match["quote"], match.end())
        if start < 0:
            return _past(html, ">", match.end())
    return -1


def _codec(name: str) -> str:
    try:
        codec = codecs.lookup(name).name
    except LookupError:
        return "utf-8"
    return codec if _TEXT_CODECS.match(codec) else "utf-8"


def _tidy(text: str) -> str:
    lines = [" ".join(line.split()) for line in text.split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
