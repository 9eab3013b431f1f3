"""The component of the inbox."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import TYPE_CHECKING

from meshwright.agents.agent import AgentTypes
from meshwright.agents.tools.settings import ApprovalsSettings
from meshwright.component import Component
from meshwright.core.display import duration
from meshwright.core.errors import ConfigError, MeshError
from meshwright.core.messages import Caller
from meshwright.engine.events.settings import PeopleSettings
from meshwright.engine.work.protocol import EVERYBODY
from meshwright.mesh.components import Check
from meshwright.mesh.identity.auth import ADMINISTRATOR
from meshwright.mesh.identity.settings import OidcSettings

if TYPE_CHECKING:
    from fastapi import APIRouter

_DAY_SECONDS = 86_400


def _duration(seconds: float) -> str:
    return duration(timedelta(seconds=seconds))


class InboxComponent(Component):
    """Serves what waits for people; the log and the parts of the mesh have it."""

    name = "inbox"

    def routes(self) -> APIRouter:
        """`/inbox`."""
        from meshwright.kit import make_routes
        from meshwright.parts.inbox.operations import InboxOperations

        return make_routes(InboxOperations, "tasks")

    def checks(self) -> Iterable[Check]:
        """Whether reminders of questions come in time, and name people that there are."""
        return [Check("reminders", self._check)] if self._reminders else []

    @property
    def _reminders(self) -> dict[str, tuple[float, tuple[str, ...], float]]:
        """The reminders of the settings: after how many seconds, then who, and how long questions stay."""
        people, rules = self.mesh.settings[PeopleSettings], self.mesh.settings[ApprovalsSettings].rules
        reminders = {"[people]": (people.remind_seconds, people.then, people.patience_days * _DAY_SECONDS)}
        for number, rule in enumerate(rules, 1):
            seconds = people.remind_seconds if rule.remind_seconds is None else rule.remind_seconds
            days = rule.expires_days or people.patience_days
            reminders[f"[[approvals.rules]] {number}"] = (seconds, rule.then, days * _DAY_SECONDS)
        return {place: reminder for place, reminder in reminders.items() if any(reminder[:2])}

    async def _check(self) -> str:
        names = await self._names()
        for place, (seconds, then, stays) in self._reminders.items():
            if not seconds:
                raise ConfigError(
                    f"{place} has then = {[*then]}, and nobody is reminded there before",
                    remedy="Set its remind_seconds in mesh.toml",
                )
            if seconds * (2 if then else 1) >= stays:
                what = "goes to then" if then else "is reminded of"
                raise ConfigError(
                    f"{place}: a question {what} after {_duration(seconds * (2 if then else 1))}, "
                    f"and expires before, after {_duration(stays)}",
                    remedy="Lower remind_seconds, or raise patience_days or expires_days in mesh.toml",
                )
            if unknown := [name for name in then if names and name not in names]:
                raise ConfigError(
                    f"{place} names {unknown[0]!r} in then, whom the mesh does not know",
                    remedy=f"Name one of {', '.join(sorted(names))}, or make a key: "
                    f"mesh keys create --name {unknown[0]} --role approver",
                )
        return ", ".join(
            " then ".join([f"{place} after {_duration(seconds)}", *then])
            for place, (seconds, then, _) in self._reminders.items()
        )

    async def _key_names(self) -> set[str]:
        """The names of keys: this mesh is not started, so another one is asked."""
        from meshwright.console.connect import in_process, running_mesh

        async with AsyncExitStack() as stack:
            mesh = await stack.enter_async_context(running_mesh(self.mesh.settings))
            mesh = mesh or await stack.enter_async_context(in_process(self.mesh.settings, "log"))
            return {key.agent_id for key in await mesh.client.keys()}

    async def _names(self) -> set[str]:
        """The callers that the mesh knows; none where others than it know them."""
        settings = self.mesh.settings
        if settings[OidcSettings].issuer:
            return set()
        try:
            keys = await self._key_names()
        except MeshError:  # its store does not answer, which other checks say
            return set()
        agents = {agent.agent_id for agent in self.mesh.get(AgentTypes)}
        clients = {client.user for client in settings.table("mqtt").clients}
        senders = {
            f"channel:{name}:{sender}"
            for name, channel in settings.table("channels").items()
            for sender in channel.answer_by
        }
        return {*keys, *agents, *clients, *senders, ADMINISTRATOR, Caller().requested_by, EVERYBODY}
