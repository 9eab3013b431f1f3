"""Acme's rota: things that a component keeps, as data, their operations, and its events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from meshwright.component import Caller, Column, Component, Fact, Mesh, Payload, Resource, Verb
from meshwright.kit import Conflict, Identifier, Input, NotFound, Role, Rule, operation

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
SEE = Rule("sees the rota", (Role.VIEWER,))
NOBODY = {404: "Nobody of that name is on call."}
CHANGE = Rule("changes the rota", (Role.SUBMITTER,))


class Person(Input):
    """A person on call."""

    person: Identifier
    hours: int
    note: str = ""


class RotaPage(BaseModel):
    """Those who are on call."""

    items: tuple[Person, ...]


class People:
    """The operations on the rota: the HTTP API has a route for each."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._people: dict[str, Person] = {}

    @operation(SEE, "GET /rota", "List who is on call", name="list_rota")
    async def page(self, caller: Caller) -> RotaPage:
        """List who is on call, in the order in which they joined."""
        return RotaPage(items=tuple(self._people.values()))

    @operation(CHANGE, "POST /rota", "Join the rota", status=201, errors={409: "The person is on call."})
    async def join(self, caller: Caller, person: Person) -> Person:
        """Put a person on call."""
        if person.person in self._people:
            raise Conflict(f"{person.person} is on call already", remedy="mesh rota leave takes a person off")
        self._people[person.person] = person
        self._mesh.tell(RotaJoined(**person.model_dump()))
        return person

    @operation(SEE, "GET /rota/{name}", "Show a person", errors=NOBODY)
    async def show(self, caller: Caller, name: Identifier) -> Person:
        """Show one person."""
        if name not in self._people:
            raise NotFound(f"{name} is not on call", remedy="mesh rota list shows who is")
        return self._people[name]

    @operation(CHANGE, "DELETE /rota/{name}", "Leave the rota", errors=NOBODY)
    async def leave(self, caller: Caller, name: Identifier) -> Person:
        """Take a person off the rota."""
        person = await self.show(caller, name)
        del self._people[name]
        return person


class Rota(Component):
    """Keeps who is on call."""

    name = "rota"
    operations = (People, "rota")

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        mesh.provide(People(mesh))
