"""Senders of outcomes: to GitHub and GitLab as a comment or the status of a commit, and to URLs by POST.

A comment ends with a hidden line that names the task. It is looked for first, so that an outcome which is
sent again after a crash is not posted twice. A URL comes from a task (`notify`) or from the settings; what it
gets is signed as Standard Webhooks has it.

https://docs.github.com/rest/issues/comments
https://docs.github.com/rest/commits/statuses
https://docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api
https://docs.gitlab.com/api/notes
https://docs.gitlab.com/api/commits
https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from pydantic_core import from_json

from meshwright.core.comments import MARKER, mark_comment
from meshwright.core.encoding import encode
from meshwright.core.errors import ConfigError
from meshwright.core.ids import derived_id
from meshwright.core.messages import Outcome
from meshwright.core.redaction import redact
from meshwright.edges.deliveries import standard_key
from meshwright.edges.outgoing_requests import (
    HttpPool,
    HttpReply,
    Receivers,
    TryLater,
    asked_pause,
    harmless,
    usable_url,
)
from meshwright.edges.replies.courier import Address, Sender, Undeliverable
from meshwright.edges.webhooks.kinds import DeliveryItem, get_field
from meshwright.edges.webhooks.settings import PushTarget, WebhookRule, WebhookSource, WebhooksSettings
from meshwright.engine.work.protocol import TaskKey
from meshwright.mesh.mesh import Mesh

FORGE = "forge"
_API_URLS = {"github": "https://api.github.com", "gitlab": "https://gitlab.com/api/v4"}
_REPOSITORY = re.compile(r"(?!.*(?:^|/)\.{1,2}(?:/|$))[\w.-]{1,200}(?:/[\w.-]{1,200}){1,20}")
_SHA = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_MAX_COMMENT_CHARS = 60_000  # GitHub takes 65,536
_MAX_DESCRIPTION_CHARS = 140
_PAGE, _MAX_PAGES = 100, 20
_SKEW = timedelta(minutes=10)  # between our clock and theirs
_MAX_REDIRECTS = 3
_PERMANENT = (404, 410, 422)
_STATES = {
    "github": {"succeeded": "success", "failed": "failure", "cancelled": "error", "timed_out": "error"},
    "gitlab": {"succeeded": "success", "failed": "failed", "cancelled": "canceled", "timed_out": "failed"},
}
_SHAS = {
    "github": ("pull_request.head.sha", "after", "check_suite.head_sha", "workflow_run.head_sha", "sha"),
    "gitlab": ("object_attributes.last_commit.id", "checkout_sha", "after", "object_attributes.sha"),
}


class _ForgeAddress(Address, kw_only=True):
    """The address of an outcome: of a source, the path of its API that takes comments or statuses."""

    source: str
    path: str
    what: str


def forge_address(kind: str, rule: WebhookRule, item: DeliveryItem) -> _ForgeAddress | None:
    """Returns where the outcome of an event's task goes by a rule; None where it goes nowhere."""
    of_kind = {"github": _github_path, "gitlab": _gitlab_path}.get(kind)
    path = of_kind(rule.reply, item) if of_kind is not None and rule.reply != "none" else None
    if path is None:
        return None
    return _ForgeAddress(source=rule.source, path=path, what=rule.reply, client=f"webhook:{rule.source}")


def event_subject(kind: str, item: DeliveryItem) -> str:
    """Returns the issue or pull request that an event is about, as the path of its comments; "" for none."""
    of_kind = {"github": _github_path, "gitlab": _gitlab_path}.get(kind)
    return (of_kind("comment", item) or "") if of_kind is not None else ""


def _github_path(what: str, item: DeliveryItem) -> str | None:
    repository = _repository(item, "repository.full_name")
    number = _number(item, "issue.number", "pull_request.number")
    if what == "comment":
        return f"/repos/{repository}/issues/{number}/comments" if repository and number else None
    sha = _sha(item, "github")
    return f"/repos/{repository}/statuses/{sha}" if repository and sha else None


