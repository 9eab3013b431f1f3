"""Fetching pages from a real server, and the addresses that are never connected to."""

import asyncio
import gzip
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from meshwright.agents.tools.web import decode, read_html
from meshwright.core import http_calls
from meshwright.core.errors import InvalidInput, ToolFailed
from meshwright.core.http_calls import is_metadata, is_public
from meshwright.tools import ToolSettings, WebTools, collect_tools

PAGE = """<!doctype html><html><head><title>Example &amp;
 Domain</title><style>p {}</style><script>let x = "<p>no</p>"</script></head>
<body><h1>Hello</h1><p>One&nbsp;<b>bold</b> word,<br>then more.</p><svg><title>no</title></svg>
<ul><li>first</li><li>second</li></ul><noscript>no</noscript><table><tr><td>a</td><td>b</td></tr></table>
<p>last"""
READ = "# Hello\n\nOne bold word,\nthen more.\n\n- first\n\n- second\n\na b\n\nlast"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(host: str = "127.0.0.1", /, **handlers: Handler) -> AsyncIterator[str]:
    """A server on a free port of this machine, with a handler for each path."""
    app = web.Application()
    for name, handler in handlers.items():
        app.router.add_get(f"/{name}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, 0)
        await site.start()
        yield f"http://{host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def answering(body: str | bytes, content_type: str = "text/plain", **options: Any) -> Handler:
    async def answer(request: web.Request) -> web.Response:
        data = body.encode() if isinstance(body, str) else body
        return web.Response(body=data, content_type=content_type, **options)

    return answer


def redirecting(location: str) -> Handler:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": location})

    return answer


def fetching(**settings: Any) -> Callable[[str], Awaitable[Any]]:
    """Call `fetch_page` as a model does."""
    [fetch] = collect_tools(WebTools(ToolSettings(**({"allow_private_addresses": True} | settings))))
    context: Any = None
    return lambda url: fetch.call(f'{{"url": "{url}"}}', context)


async def test_a_page_comes_back_as_readable_text_with_title_status_and_final_address() -> None:
    async with serving(
        page=answering(PAGE, "text/html", charset="utf-8"), old=redirecting("/page")
    ) as server:
        page = await fetching()(f"{server}/old")
    assert page == {"url": f"{server}/page", "status": 200, "title": "Example & Domain", "text": READ}


async def test_text_json_and_xml_come_back_as_they_are() -> None:
    bodies = {"text/plain": "a  <b>", "application/json": '{"a": 1}', "application/atom+xml": "<a>1</a>"}
    for content_type, body in bodies.items():
        async with serving(page=answering(body, content_type)) as server:
            page = await fetching()(f"{server}/page")
        assert (page["text"], page["title"]) == (body, "")


async def test_the_status_of_an_error_page_is_told() -> None:
    async with serving(page=answering("gone", status=410)) as server:
        page = await fetching()(f"{server}/page")
    assert (page["status"], page["text"]) == (410, "gone")


async def test_what_is_not_text_is_refused() -> None:
    async with serving(page=answering(b"%PDF", "application/pdf")) as server:
        with pytest.raises(ToolFailed, match="is application/pdf, which cannot be read as text"):
            await fetching()(f"{server}/page")


async def test_a_page_is_read_only_up_to_its_limit_and_says_so() -> None:
    left = asyncio.Event()

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        try:
            while True:
                await response.write(b"x" * 1_000)
        except ConnectionError:
            left.set()
        return response

    async with serving(page=endless) as server:
        page = await fetching(max_page_bytes=2_000)(f"{server}/page")
        await left.wait()
    assert page["text"] == "x" * 2_000 + "\n[cut: the page is larger than 2,000 bytes]"


async def test_the_limit_counts_what_a_packed_page_unpacks_to() -> None:
    bomb = gzip.compress(b"x" * 50_000_000)
    packed = answering(bomb, headers={"Content-Encoding": "gzip"})
    async with serving(page=packed) as server:
        page = await fetching(max_page_bytes=2_000)(f"{server}/page")
    assert page["text"].endswith("[cut: the page is larger than 2,000 bytes]")


async def test_a_long_text_is_cut_visibly() -> None:
    async with serving(page=answering("x" * 50)) as server:
        page = await fetching(max_text_chars=10)(f"{server}/page")
    assert page["text"] == "x" * 10 + "\n[cut: the first 10 of 50 characters]"


async def test_a_server_that_never_ends_its_answer_is_left_after_the_time_limit() -> None:
    left = asyncio.Event()

    async def stalling(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        await response.write(b"x")
        try:
            await left.wait()
        finally:
            left.set()
        return response

    async with serving(page=stalling) as server:
        with pytest.raises(ToolFailed, match=r"took longer than 0\.2 seconds"):
            await fetching(fetch_timeout_seconds=0.2)(f"{server}/page")
        left.set()


async def test_redirects_are_followed_a_few_times_and_only_to_web_addresses() -> None:
    async with serving(round=redirecting("/round"), file=redirecting("file:///etc/passwd")) as server:
        with pytest.raises(ToolFailed, match="redirects too often"):
            await fetching()(f"{server}/round")
        with pytest.raises(ToolFailed, match="cannot be fetched"):
            await fetching()(f"{server}/file")


async def test_a_server_that_is_not_there_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(ToolFailed, match="cannot be fetched: ClientConnectorError"):
        await fetching()(f"http://127.0.0.1:{port}/")


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org/",
        "file:///etc/passwd",
        "gopher://x/",
        "example.org",
        "//example.org",
        "",
        "http://",
    ],
)
async def test_only_http_and_https_addresses_are_taken(url: str) -> None:
    with pytest.raises(InvalidInput, match="fetch_page was not run") as caught:
        await fetching()(url)
    assert caught.value.field == "url"


