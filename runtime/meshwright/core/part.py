"""The declaration of a part, which its folder has as `part.py`: all that is read of it without a mesh."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from meshwright.core.payloads import Payload


@dataclass(frozen=True, eq=False)
class Part:
    """A part of a mesh: ours, or one of an installed package.

    `PART = Part(__name__, "pager", component="component:Pager")`. The modules beside `module` are named as
    `component:Pager`, and imported when they are needed.
    """

    module: str
    """The module that declares it: `__name__`."""
    name: str
    """Its table in mesh.toml, the `name` of its component, and the beginning of its figures."""
    component: str | type = ""
    """Its component. A part without one has settings or commands alone."""
    settings: str | type = ""
    """The pydantic model of its table: [name] in mesh.toml, MESH_NAME__FIELD in the environment."""
    needs: tuple[str, ...] = ()
    """Settings, such as `mqtt.url`: while none of them is set, the component has nothing to do."""
    events: str | Sequence[type[Payload]] = ""
    """The payloads of its events: their types, which fields are facts, and how they read."""
    resources: str = ""
    """The things that it keeps: `mesh NAME` and `client.resource(NAME)` follow from their description."""
    toolset: str = ""
    """The toolset of each table [name.OTHER]."""
    commands: Mapping[str, str] = field(default_factory=dict)
    """Its commands of `mesh`, with their lines in the help: `commands.py` has them, with _ in place of -, or
    they are made from the resource of that name."""
    heading: str = "Commands of installed packages"
    """The heading of its commands in `mesh --help`."""
    short_for: Mapping[str, str] = field(default_factory=dict)
    """The commands that are short for another one: `{"costs": "money costs"}`."""

    @property
    def package(self) -> str:
        """The package that declares it."""
        return self.module.rpartition(".")[0]

    def load(self, name: Any) -> Any:
        """Import a thing of the part, such as `component:Pager`; another thing than a name is there already.

        A module with a dot in its name is of another folder.
        """
        if not isinstance(name, str):
            return name
        module, _, attribute = name.partition(":")
        return getattr(import_module(module if "." in module else f"{self.package}.{module}"), attribute)

    def is_needed(self, settings: Any) -> bool:
        """Whether its component joins a mesh with these settings."""
        return not self.needs or any(attrgetter(place)(settings) for place in self.needs)


class Caution(str):
    """The sentence of a check that found something which works, and not as well as it should."""

    __slots__ = ()


class ProbeResult(NamedTuple):
    """The findings of a probe: a short look at a system that the mesh relies on, without effects on it."""

    system: str
    """The system, by version and address as far as they are known."""
    seen: Mapping[str, str]
    """The properties that the probe saw, by name."""
    limits: Sequence[str]
    """A sentence on each promise of the mesh that does not hold there, with its remedy."""

    @property
    def sentence(self) -> str:
        """The line of `mesh doctor`: a Caution where a promise does not hold."""
        sentence = f"{self.system} accepts the mesh"
        return Caution(f"{sentence}. {'. '.join(self.limits)}") if self.limits else sentence


class Check(NamedTuple):
    """A question of `mesh doctor`. `ask` returns what is well, in a sentence, or raises MeshError.

    Checks run side by side, each for at most its `seconds`.
    """

    name: str
    """The name of its line in `mesh doctor`."""
    ask: Callable[[], Awaitable[str]]
    """Returns in a sentence that all is well, or raises MeshError."""
    seconds: float = 10.0
    """Seconds after which the check has failed."""