def _gitlab_path(what: str, item: DeliveryItem) -> str | None:
    repository = _repository(item, "project.path_with_namespace")
    project = quote(repository, safe="") if repository else None
    if what == "status":
        sha = _sha(item, "gitlab")
        return f"/projects/{project}/statuses/{sha}" if project and sha else None
    own = get_field(item.fields, "object_kind")
    for kind, field, folder in (
        ("issue", "issue", "issues"),
        ("merge_request", "merge_request", "merge_requests"),
    ):
        number = _number(item, f"{field}.iid", *(["object_attributes.iid"] if own == kind else []))
        if project and number:
            return f"/projects/{project}/{folder}/{number}/notes"
    return None


def _repository(item: DeliveryItem, path: str) -> str | None:
    name = get_field(item.fields, path)
    return name if isinstance(name, str) and _REPOSITORY.fullmatch(name) else None


def _number(item: DeliveryItem, *paths: str) -> int | None:
    values = (get_field(item.fields, path) for path in paths)
    return next((number for number in values if type(number) is int and 0 < number < 2**53), None)


def _sha(item: DeliveryItem, kind: str) -> str | None:
    values = (get_field(item.fields, path) for path in _SHAS[kind])
    return next((sha for sha in values if isinstance(sha, str) and _SHA.fullmatch(sha)), None)


class ForgeSender(Sender[_ForgeAddress]):
    """Posts outcomes by the API of each source's forge, with its token."""

    scheme = FORGE
    kind = _ForgeAddress
    scope = "webhooks"

    def __init__(self, sources: Mapping[str, WebhookSource]) -> None:
        self._receivers = Receivers()
        self.http = HttpPool()
        self._forges = {
            name: _Forge(source, self.http)
            for name, source in sources.items()
            if source.kind in _API_URLS and source.token is not None
        }

    async def send(self, address: _ForgeAddress, document: bytes) -> None:
        """Post an outcome, unless it is there. Raises Undeliverable, TryLater."""
        forge = self._forges.get(address.source)
        if forge is None:
            raise Undeliverable(f"source {address.source!r} has no token any more")
        with self._receivers.bounded(f"source {address.source}"):
            await forge.post(address, Outcome.model_validate_json(document))