async def test_an_address_with_credentials_is_refused_without_repeating_them() -> None:
    with pytest.raises(InvalidInput, match="credentials") as caught:
        await fetching()("http://me:hunter2@example.org/")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "localhost",
        "0.0.0.0",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::127.0.0.1]",
        "[2002:7f00:1::]",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "[fd20:ce::254]",
        "[ff02::1]",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "100.100.100.200",
        "169.254.169.254",
        "192.0.0.192",
        "168.63.129.16",
        "224.0.0.1",
        "255.255.255.255",
    ],
)
async def test_an_address_that_is_not_public_is_never_connected_to(host: str) -> None:
    with pytest.raises(InvalidInput, match="private address") as caught:
        await fetching(allow_private_addresses=False, fetch_timeout_seconds=5)(f"http://{host}:9/")
    assert caught.value.field == "url"
    assert "allow_private_addresses" in caught.value.remedy


@pytest.mark.parametrize(
    "address", ["93.184.215.14", "8.8.8.8", "2606:4700::6810:84e5", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address", ["", "example.org", "2130706433", "0177.0.0.1", "fec0::1", "2001:db8::1", "240.0.0.1"]
)
def test_what_is_no_public_address_in_its_usual_form_is_not(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        *(("169.254.169.254", True), ("::ffff:169.254.169.254", True), ("fe80::1%eth0", True)),
        *(("64:ff9b::a9fe:a9fe", True), ("fd00:ec2::254", True), ("100.100.100.200", True)),
        *(("127.0.0.1", False), ("192.168.1.7", False), ("fd00::1", False), ("8.8.8.8", False), ("x", False)),
    ],
)
def test_metadata_services_are_known_by_their_addresses(address: str, expected: bool) -> None:
    assert is_metadata(address) is expected


