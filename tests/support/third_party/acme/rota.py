"""Acme's rota: things that a component keeps, as data, and its events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from meshwright.component import Column, Component, Fact, Payload, Resource, Verb

if TYPE_CHECKING:
    from fastapi import APIRouter

PEOPLE = Resource(
    "rota",
    "/rota",
    (Column("person", "person"), Column("hours", "hours")),
    help="Show who is on call, and take people off.",
    empty="nobody is on call",
    id="PERSON",
    verbs=(
        Verb("show", "Show one person as JSON.", method="GET", hides=["note"]),
        Verb(
            "leave",
            "Take a person off the rota.",
            lambda person: f"{person['id']} is off the rota, after {person['hours']} hours",
            method="DELETE",
        ),
    ),
)


class RotaJoined(Payload, type="rota.joined", word="rota"):
    """A person is on call; the note is seen by those who see contents."""

    person: Fact[str]
    hours: Fact[int]
    note: str

    def event_line(self, event: dict[str, Any]) -> Sequence[object]:
        """The person and the hours, with the note."""
        return f"{self.person} for {self.hours} hours", self.note


EVENTS = (RotaJoined,)
RESOURCES = (PEOPLE,)


class Rota(Component):
    """Keeps who is on call."""

    name = "rota"

    def routes(self) -> APIRouter:
        """GET and POST /rota, GET and DELETE /rota/{person}."""
        from acme.routes import make_rota_routes

        return make_rota_routes(self.mesh)
