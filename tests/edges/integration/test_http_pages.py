"""The pages that people open: they work without a network, and in no other site's frame."""

import re
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import ClassVar
from urllib.parse import urljoin, urlsplit

import aiohttp
import pytest
from yarl import URL

from meshwright.component import Component, Pages
from meshwright.core.errors import ConfigError
from meshwright.edges.http.app import create_app
from meshwright.edges.http.server import serving
from tests.support.http_mesh import http_mesh

SHIELDS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'none'",
}
QUOTED_URL = re.compile(r"""["'`(]((?:https?:)?//[^"'`)\s]+|/[a-z][^"'`)\s]*)["'`)]""")


class Links(HTMLParser):
    """Every address that a page names."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if name in ("href", "src", "action") and value]


UI = files("meshwright.parts.page") / "web" / "ui"


def imports_of(module: str) -> set[str]:
    """All modules that one imports at once, by way of others too, and itself."""
    waiting, imported = [module], {module}
    while waiting:
        imports = re.findall(r'^import [^;]*? from "\./(.+?)";', (UI / waiting.pop()).read_text(), re.M)
        waiting += set(imports) - imported
        imported |= set(imports)
    return imported


def test_the_page_preloads_its_modules_and_then_those_of_the_inbox() -> None:
    text = (UI.parent / "index.html").read_text()
    first, later = (
        re.findall(rf'"modulepreload"{extra} href="(.+?)"', text) for extra in ("", ' fetchpriority="low"')
    )
    page = imports_of("app.js")
    assert first == [f"/ui/{name}" for name in sorted(page - {"app.js"})]
    assert later == [f"/ui/{name}" for name in sorted(imports_of("inbox.js") - page)]
    assert 'type="module" src="/ui/app.js"' in text


async def test_the_documentation_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    async with http_mesh(tmp_path) as api:
        seen: set[str] = set()
        waiting = [urljoin(api.url, "/docs")]
        while waiting:
            url = waiting.pop()
            seen.add(url)
            assert urlsplit(url).netloc == urlsplit(api.url).netloc, url
            async with api.session.get(url) as response:
                assert response.status == 200, url
                text = await response.text()
                assert all(response.headers[name].startswith(value) for name, value in SHIELDS.items())
            links = Links()
            if response.content_type == "text/html":
                links.feed(text)
                assert not re.search(r"<script(?![^>]* src=)|\bon\w+=|<style", text)  # the policy allows none
            elif response.content_type in ("text/javascript", "text/css"):
                links.found = QUOTED_URL.findall(text)
            found = {urljoin(url, link) for link in links.found if not link.startswith("data:")}
            waiting += found - seen
        assert {urlsplit(url).path for url in seen} == {
            "/docs",
            "/docs/docs.css",
            "/docs/docs.js",
            "/openapi.json",
        }


async def test_a_file_is_sent_compressed_and_only_when_it_has_changed(tmp_path: Path) -> None:
    path = "/ui/style.css"
    async with http_mesh(tmp_path) as api:
        plain = {"Accept-Encoding": "identity", "If-None-Match": 'W/"of-an-older-version"'}
        async with api.session.get(path, headers=plain) as response:
            content = await response.read()
            assert (response.status, "Content-Encoding" in response.headers) == (200, False)
        async with api.session.get(path, headers={"Accept-Encoding": "br, gzip"}) as response:
            assert await response.read() == content
            sent, tag = int(response.headers["Content-Length"]), response.headers["ETag"]
            assert response.headers["Content-Encoding"] == "gzip" and sent < len(content) / 3
            assert (response.headers["Cache-Control"], response.headers["Vary"]) == (
                "no-cache",
                "Accept-Encoding",
            )
        async with api.session.get(path, headers={"If-None-Match": tag}) as response:
            assert (response.status, await response.read()) == (304, b"")
            assert all(response.headers[name].startswith(value) for name, value in SHIELDS.items())


TYPED = """// @ts-check
/**
 * Doubles.
 * @param {number} one
 */
export const twice = (one) => 2 * one; /** stays */
  /** @param {string} name */
