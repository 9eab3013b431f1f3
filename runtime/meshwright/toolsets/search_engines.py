"""Search engines as data: the request that each takes, and how its answer is read.

The documented APIs: SearXNG's `/search?format=json`, Brave's `/res/v1/web/search`, Tavily's `/search`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


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


_BEARER = ("Authorization", "Bearer ")
ENGINES: Mapping[str, Engine] = {
    "searxng": Engine(
        "",
        "GET",
        ("search",),
        _BEARER,
        _searxng,
        ("results",),
        ("title", "url", "content", "publishedDate"),
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
