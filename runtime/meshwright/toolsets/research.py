"""Tools that find things out in the open: search engines, pages, package registries, repositories.

All that they return may be the words of strangers. They reach no file of the workspace. Search engines are
data, by their documented APIs: SearXNG's `/search?format=json`, Brave's `/res/v1/web/search`, Tavily's
`/search`. Registries are PyPI, npm and Go.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, model_validator

from meshwright.agents.tools.tool import Tool, ToolContext, tool
from meshwright.agents.tools.toolset import ToolSettings
from meshwright.agents.tools.web import WebTools
from meshwright.core.errors import InvalidInput, ToolFailed
from meshwright.core.money import ZERO, Dollars
from meshwright.core.settings.forms import Secret, Table, http_url
from meshwright.toolsets.repositories import repository_overview
from meshwright.toolsets.rest import RestClient, RestService

_BEARER = ("Authorization", "Bearer ")
_WORD = re.compile(r"[\w.]{2,}")
_HEADING = re.compile(r"^(?=#{1,6} |\S[^\n]*\n[=\-~]{3,}\s*$)", re.MULTILINE)
_MAX_PASSAGE_CHARS = 1_500
_MAX_PASSAGES = 5
_Query = Annotated[str, Field(min_length=1, max_length=400)]
_Site = Annotated[str, Field(pattern=r"^([A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+)?$", max_length=253)]
_Package = Annotated[str, Field(pattern=r"^@?[A-Za-z0-9][A-Za-z0-9._~/-]*$", max_length=214)]
_Name = Annotated[str, Field(min_length=1, max_length=200)]
_Address = Annotated[str, Field(pattern=r"^https?://[A-Za-z0-9._:/~-]+$", max_length=500)]
_MAX_ANSWER_BYTES = 12_000_000
_MAX_TEXT_CHARS = 600
_TIMEOUT_SECONDS = 20.0
_Url = Annotated[str, http_url("https://search.example.com")]


class SearchQuery(NamedTuple):
    """A search: words, a site or all, days or any age (0), how many results."""

    text: str
    site: str = ""
    fresh_days: int = 0
    count: int = 10

    @property
    def with_site(self) -> str:
        """The words with the site as most engines write it."""
        return f"{self.text} site:{self.site}" if self.site else self.text

    def age(self, names: tuple[str, str, str, str]) -> str:
        """The shortest of an engine's names for a day, a week, a month and a year that holds the days."""
        for days, name in zip((1, 7, 31), names[:3], strict=True):
            if self.fresh_days <= days:
                return name
        return names[3]


class SearchResult(NamedTuple):
    """A page that was found; `published` is as the engine writes it."""

    title: str
    url: str
    text: str
    published: str


class Engine(NamedTuple):
    """An engine: its usual address, its request and the header of its key, and its answer.

    `sent` makes the parameters of a GET, and the body of a POST. `place` leads to the list of results in the
    answer, `fields` name title, address, snippet and date of each.
    """

    url: str
    method: str
    path: tuple[str, ...]
    key: tuple[str, str]
    sent: Callable[[SearchQuery], Mapping[str, Any]]
    place: tuple[str, ...]
    fields: tuple[str, str, str, str]

    def results(self, answer: Any) -> list[SearchResult]:
        """The pages of an answer. Raises ValueError for what is no answer of the engine."""
        for name in self.place:
            answer = answer.get(name) if isinstance(answer, dict) else None
        if not isinstance(answer, list):
            raise ValueError(f"there is no {'.'.join(self.place)} in it")
        rows = [row for row in answer if isinstance(row, dict) and row.get("url")]
        return [SearchResult(*(str(row.get(field) or "") for field in self.fields)) for row in rows]


def _searxng(query: SearchQuery) -> Mapping[str, Any]:
    params = {"q": query.with_site, "format": "json"}
    if query.fresh_days:
        params["time_range"] = query.age(("day", "week", "month", "year"))
    return params


