"""Acme's rota: things that a component keeps, as data, with the words and the facts of its events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from meshwright.component import Column, Component, EventWords, Resource, Verb

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


def _joined(payload: dict[str, Any], event: dict[str, Any]) -> Sequence[object]:
    return f"{payload['person']} for {payload['hours']} hours", payload.get("note")


WORDS = {"rota.joined": EventWords("rota", _joined)}
RESOURCES = (PEOPLE,)


class Rota(Component):
    """Keeps who is on call."""

    name = "rota"
    facts: ClassVar[Mapping[str, str]] = {"rota.*": "person hours"}

    def routes(self) -> APIRouter:
        """GET and POST /rota, GET and DELETE /rota/{person}."""
        from acme.routes import make_rota_routes

        return make_rota_routes(self.mesh)
