"""Registries of packages, PyPI, npm and Go: where a package's documentation is, and what it says."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

from meshwright.toolsets.rest import RestClient

_WORD = re.compile(r"[\w.]{2,}")
_HEADING = re.compile(r"^(?=#{1,6} |\S[^\n]*\n[=\-~]{3,}\s*$)", re.MULTILINE)
_MAX_PASSAGE_CHARS = 1_500
_MAX_PASSAGES = 5


class Package(NamedTuple):
    """A package as its registry has it: `text` is its readme, empty where the registry has none."""

    name: str
    version: str
    summary: str
    links: Mapping[str, str]
    text: str


async def of_pypi(server: RestClient, name: str) -> Package:
    """A package of PyPI, by its JSON API."""
    info = _fields(_fields(await server.get("pypi", name, "json")).get("info"))
    links = {
        "registry": f"https://pypi.org/project/{quote(name, safe='')}/",
        **_fields(info.get("project_urls")),
    }
    return Package(
        _text(info, "name"), _text(info, "version"), _text(info, "summary"), links, _text(info, "description")
    )


async def of_npm(server: RestClient, name: str) -> Package:
    """A package of npm, by the document of its registry."""
    found = _fields(await server.get(name))
    links = {"registry": f"https://www.npmjs.com/package/{quote(name, safe='@/')}"}
    repository = found.get("repository")
    known = {"homepage": found.get("homepage"), "repository": _fields(repository).get("url") or repository}
    links |= {title: url for title, url in known.items() if isinstance(url, str)}
    version = _text(_fields(found.get("dist-tags")), "latest")
    return Package(_text(found, "name"), version, _text(found, "description"), links, _text(found, "readme"))


async def of_go(server: RestClient, name: str) -> Package:
    """A Go module, by the module proxy, which knows its version and where it comes from, and no readme."""
    escaped = re.sub("[A-Z]", lambda letter: f"!{letter[0].lower()}", name)
    found = _fields(await server.get(*escaped.split("/"), "@latest"))
    links = {"registry": f"https://pkg.go.dev/{quote(name, safe='/')}"}
    if url := _fields(found.get("Origin")).get("URL"):
        links["repository"] = str(url)
    return Package(name, _text(found, "Version"), "", links, "")


REGISTRIES: Mapping[str, Callable[[RestClient, str], Awaitable[Package]]] = {
    "pypi": of_pypi,
    "npm": of_npm,
    "go": of_go,
}


def passages(text: str, query: str) -> list[str]:
    """The sections of a text with the most words of a query, in the order of the text."""
    words = {word.lower() for word in _WORD.findall(query)}
    scored = []
    for place, section in enumerate(part.strip() for part in _HEADING.split(text)):
        found = words & {word.lower() for word in _WORD.findall(section)}
        if found:
            scored.append((len(found), -place, section[:_MAX_PASSAGE_CHARS]))
    best = sorted(scored, reverse=True)[:_MAX_PASSAGES]
    return [section for _, _, section in sorted(best, key=lambda entry: -entry[1])]


def _fields(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    return value if isinstance(value, str) else ""