export const greet = (name) => `Hello ${name}`; // stays
"""


async def test_types_in_comments_are_not_sent_and_lines_keep_their_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "static"
    folder.mkdir()
    (folder / "typed.js").write_text(TYPED)
    (folder / "plain.js").write_text(TYPED.removeprefix("// @ts-check\n"))
    monkeypatch.setattr(Shelf, "folder", folder, raising=False)
    monkeypatch.setattr(Shelf, "path", "/shelf", raising=False)
    async with http_mesh(tmp_path) as api:
        api.mesh.components.append(Shelf(api.mesh))
        async with serving(api.mesh, "127.0.0.1", 0) as server, aiohttp.ClientSession(server.url) as session:
            typed = await (await session.get("/shelf/typed.js")).text()
            plain = await (await session.get("/shelf/plain.js")).text()
        api.mesh.components.pop()
    lines = TYPED.splitlines()
    assert typed.splitlines() == [lines[0], "", "", "", "", lines[5], "", lines[7]]
    assert plain == TYPED.removeprefix("// @ts-check\n")


@pytest.mark.parametrize("path", ["/healthz", "/tasks", "/nowhere"])
async def test_every_answer_is_shielded_from_other_sites(tmp_path: Path, path: str) -> None:
    async with http_mesh(tmp_path) as api, api.session.get(path) as response:
        assert all(response.headers[name].startswith(value) for name, value in SHIELDS.items())


async def test_there_is_no_page_that_needs_a_network(tmp_path: Path) -> None:
    async with http_mesh(tmp_path) as api:
        status, problem = await api.call("GET", "/redoc")
        assert (status, "/docs" in problem["remedy"]) == (404, True)


async def test_without_a_page_the_root_says_where_the_documentation_is(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, page={"enabled": False}) as api:
        found = await api.get("/")
        assert found["name"] == "meshwright"
        for path in (found["docs"], found["openapi"]):
            async with api.session.get(path) as response:
                assert response.status == 200


@pytest.mark.parametrize(("protocol", "status"), [("h2c", 200), ("websocket", 400)])
async def test_an_upgrade_that_cannot_be_is_answered_without_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, protocol: str, status: int
) -> None:
    upgrade = {"Connection": "Upgrade", "Upgrade": protocol, "Sec-WebSocket-Version": "13"}
    async with http_mesh(tmp_path) as api, api.session.get("/healthz", headers=upgrade) as response:
        assert response.status == status
    assert not [record for record in caplog.records if record.name.startswith("uvicorn")]


class Shelf(Component):
    name = "shelf"
    path: ClassVar[str]
    folder: ClassVar[Path]

    def pages(self) -> list[Pages]:
        return [Pages(self.path, self.folder, is_open=True)]


@pytest.mark.parametrize("base", ["/shelf", "/"])
async def test_pages_of_a_component_are_at_their_own_paths_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: str
) -> None:
    folder = tmp_path / "static"
    for name in ("index.html", "deep/data.bin", ".secret", "__init__.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (tmp_path / "outside.txt").write_text("outside")
    monkeypatch.setattr(Shelf, "folder", folder, raising=False)
    monkeypatch.setattr(Shelf, "path", base, raising=False)
    async with http_mesh(tmp_path, page={"enabled": False}) as api:
        api.mesh.components.append(Shelf(api.mesh))
        async with serving(api.mesh, "127.0.0.1", 0) as server, aiohttp.ClientSession(server.url) as session:
            found = {}
            for path in ("", "/deep/data.bin", "/.secret", "/__init__.py", "/..%2foutside.txt", "/deep"):
                async with session.get(
                    URL(f"{server.url}{base.rstrip('/')}{path}", encoded=True)
                ) as response:
                    found[path] = (response.status, response.content_type)
        for path in ("/docs", "shelf", "/she{lf}"):
            monkeypatch.setattr(Shelf, "path", path)
            with pytest.raises(ConfigError, match="pages"):
                create_app(api.mesh)
        api.mesh.components.pop()
    assert found.pop("") == (200, "text/html")
    assert found.pop("/deep/data.bin") == (200, "application/octet-stream")
    assert {status for status, _ in found.values()} == {404}