def _brave(query: SearchQuery) -> Mapping[str, Any]:
    params = {"q": query.with_site, "count": str(query.count), "text_decorations": "false"}
    if query.fresh_days:
        params["freshness"] = query.age(("pd", "pw", "pm", "py"))
    return params


def _tavily(query: SearchQuery) -> Mapping[str, Any]:
    body: dict[str, Any] = {"query": query.text, "max_results": query.count, "search_depth": "basic"}
    if query.site:
        body["include_domains"] = [query.site]
    if query.fresh_days:
        body["time_range"] = query.age(("day", "week", "month", "year"))
    return body


ENGINES: Mapping[str, Engine] = {
    "searxng": Engine(
        "", "GET", ("search",), _BEARER, _searxng, ("results",), ("title", "url", "content", "publishedDate")
    ),
    "brave": Engine(
        "https://api.search.brave.com",
        "GET",
        ("res", "v1", "web", "search"),
        ("X-Subscription-Token", ""),
        _brave,
        ("web", "results"),
        ("title", "url", "description", "page_age"),
    ),
    "tavily": Engine(
        "https://api.tavily.com",
        "POST",
        ("search",),
        _BEARER,
        _tavily,
        ("results",),
        ("title", "url", "content", "published_date"),
    ),
}


class Package(NamedTuple):
    """A package as its registry has it: `text` is its readme, empty where the registry has none."""

    name: str
    version: str
    summary: str
    links: Mapping[str, str]
    text: str


async def pypi_package(server: RestClient, name: str) -> Package:
    """A package of PyPI, by its JSON API."""
    info = _fields(_fields(await server.get("pypi", name, "json")).get("info"))
    links = {
        "registry": f"https://pypi.org/project/{quote(name, safe='')}/",
        **_fields(info.get("project_urls")),
    }
    return Package(
        _text(info, "name"), _text(info, "version"), _text(info, "summary"), links, _text(info, "description")
    )


async def npm_package(server: RestClient, name: str) -> Package:
    """A package of npm, by the document of its registry."""
    package = _fields(await server.get(name))
    links = {"registry": f"https://www.npmjs.com/package/{quote(name, safe='@/')}"}
    repository = package.get("repository")
    urls = {"homepage": package.get("homepage"), "repository": _fields(repository).get("url") or repository}
    links |= {title: url for title, url in urls.items() if isinstance(url, str)}
    version = _text(_fields(package.get("dist-tags")), "latest")
    return Package(
        _text(package, "name"), version, _text(package, "description"), links, _text(package, "readme")
    )


async def go_package(server: RestClient, name: str) -> Package:
    """A Go module, by the module proxy, which knows its version and where it comes from, and no readme."""
    escaped = re.sub("[A-Z]", lambda letter: f"!{letter[0].lower()}", name)
    package = _fields(await server.get(*escaped.split("/"), "@latest"))
    links = {"registry": f"https://pkg.go.dev/{quote(name, safe='/')}"}
    if url := _fields(package.get("Origin")).get("URL"):
        links["repository"] = str(url)
    return Package(name, _text(package, "Version"), "", links, "")


REGISTRIES: Mapping[str, Callable[[RestClient, str], Awaitable[Package]]] = {
    "pypi": pypi_package,
    "npm": npm_package,
    "go": go_package,
}


def passages(text: str, query: str) -> list[str]:
    """The sections of a text with the most words of a query, in the order of the text."""
    words = {word.lower() for word in _WORD.findall(query)}
    scored = []
    for place, section in enumerate(part.strip() for part in _HEADING.split(text)):
        matches = words & {word.lower() for word in _WORD.findall(section)}
        if matches:
            scored.append((len(matches), -place, section[:_MAX_PASSAGE_CHARS]))
    best = sorted(scored, reverse=True)[:_MAX_PASSAGES]
    return [section for _, _, section in sorted(best, key=lambda entry: -entry[1])]


