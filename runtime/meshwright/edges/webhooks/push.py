"""Push notifications: outcomes are sent to URLs by POST, signed as Standard Webhooks has it.

A URL comes from a task (`notify`) or from the settings. Requests go to public addresses by https, or to
networks that the settings allow: the address is checked where the connection is opened, so that no name can
lead elsewhere.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

from collections.abc import Sequence

from meshwright.core.encoding import encode
from meshwright.core.errors import ConfigError, InvalidInput
from meshwright.core.messages import Caller, Outcome, derived_id
from meshwright.edges.deliveries import standard_key
from meshwright.edges.notify import Notify, not_allowed, usable_url
from meshwright.edges.outgoing import HttpPool, Receivers
from meshwright.edges.replies import Address, Courier, Sender, Undeliverable
from meshwright.edges.webhooks.settings import PushTarget, WebhooksSettings
from meshwright.mesh import Mesh
from meshwright.work.protocol import TaskKey

_SCHEME = "push"
_TIMEOUT_SECONDS = 20.0
_ALL = "*"


def check_notify(settings: WebhooksSettings, notify: Notify) -> None:
    """Raises InvalidInput where the settings let no task name such a URL."""
    if not settings.notify:
        raise not_allowed()
    if notify.url.startswith("http:") and not settings.push_networks:
        raise InvalidInput(
            "Outcomes are pushed by https",
            remedy="Use https, or allow a private network with push_networks in [webhooks] of mesh.toml",
            field="notify.url",
        )


async def notify_of(mesh: Mesh, caller: Caller, task_id: str, notify: Notify) -> None:
    """Have the outcome of a task sent to a URL, also of one that has ended; durable when this returns."""
    courier, task = mesh.get(Courier), TaskKey(caller.tenant_id, task_id)
    secret = notify.secret.get_secret_value()
    for known in await courier.asked(_SCHEME, task):
        assert isinstance(known, _PushAddress)
        if known.url == notify.url and mesh.cipher.decrypt(known.secret) == secret:
            address = known
            break
    else:
        of_tenant = {"tenant_id": caller.tenant_id, "client": caller.requested_by}
        address = _PushAddress(url=notify.url, secret=mesh.cipher.encrypt(secret), **of_tenant)
    await courier.ask(_SCHEME, task, address, may_have_ended=True)


class _PushAddress(Address):
    """A URL that gets outcomes of a tenant. A task's own has its secret, encrypted; others have none."""

    url: str
    tenant_id: str
    secret: str = ""


class PushSender(Sender[_PushAddress]):
    """POSTs outcomes to URLs."""

    scheme = _SCHEME
    kind = _PushAddress
    scope = "webhooks"

    def __init__(self, mesh: Mesh, settings: WebhooksSettings) -> None:
        for target in settings.push:
            _check(target)
        self._mesh = mesh
        self._targets = {(target.tenant, target.url): target for target in settings.push}
        self._receivers = Receivers()
        self.http = HttpPool(timeout_seconds=_TIMEOUT_SECONDS, networks=settings.push_networks)

    def standing(self, task: TaskKey) -> Sequence[_PushAddress]:
        """The URLs that the settings have for a tenant."""
        return [
            _PushAddress(url=url, tenant_id=tenant_id)
            for tenant_id, url in self._targets
            if tenant_id == task.tenant_id
        ]

    async def send(self, address: _PushAddress, document: bytes) -> None:
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
