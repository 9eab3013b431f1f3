"""The component: sources and rules of the settings, the route of deliveries, the senders of outcomes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from meshwright.agents.agent import AgentTypes
from meshwright.core.errors import ConfigError, InvalidInput
from meshwright.core.messages import Caller
from meshwright.edges.http.settings import HttpSettings
from meshwright.edges.outgoing_requests import Notifier, Notify, not_allowed
from meshwright.edges.replies.courier import Courier
from meshwright.edges.sources.operations import Sources, SourceTask, SourceView
from meshwright.edges.webhooks.receiver import Source, TaskRule, WebhookReceiver, compile_rules, misfit
from meshwright.edges.webhooks.senders import PUSH, ForgeSender, PushAddress, PushSender
from meshwright.edges.webhooks.settings import WebhooksSettings
from meshwright.engine.work.protocol import TaskKey
from meshwright.mesh.components import Check, Component
from meshwright.mesh.mesh import Mesh

if TYPE_CHECKING:
    from fastapi import APIRouter

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def load_sources(settings: WebhooksSettings) -> Mapping[str, Source]:
    """Returns the sources of the settings with their rules. Raises ConfigError."""
    rules = compile_rules(settings)
    return {name: Source(name, source, rules[name]) for name, source in settings.sources.items()}


class WebhooksComponent(Component, Notifier):
    """Deliveries of other services become tasks and events; outcomes go back to them, and to URLs."""

    name = "webhooks"
    config: WebhooksSettings

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        mesh.provide(self, Notifier)
        self.sources = load_sources(self.config)
        self._check_loopback()
        self._receiver = WebhookReceiver(mesh, self.sources)
        mesh.get(Sources).add(self.name, self._views)
        if mesh.role.is_front:
            self._register_senders()

    def _check_loopback(self) -> None:
        insecure = [name for name, source in self.sources.items() if source.settings.secret is None]
        if insecure and self.mesh.settings[HttpSettings].host not in _LOOPBACK:
            raise ConfigError(
                f"Source {insecure[0]!r} of [webhooks.sources] has no secret; the mesh listens off loopback",
                remedy='Set its secret, or http.host = "127.0.0.1"',
                field="webhooks",
            )

    def _register_senders(self) -> None:
        courier = self.mesh.get(Courier)
        senders: list[ForgeSender | PushSender] = []
        if any(rule.reply != "none" for rule in self.config.rules):
            senders.append(ForgeSender(self.config.sources))
        if self.config.push or self.config.notify:
            senders.append(PushSender(self.mesh, self.config))
        for sender in senders:
            courier.register(sender)
            self.parts.append(sender.http)

    def _views(self) -> Iterable[SourceView]:
        for name, source in self.sources.items():
            settings = source.settings
            yield SourceView(
                id=name,
                kind=settings.kind,
                tenant_id=settings.tenant,
                requested_by=source.caller.requested_by,
                path=f"/webhooks/{name}",
                proved_by="nothing" if settings.secret is None else source.kind.scheme,
                tasks=tuple(_task(rule) for rule in source.rules),
            )
        for target in self.config.push:  # of the URL only the host: the rest of it may be a secret
            host = urlsplit(target.url).netloc
            yield SourceView(id=host, kind="push", tenant_id=target.tenant, pushes=target.events)

    def check_notify(self, notify: Notify) -> None:
        """Raises InvalidInput where the settings let no task name such a URL."""
        if not self.config.notify:
            raise not_allowed()
        if notify.url.startswith("http:") and not self.config.push_networks:
            raise InvalidInput(
                "Outcomes are pushed by https",
                remedy="Use https, or allow a private network with push_networks in [webhooks] of mesh.toml",
                field="notify.url",
            )

    async def notify(self, caller: Caller, task_id: str, notify: Notify) -> None:
        """Have the outcome of a task sent to a URL, also of one that has ended."""
        courier, task = self.mesh.get(Courier), TaskKey(caller.tenant_id, task_id)
        cipher, secret = self.mesh.cipher, notify.secret.get_secret_value()
        for stored in await courier.asked(PUSH, task):
            assert isinstance(stored, PushAddress)
            if stored.url == notify.url and cipher.decrypt(stored.secret) == secret:
                address = stored
                break
        else:
            of_tenant = {"tenant_id": caller.tenant_id, "client": caller.requested_by}
            address = PushAddress(url=notify.url, secret=cipher.encrypt(secret), **of_tenant)
        await courier.ask(PUSH, task, address, may_have_ended=True)

    def routes(self) -> APIRouter | None:
        """The route of deliveries."""
        from meshwright.edges.webhooks.routes import webhook_routes

        return webhook_routes(self._receiver)

    def warnings(self) -> Iterable[str]:
        """Sources that take deliveries of any program on this machine."""
        for name, source in self.sources.items():
            if source.settings.secret is None:
                yield f"webhook source {name} has no secret: any program of this machine may send to it"

    def checks(self) -> Iterable[Check]:
        """Whether rules name agents and capabilities that there are, and give them what they take."""
        return [Check("webhooks", self._check)] if self.sources else []

    async def _check(self) -> str:
        agents = {agent.agent_id for agent in self.mesh.get(AgentTypes)}
        able = {capability.name for agent in self.mesh.get(AgentTypes) for capability in agent.capabilities}
        missing = [
            f"rule {number} names {what} {name!r}"
            for number, rule in enumerate(self.config.rules, start=1)
            for what, name, names in (("agent", rule.agent, agents), ("capability", rule.capability, able))
            if name is not None and name not in names
        ]
        if missing:
            remedy = "Correct [[webhooks.rules]] of mesh.toml; mesh agents lists what there is"
            raise ConfigError(f"{', '.join(missing)}, which the mesh does not have", remedy=remedy)
        for number, rule in enumerate(self.config.rules, start=1):
            payload = {**rule.payload, **({} if rule.text is None else {"text": rule.text})}
            if why := misfit(rule, self.mesh.get(AgentTypes), payload, is_filled=False):
                remedy = "Correct payload in [[webhooks.rules]]; mesh agents show AGENT describes each field"
                raise ConfigError(f"rule {number}: {why}", remedy=remedy, field="webhooks")
        counts = (
            (len(self.sources), "source"),
            (len(self.config.rules), "rule"),
            (len(self.config.push), "push URL"),
        )
        return ", ".join(f"{count} {name}{'s' * (count != 1)}" for count, name in counts)


def _task(rule: TaskRule) -> SourceTask:
    settings = rule.settings
    return SourceTask(
        agent_id=settings.agent,
        capability=None if settings.agent else settings.capability,
        budget_usd=settings.budget_usd,
        rule=rule.rule_id,
        match=settings.match,
        reply=settings.reply,
    )