class _Forge:
    def __init__(self, source: WebhookSource, http: HttpPool) -> None:
        assert source.token is not None
        token = source.token.get_secret_value()
        self._kind = source.kind
        self._api = (source.api_url or _API_URLS[source.kind]).rstrip("/")
        self._http = http
        self._receivers = Receivers()
        self._turn = asyncio.Lock()  # one request at a time, as GitHub advises
        self._headers = {"PRIVATE-TOKEN": token}
        if source.kind == "github":
            accept = {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28"}
            self._headers = {"Authorization": f"Bearer {token}", **accept}

    async def post(self, address: _ForgeAddress, outcome: Outcome) -> None:
        async with self._turn:
            await (self._comment if address.what == "comment" else self._status)(address.path, outcome)

    async def _comment(self, path: str, outcome: Outcome) -> None:
        generation = f".{outcome.generation}" if outcome.generation > 1 else ""
        by = f"task {outcome.task_id}{generation}"
        if not await self._has_comment(path, f"{MARKER}{by} ", outcome.completed_at - _SKEW):
            await self._call("POST", path, {"body": mark_comment(_comment_text(outcome), by)})

    async def _has_comment(self, path: str, marker: str, since: datetime) -> bool:
        """Whether a comment with a marker was made since then, among the last 2,000."""
        first = (
            f"since={since:%Y-%m-%dT%H:%M:%SZ}" if self._kind == "github" else "sort=desc&order_by=created_at"
        )
        for page in range(1, _MAX_PAGES + 1):
            answer = await self._call("GET", f"{path}?{first}&per_page={_PAGE}&page={page}")
            comments = from_json(answer.body)
            if any(marker in (comment.get("body") or "") for comment in comments):
                return True
            is_last = len(comments) < _PAGE
            if is_last or (self._kind == "gitlab" and comments[-1]["created_at"] < since.isoformat()):
                return False
        return False

    async def _status(self, path: str, outcome: Outcome) -> None:
        """Set the status of a commit; the last one counts, so that a repeat changes nothing."""
        name = "context" if self._kind == "github" else "name"
        text = " ".join(_comment_text(outcome).split())
        body = {
            "state": _STATES[self._kind][outcome.status],
            name: f"meshwright/{outcome.agent_id}",
            "description": text
            if len(text) <= _MAX_DESCRIPTION_CHARS
            else f"{text[: _MAX_DESCRIPTION_CHARS - 3]}...",
        }
        await self._call("POST", path, body)

    async def _call(self, method: str, path: str, body: Any = None) -> HttpReply:
        """Call the API. Raises Undeliverable for what will never work, TryLater for all else."""
        with self._receivers.sending(self._api):
            answer = await self._answer(method, self._api + path, body)
            # GitLab refuses a state that the commit has already.
            if answer.status < 300 or (answer.status == 400 and b"Cannot transition" in answer.body):
                return answer
            problem = f"{self._kind} answered {answer.status} to {method} {path.partition('?')[0]}"
            if answer.status in _PERMANENT:
                raise Undeliverable(problem)
            pause = asked_pause(answer)
            raise TryLater(problem, pause or 0.0, this_alone=pause is None and answer.status < 500)

    async def _answer(self, method: str, url: str, body: Any) -> HttpReply:
        """Send a request, and follow a few redirects within the API: repositories are renamed."""
        for _ in range(_MAX_REDIRECTS):
            answer = await self._http.request(method, url, json=body, headers=self._headers)
            target = urljoin(url, answer.headers.get("Location", ""))
            if answer.status not in (301, 302, 307, 308) or urlsplit(target)[:2] != urlsplit(self._api)[:2]:
                return answer
            url = target
        return await self._http.request(method, url, json=body, headers=self._headers)


def _comment_text(outcome: Outcome) -> str:
    """An outcome as text, without what looks like a secret. Of an error only the name: it may quote all."""
    if outcome.success:
        text = redact(outcome.text) or "Done."
    else:
        reason = f" ({outcome.error.type})" if outcome.error is not None else ""
        text = f"The task {outcome.status.replace('_', ' ')}{reason}."
    text = harmless(text.replace(MARKER, "<!-- "))  # also where the model wrote a line of its own
    return text if len(text) <= _MAX_COMMENT_CHARS else f"{text[:_MAX_COMMENT_CHARS]}\n\n[cut]"


PUSH = "push"
_TIMEOUT_SECONDS = 20.0
_ALL = "*"


class PushAddress(Address, kw_only=True):
    """A URL that gets outcomes of a tenant. A task's own has its secret, encrypted; others have none."""

    url: str
    tenant_id: str
    secret: str = ""


class PushSender(Sender[PushAddress]):
    """POSTs outcomes to URLs."""

    scheme = PUSH
    kind = PushAddress
    scope = "webhooks"

    def __init__(self, mesh: Mesh, settings: WebhooksSettings) -> None:
        for target in settings.push:
            _check(target)
        self._mesh = mesh
        self._targets = {(target.tenant, target.url): target for target in settings.push}
        self._receivers = Receivers()
        self.http = HttpPool(timeout_seconds=_TIMEOUT_SECONDS, networks=settings.push_networks)

    def standing(self, task: TaskKey) -> Sequence[PushAddress]:
        """The URLs that the settings have for a tenant."""
        return [
            PushAddress(url=url, tenant_id=tenant_id)
            for tenant_id, url in self._targets
            if tenant_id == task.tenant_id
        ]

    async def send(self, address: PushAddress, document: bytes) -> None:
        """POST an outcome. Raises Undeliverable, TryLater."""
        outcome = Outcome.model_validate_json(document)
        event_type = f"task.{outcome.status}"
        if address.secret:
            secrets: Sequence[str] = [self._mesh.cipher.decrypt(address.secret)]
        else:
            target = self._targets.get((address.tenant_id, address.url))
            if target is None:
                raise Undeliverable("the settings do not have that URL any more")
            if {_ALL, event_type}.isdisjoint(target.events):
                return
            secrets = target.secrets
        parts = (address.tenant_id, outcome.task_id, str(outcome.generation), address.url)
        body = encode({"type": event_type, "timestamp": outcome.completed_at, "data": outcome})
        receivers, keys = self._receivers, [*map(standard_key, secrets)]
        with (
            receivers.sending(f"{address.tenant_id} {address.url}"),
            receivers.bounded(f"tenant {address.tenant_id}"),
        ):
            await self.http.post_signed(address.url, keys, f"msg_{derived_id(*parts)}", body)


def _check(target: PushTarget) -> None:
    try:
        usable_url(target.url)
        for secret in target.secrets:
            standard_key(secret)
    except ValueError as error:
        raise ConfigError(f"[[webhooks.push]] {target.url}: {error}", field="webhooks") from None
