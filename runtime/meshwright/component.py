"""Components: the one way by which a part joins a mesh, ours or a third party's.

    class Pager(Component):
        name = "pager"
        settings = PagerSettings          # table [pager] of mesh.toml, MESH_PAGER__URL in the environment

        def routes(self) -> APIRouter:
            return make_router(self.mesh, self.config)

Ours are listed in `meshwright.parts`; a package registers its own under the entry point group
`meshwright.components`. A component overrides what it has to offer, and nothing else.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from importlib.resources.abc import Traversable
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from pydantic import BaseModel

from meshwright.agent import Agent
from meshwright.events.projections import Projection
from meshwright.kernel.host import Subscription
from meshwright.kernel.turns import ActorKind
from meshwright.mesh import Mesh
from meshwright.roles import EVERYWHERE, Part
from meshwright.settings import Settings
from meshwright.sql.encrypted import EncryptedColumn

if TYPE_CHECKING:
    import click
    from fastapi import APIRouter


class Actors(NamedTuple):
    """A type of actor, the app in which it lives, and the topics from which it gets messages."""

    kind: ActorKind
    app: str = EVERYWHERE
    subscriptions: tuple[Subscription, ...] = ()


class Check(NamedTuple):
    """A question of `mesh doctor`. `ask` returns what is well, in a sentence, or raises MeshError.

    Checks run side by side, each for at most ten seconds.
    """

    name: str
    ask: Callable[[], Awaitable[str]]


class Component:
    """A part of a mesh. It is made with the mesh, after the components that are listed before it.

    It gets what those provide by `mesh.get(Registry)`, and provides its own by `mesh.provide(thing)`; it is
    provided itself. `config` holds its settings, `apps` names the apps of a mesh on Dapr that consist of it.
    """

    name: ClassVar[str]
    settings: ClassVar[type[BaseModel] | None] = None
    apps: ClassVar[tuple[str, ...]] = ()
    config: Any

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.parts: list[Part] = []
        made = getattr(mesh.settings, self.name, None)
        self.config = self.settings() if made is None and self.settings else made

    @classmethod
    def agents(cls, settings: Settings) -> Iterable[type[Agent]]:
        """The agents that it makes of the settings; the mesh has them beside those of the project."""
        return ()

    def actors(self) -> Iterable[Actors]:
        """Its actors. Called once, before the mesh starts."""
        return ()

    def migrations(self) -> Traversable | None:
        """The folder with the SQL files of its tables, each applied once, in the order of their numbers.

        `0001_name.sql`, or `0001_name.sqlite.sql` and `0001_name.postgres.sql` where the databases differ.
        """
        return None

    def encrypted(self) -> Iterable[EncryptedColumn]:
        """The columns of its tables that hold what `mesh.cipher` has encrypted, for `mesh secrets rotate`."""
        return ()

    async def erase(self, tenant_id: str, task_ids: Sequence[str]) -> None:
        """Delete what it keeps of the contents of a tenant's tasks, for good. Safe to repeat."""

    def projections(self) -> Iterable[Projection]:
        """Its tables that are made from events."""
        return ()

    def routes(self) -> APIRouter | Sequence[APIRouter] | None:
        """Its routers of the HTTP API, behind the API's own checks of callers.

        `make_router` says how requests to a router are treated: errors, limits, and whether it is open. One
        that is included in another counts as a usual one.
        """
        return None

    @classmethod
    def commands(cls) -> Iterable[click.Command]:
        """Its commands of `mesh`; they are shown in its help."""
        return ()

    def checks(self) -> Iterable[Check]:
        """The checks of `mesh doctor`, of a mesh that does not run."""
        return ()

    def warnings(self) -> Iterable[str]:
        """Lines that are printed at the start of the mesh."""
        return ()

    async def drain(self, seconds: float) -> None:
        """Take nothing new, and let what runs end; after that time leave the rest for the next start."""

    async def start(self) -> None:
        """Begin; the mesh takes messages already. Starts the `parts` of the component."""
        for part in self.parts:
            await part.start()

    async def stop(self) -> None:
        """End. Idempotent, and called also where the start failed."""
        for part in reversed(self.parts):
            await part.stop()
