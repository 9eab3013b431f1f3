"""Reading web pages: http and https, within limits, from public addresses unless settings allow others."""

from __future__ import annotations

import asyncio
import errno
import re
from typing import TYPE_CHECKING, Any

from pydantic import HttpUrl

from meshwright.errors import InvalidInput, MeshError, ToolFailed
from meshwright.tools.addresses import open_public_socket
from meshwright.tools.pages import Page, decode, read_html
from meshwright.tools.tool import cut, tool
from meshwright.tools.toolset import Toolset

if TYPE_CHECKING:
    from aiohttp import ClientError, ClientResponse, ClientSession

READABLE = re.compile(r"text/.+|application/(.+\+)?(json|xml)")
HTML = frozenset({"text/html", "application/xhtml+xml"})
HEADERS = {
    "User-Agent": "meshwright",
    "Accept": "text/html, application/json, application/xml, text/*;q=0.9",
    "Accept-Encoding": "gzip, deflate",
}
CHUNK_BYTES = 65_536
MAX_HEADERS = 128
MAX_HEADER_BYTES = 8_190


class WebTools(Toolset):
    """Fetches pages; each call has connections and cookies of its own, so that no task sees another's."""

    @tool(idempotent=True)
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
            if not READABLE.fullmatch(response.content_type):
                raise ToolFailed(f"{response.url} is {response.content_type}, which cannot be read as text")
            data, is_whole = await self._read(response)
        # In a thread, since a large page takes a while.
        page = await asyncio.to_thread(_page, data, response.content_type, response.charset)
        text = cut(page.text, self.settings.max_text_chars)
        if not is_whole:
            text += f"\n[cut: the page is larger than {self.settings.max_page_bytes:,} bytes]"
        return {"url": str(response.url), "status": response.status, "title": page.title, "text": text}

    async def _read(self, response: ClientResponse) -> tuple[bytes, bool]:
        """Read the body, unpacked, up to the limit; also whether that was all of it."""
        data = bytearray()
        async for chunk in response.content.iter_chunked(CHUNK_BYTES):
            data += chunk
            if len(data) > self.settings.max_page_bytes:
                return bytes(data[: self.settings.max_page_bytes]), False
        return bytes(data), True


def _page(data: bytes, content_type: str, charset: str | None) -> Page:
    text = decode(data, charset)
    return read_html(text) if content_type in HTML else Page("", text)


def _failure(url: HttpUrl, error: ClientError) -> MeshError:
    import aiohttp

    if isinstance(error, aiohttp.ClientConnectorError) and error.errno == errno.EACCES:
        return InvalidInput(
            f"{url} was not fetched: {error.host} leads to a private address ({error.strerror})",
            remedy="only the setting allow_private_addresses permits that",
            field="url",
        )
    if isinstance(error, aiohttp.TooManyRedirects):
        return ToolFailed(f"{url} redirects too often")
    return ToolFailed(f"{url} cannot be fetched: {type(error).__name__}: {error}")