async def test_a_public_name_that_leads_to_a_private_address_is_not_connected_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def answer_of_a_hostile_name_server(host: str, port: int, **options: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", answer_of_a_hostile_name_server)
    async with serving(page=answering("secret")) as server:
        url = f"{server}/page".replace("127.0.0.1", "example.org")
        assert (await fetching()(url))["text"] == "secret"
        with pytest.raises(InvalidInput, match=r"example\.org leads to a private address"):
            await fetching(allow_private_addresses=False)(url)


async def test_a_redirect_to_a_private_address_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    # A server of this machine has to stand for a public one.
    monkeypatch.setattr(http_calls, "is_public", lambda address: address == "127.0.0.1")
    async with (
        serving("127.0.0.2", page=answering("secret")) as private,
        serving(page=redirecting(f"{private}/page"), open=answering("open")) as public,
    ):
        fetch = fetching(allow_private_addresses=False)
        assert (await fetch(f"{public}/open"))["text"] == "open"
        with pytest.raises(InvalidInput, match=r"127\.0\.0\.2 leads to a private address"):
            await fetch(f"{public}/page")


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("plain & simple", "plain & simple"),
        ("a<!-- never closed <p>b", "a"),
        ("<p>a<script>never closed <p>b", "a"),
        ("<p>a</p ><p>b</b></div>c", "a\n\nb\nc"),
        ("a < b &lt; c &#x41; &nosuch;", "a < b < c A &nosuch;"),
        ("<body><pre>x = 1</pre>", "x = 1"),
        ('<a title="a > b" href=x>link</a>', "link"),
        ("<a title=it's>its</a> <a title='>'>other</a>", "its other"),
        ('<p title="never closed>a</p>b', "a\nb"),
        ("a<style>b > c</STYLE >d<svg/>e<title/>f", "a\nd\ne\nf"),
        ("<!doctype html><?xml x?>a<![CDATA[b]]>c", "ac"),
        ("", ""),
    ],
)
def test_broken_pages_still_give_their_text(html: str, text: str) -> None:
    assert read_html(html).text == text


@pytest.mark.parametrize("part", ["<!--", "<", "<a ", "</", "<![CDATA[", "&", "<title>", "<svg>", "<!"])
def test_a_hostile_page_is_read_in_time(part: str) -> None:
    html = part * (300_000 // len(part))
    started = time.process_time()
    read_html(html)
    assert time.process_time() - started < 5


@pytest.mark.parametrize("part", [" a", ' a=">"', " a='>'", "/", " a=", '"'])
def test_a_tag_of_a_megabyte_costs_next_to_nothing(part: str) -> None:
    html = "<a" + part * (1_000_000 // len(part))
    started = time.thread_time()
    assert read_html(f"{html}>after").text in ("after", "")
    assert time.thread_time() - started < 0.3


async def test_a_page_with_too_many_headers_is_refused() -> None:
    many = {f"X-{number}": "v" for number in range(20_000)}
    async with serving(page=answering("ok", headers=many), few=answering("ok")) as server:
        with pytest.raises(ToolFailed, match="Too many headers"):
            await fetching()(f"{server}/page")
        assert (await fetching()(f"{server}/few"))["text"] == "ok"


async def test_a_page_with_a_long_header_is_refused() -> None:
    async with serving(page=answering("ok", headers={"X": "v" * 10_000})) as server:
        with pytest.raises(ToolFailed, match="cannot be fetched"):
            await fetching()(f"{server}/page")


def test_the_charset_comes_from_the_header_then_the_page_then_is_utf_8() -> None:
    assert decode("æøå".encode("latin-1"), "ISO-8859-1") == "æøå"
    assert decode('<meta charset="windows-1251">да'.encode("cp1251"), None).endswith("да")
    assert decode("æøå".encode(), None) == "æøå"
    assert decode("æøå".encode(), "no-such-charset") == "æøå"
    assert decode(b"a\xff", "utf-8") == "a\ufffd"
    assert decode("æ".encode(), "punycode") == "æ"
    assert decode(b"61", "hex") == "61"
