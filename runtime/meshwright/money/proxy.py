"""Experimental: a LiteLLM proxy's own keys and spend, to compare with the ledger.

Written to LiteLLM's documented API (1.88), and tested against a fake of it: a proxy with a database, and for
the report by agent one with LiteLLM's licence, was not there to run it against.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from meshwright.core.errors import InvalidInput, MeshError, NotFound
from meshwright.core.http_calls import read_bounded
from meshwright.core.money import ZERO, Budget

_TIMEOUT_SECONDS = 30.0
_MAX_REPLY_BYTES = 8 * 1024 * 1024
_DURATIONS = {"hour": "1h", "day": "1d", "month": "1mo", "total": None}
"""How LiteLLM writes the windows of budgets."""
_OWN_TAGS = "User-Agent: "
"""The prefix of the tags that the proxy adds to every call itself."""
_ROUNDING = Decimal("0.000001")
"""Dollars; the proxy adds up floating point, so smaller differences mean nothing."""
FIRST_DAY = date(2023, 1, 1)
"""No proxy has data from before."""


class ProxyFailed(MeshError):
    """The proxy refuses, or does not answer as one."""

    status = 502


class _ProxyKey(NamedTuple):
    """`key` is shown this once, `token` is how the proxy names it."""

    key: str
    token: str


class CostDifference(NamedTuple):
    """The ledger's and the proxy's cost of one tag or agent; None where that side knows nothing of it."""

    name: str
    ours: Decimal | None
    theirs: Decimal | None

    @property
    def amount(self) -> Decimal:
        """How much more the proxy counts than the ledger."""
        return (self.theirs or ZERO) - (self.ours or ZERO)

    @property
    def differs(self) -> bool:
        """Whether that is more than rounding."""
        return abs(self.amount) > _ROUNDING


_DATABASE = "Give the proxy a database: it keeps keys and spend in one"


class LiteLLMProxy:
    """The management API of a proxy. No error holds a key. Every method raises ProxyFailed."""

    def __init__(self, base_url: str, master_key: str) -> None:
        parts = urlsplit(base_url)
        self.server = f"{parts.scheme}://{parts.netloc}"
        path = parts.path.rstrip("/").removesuffix("/chat/completions").removesuffix("/v1")
        self._root = f"{self.server}{path}"
        self._headers = {"authorization": f"Bearer {master_key}"}

    async def create_key(
        self, agent_id: str, *, tenant_id: str = "default", budget: Budget | None = None
    ) -> _ProxyKey:
        """Make a key for an agent, with a budget that the proxy holds (`POST /key/generate`)."""
        about = {"agent_id": agent_id, "tenant_id": tenant_id}
        body: dict[str, Any] = {"user_id": agent_id, "metadata": about, "key_type": "llm_api"}
        if budget is not None:
            body["max_budget"] = float(budget.limit_usd)  # which is how LiteLLM keeps it
            body["budget_duration"] = _DURATIONS[budget.window]
        match await self._call("POST", "/key/generate", json=body):
            case {"key": str(key), **rest}:
                return _ProxyKey(key, str(rest.get("token_id") or rest.get("token") or ""))
        raise self._unexpected("/key/generate")

    async def delete_key(self, key: str) -> None:
        """End a key, given itself or by its token (`POST /key/delete`). Raises NotFound."""
        match await self._call("POST", "/key/delete", json={"keys": [key]}):
            case {"deleted_keys": [_, *_]}:
                return
        raise NotFound(f"{self.server} has no such key", remedy="The proxy's own /key/list shows them")

    async def spend_by_tag(self) -> dict[str, Decimal]:
        """The spend under each tag, ever: the proxy knows no other range (`GET /spend/tags`)."""
        rows = await self._call("GET", "/spend/tags")
        spent = self._sums("/spend/tags", "individual_request_tag", rows)
        return {tag: cost for tag, cost in spent.items() if not tag.startswith(_OWN_TAGS)}

    async def spend_by_agent(self, since: date, until: date) -> dict[str, Decimal]:
        """The spend of each agent on some days of UTC, both included (`GET /global/spend/report`).

        The proxy calls the `user` of a call its customer.
        """
        path = "/global/spend/report"
        days = {"start_date": since.isoformat(), "end_date": until.isoformat()}
        rows = await self._call("GET", path, params={**days, "group_by": "customer"})
        return self._sums(path, "customer", rows, within="customers")

    def _sums(self, path: str, name: str, rows: Any, within: str | None = None) -> dict[str, Decimal]:
        spent: dict[str, Decimal] = {}
        try:
            for row in rows if within is None else [row for day in rows for row in day[within]]:
                key = str(row[name] or "")
                spent[key] = spent.get(key, ZERO) + Decimal(str(row["total_spend"] or 0))
        except (TypeError, KeyError, ArithmeticError):
            raise self._unexpected(path) from None
        return spent

    async def _call(self, method: str, path: str, **sent: Any) -> Any:
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS, sock_connect=10)
        # Redirected, the master key would go elsewhere.
        options: dict[str, Any] = {"headers": self._headers, "allow_redirects": False, **sent}
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.request(method, self._root + path, **options) as response,
            ):
                data, _ = await read_bounded(response, _MAX_REPLY_BYTES)
        except (aiohttp.ClientError, TimeoutError) as error:
            problem = f"{self.server} does not answer {path} ({type(error).__name__})"
            raise ProxyFailed(problem, remedy="Start the proxy, or correct LITELLM_BASE_URL") from None
        text = data.decode(errors="replace")
        if response.status == 200:
            try:
                return json.loads(text, parse_float=Decimal)  # money is no float
            except ValueError:
                raise self._unexpected(path) from None
        # What the status means: the text itself may quote a key.
        status, text, remedy = response.status, text.lower(), "The proxy's own log says why"
        if "not connected" in text or "no_db_connection" in text or "no db" in text:
            remedy = _DATABASE
        elif status >= 500:  # some releases fail without a word of the database
            remedy = f"{_DATABASE}. Else the proxy's own log says why"
        elif "enterprise" in text or "premium" in text:
            remedy = "This report needs LiteLLM's licence; costs by tag do not"
        elif status in (401, 403):
            remedy = "Set LITELLM_API_KEY to the proxy's master key"
        raise ProxyFailed(f"{self.server} answered {status} to {path}", remedy=remedy)

    def _unexpected(self, path: str) -> ProxyFailed:
        remedy = "Check that LITELLM_BASE_URL is a LiteLLM proxy's"
        return ProxyFailed(f"{self.server} answered {path} with something else", remedy=remedy)


def make_proxy(base_url: str | None, master_key: str | None) -> LiteLLMProxy:
    """The proxy that the settings name. Raises InvalidInput where they name none, or no key for it."""
    if not base_url or not master_key:
        remedy = "Set LITELLM_BASE_URL, and LITELLM_API_KEY to its master key"
        raise InvalidInput("No LiteLLM proxy is set", remedy=remedy, field="litellm_base_url")
    return LiteLLMProxy(base_url, master_key)


def reconcile(ours: Mapping[str, Decimal | None], theirs: Mapping[str, Decimal]) -> list[CostDifference]:
    """Compare the ledger's costs with the proxy's, by tag or by agent; the largest difference comes first."""
    names = dict.fromkeys([*ours, *theirs])
    differences = [CostDifference(name, ours.get(name), theirs.get(name)) for name in names]
    return sorted(differences, key=lambda difference: (-abs(difference.amount), difference.name))