def _fields(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    return value if isinstance(value, str) else ""


class ResearchSettings(Table):
    """[tools.research]: the search engine, and where packages and repositories are found."""

    engine: Literal["", "searxng", "brave", "tavily"] = ""
    """The search engine; without one there is no tool `web_search`."""
    url: _Url | None = None
    """Address of the engine, where it is not its usual one: SearXNG has none."""
    key: Secret | None = None
    """Key of the engine."""
    usd_per_search: Dollars = ZERO
    """The price of a search in dollars, which is booked to the task."""
    max_results: int = Field(default=10, ge=1, le=20)
    """How many results a search has at most."""
    pypi: _Url = "https://pypi.org"
    """Address of the registry of Python packages, or of a mirror that has its JSON API."""
    npm: _Url = "https://registry.npmjs.org"
    """Address of the registry of npm packages."""
    go: _Url = "https://proxy.golang.org"
    """Address of a proxy of Go modules."""
    repositories: tuple[str, ...] = ("https://github.com/", "https://gitlab.com/", "https://codeberg.org/")
    """Beginnings of the addresses of repositories that may be read."""

    @model_validator(mode="after")
    def _has_addresses(self) -> ResearchSettings:
        if self.engine == "searxng" and not self.url:
            raise ValueError("searxng needs its url")
        for address in self.repositories:
            if not address.startswith(("https://", "http://")) or not address.endswith("/"):
                raise ValueError(f"{address!r} does not begin with https:// and end with /")
        return self


class Finding(BaseModel):
    """A statement of a source about an item."""

    model_config = ConfigDict(extra="forbid")

    item: _Name
    criterion: _Name
    value: Annotated[str, Field(min_length=1, max_length=1_000)]
    source: Annotated[str, Field(min_length=1, max_length=1_000)]
    """The address of the page, or the file with its line, or the commit."""


class ResearchTools(WebTools):
    """Searches the web, fetches pages, reads registries and repositories, compares findings."""

    name = "research"
    config_type: ClassVar[type[BaseModel] | None] = ResearchSettings

    def __init__(self, settings: ToolSettings) -> None:
        super().__init__(settings)
        services = {registry: RestService(url=getattr(self.config, registry)) for registry in REGISTRIES}
        if self.config.engine:
            engine, key = ENGINES[self.config.engine], self.config.key
            name, scheme = engine.key
            headers = {name: f"{scheme}{key.get_secret_value()}"} if key else {}
            fields = {"url": self.config.url or engine.url, "headers": headers}
            services["engine"] = RestService.model_validate(fields)
        limits = {"max_bytes": _MAX_ANSWER_BYTES, "timeout_seconds": _TIMEOUT_SECONDS}
        self._servers = {
            name: RestClient(f"tools.research.{name}", service.model_copy(update=limits))
            for name, service in services.items()
        }

    async def close(self) -> None:
        """Close the connections."""
        for server in self._servers.values():
            await server.close()

    async def tools(self) -> Sequence[Tool]:
        """The tools; `web_search` only where an engine is set."""
        offered = await super().tools()
        return [tool for tool in offered if tool.name != "web_search" or self.config.engine]

    @tool(idempotent=True, effect="read", origin="outside")
    async def web_search(
        self,
        query: _Query,
        context: ToolContext,
        site: _Site = "",
        fresh_days: Annotated[int, Field(ge=0, le=3_650)] = 0,
    ) -> list[dict[str, str]]:
        """Search the web, and return titles, addresses and snippets. A snippet is no source: fetch the page.

        Args:
            query: a few telling words
            site: only pages of this host, such as docs.python.org
            fresh_days: only pages of the last days, where the engine knows their age; 0 for any age
        """
        engine = ENGINES.get(self.config.engine)
        if engine is None:
            raise ToolFailed("No search engine is set", remedy="Set engine in [tools.research] of mesh.toml")
        if self.config.usd_per_search:
            await context.charge(self.config.usd_per_search, "web_search")
        sent = engine.sent(SearchQuery(query, site, fresh_days, self.config.max_results))
        where = {"params": sent} if engine.method == "GET" else {"body": sent}
        reply = await self._servers["engine"].call(engine.method, *engine.path, **where)
        try:
            results = engine.results(reply.data)[: self.config.max_results]
        except ValueError as error:
            raise ToolFailed(f"{self.config.engine} does not answer as it should: {error}") from error
        return [
            {"title": result.title, "url": result.url, "text": result.text[:_MAX_TEXT_CHARS]}
            | ({"published": result.published} if result.published else {})
            for result in results
        ]

    @tool(idempotent=True, effect="read", origin="outside")
    async def docs_search(
        self, package: _Package, query: _Query, registry: Literal["pypi", "npm", "go"] = "pypi"
    ) -> dict[str, Any]:
        """Find a package in its registry: its version, its links, and what its readme says of a question.

        Args:
            package: its name, such as requests, @types/node or golang.org/x/sync
            query: the words to look for in the readme
            registry: pypi, npm or go
        """
        entry = await REGISTRIES[registry](self._servers[registry], package)
        facts = {"package": entry.name, "version": entry.version, "summary": entry.summary}
        return {**facts, "links": dict(entry.links), "passages": passages(entry.text, query)}

    @tool(idempotent=True, effect="read", origin="outside", timeout=120)
    async def repo_overview(self, url: _Address) -> dict[str, Any]:
        """Describe a public git repository: languages, tests, activity, latest commits, its readme.

        Args:
            url: its address, such as https://github.com/python/cpython
        """
        if not url.startswith(self.config.repositories) or ".." in url:
            remedy = f"Allowed are {', '.join(self.config.repositories) or 'none'}"
            raise InvalidInput("Repositories of that address are not read", remedy=remedy, field="url")
        return await repository_overview(url)

    @tool(idempotent=True, effect="read")
    def compare(
        self,
        items: Annotated[list[_Name], Field(min_length=1, max_length=20)],
        criteria: Annotated[list[_Name], Field(min_length=1, max_length=20)],
        findings: Annotated[list[Finding], Field(max_length=400)],
    ) -> str:
        """Make a table of findings with the numbers of their sources; a cell without any is a `?`.

        Args:
            items: what is compared: the lines
            criteria: by what: the columns
            findings: for each cell one or several, each with the source that says so
        """
        for finding in findings:
            if finding.item not in items or finding.criterion not in criteria:
                problem = f"A finding is of {finding.item!r} and {finding.criterion!r}"
                raise InvalidInput(problem, remedy="Name both among items and criteria", field="findings")
            if not _names_a_source(finding.source):
                remedy = "Give the address of a page, a file with its line, or a commit that you have read"
                raise InvalidInput(f"{finding.source[:80]!r} is no source", remedy=remedy, field="findings")
        return _table(items, criteria, findings)


def _names_a_source(text: str) -> bool:
    """Whether a text can be an address, a file with a line, or a commit."""
    first = text.split()[0] if text.split() else ""
    is_commit = 7 <= len(first) <= 40 and set(first) <= set("0123456789abcdef")
    return first.startswith(("https://", "http://")) or "/" in first or "." in first[:-1] or is_commit


def _table(items: Sequence[str], criteria: Sequence[str], findings: Sequence[Finding]) -> str:
    sources = list(dict.fromkeys(finding.source for finding in findings))

    def cell(item: str, criterion: str) -> str:
        matches = [finding for finding in findings if (finding.item, finding.criterion) == (item, criterion)]
        texts = (f"{_plain(finding.value)} [{sources.index(finding.source) + 1}]" for finding in matches)
        return "; ".join(texts) or "?"

    lines = [
        f"| | {' | '.join(map(_plain, criteria))} |",
        f"|---{'|---' * len(criteria)}|",
        *(f"| {_plain(item)} | {' | '.join(cell(item, name) for name in criteria)} |" for item in items),
        "",
        *(f"[{number}] {' '.join(source.split())}" for number, source in enumerate(sources, start=1)),
    ]
    return "\n".join(lines)


def _plain(text: str) -> str:
    return " ".join(text.replace("|", "/").split())
