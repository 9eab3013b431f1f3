"""Components: the one way by which a part works in a mesh, ours or a third party's.

    PART = Part(__name__, "pager", component="component:Pager", settings="settings:PagerSettings")

    class Pager(Component):
        name = "pager"

        def routes(self) -> APIRouter:
            return make_router(self.mesh, self.config)

Ours are listed in `meshwright.core.parts`; a package registers its `Part` under the entry point group
`meshwright.components`. A component overrides what it has to offer, and nothing else. `meshwright.component`
has the names that it needs: actors, the payloads of its events, its resources, the mesh and its settings.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

from meshwright.agents.agent import Agent
from meshwright.core.access import Role
from meshwright.core.part import Check
from meshwright.core.settings import Settings
from meshwright.engine.events.projections import Projection
from meshwright.engine.kernel.guarantees import Subscription
from meshwright.engine.kernel.turns import ActorKind
from meshwright.engine.sql.encryption import EncryptedColumn
from meshwright.mesh.mesh import EVERYWHERE, Lifecycle, Mesh

if TYPE_CHECKING:
    from fastapi import APIRouter

    from meshwright.agents.context.memory import MemoryStore
    from meshwright.agents.prompts import PromptSource
    from meshwright.agents.tools.chain import ToolCallWrapper
    from meshwright.mesh.identity.auth import Authenticator
    from meshwright.models.port import ModelWrapper

_OfferT = TypeVar("_OfferT")


class Actors(NamedTuple):
    """A type of actor, and where it lives."""

    kind: ActorKind
    """The type, with the things that its actors are made with."""
    app: str = EVERYWHERE
    """The app of a mesh on Dapr in which it lives. Default: in every process."""
    subscriptions: tuple[Subscription, ...] = ()
    """The topics from which its actors get messages."""


class Pages(NamedTuple):
    """Static files below a path: `index.html` is the page at the path itself.

    They are read once, when the API is made. Files whose names begin with `.` or `__` are left out.
    """

    path: str
    """The path of the HTTP API, such as `/night`."""
    folder: Traversable
    """The folder of the files."""
    is_open: bool = False
    """Whether callers without credentials get them. If not, the role viewer is needed."""
    view: str = ""
    """The title of a view of the mesh's page, which shows the default export of `view.js`. "": no view."""
    place: int = 100
    """The place of the view under its heading: smaller is higher."""
    group: str = "More"
    """The heading in the side bar: Work, Fleet, Insight, Settings, or one of your own."""
    roles: Collection[str] = (Role.VIEWER,)
    """Viewers with one of these roles see the view."""


class Figure(NamedTuple):
    """A number of `/metrics`, there as the gauge `meshwright_COMPONENT_NAME`."""

    name: str
    """The last part of its name."""
    text: str
    """A sentence that explains it."""
    read: Callable[[], float | Mapping[str, float]]
    """Returns the number, or one for each value of `label`. Called at each scrape; must not block."""
    label: str = ""
    """The label of several numbers, which may have a few hundred values. "": one number."""


class Component:
    """A part of a mesh. It is made with the mesh, after the components that are listed before it.

    It gets what those provide by `mesh.get(Registry)`, and provides its own by `mesh.provide(thing)`; it is
    provided itself.
    """

    name: ClassVar[str]
    """The name of its part: that of its table in mesh.toml."""
    apps: ClassVar[tuple[str, ...]] = ()
    """The apps of a mesh on Dapr that consist of it."""
    operations: ClassVar[tuple[Any, ...]] = ()
    """The class whose operations are routes of the HTTP API beside those of `routes`, and their tag."""
    tables: ClassVar[str] = ""
    """The folder of `migrations`, beside the module of the component."""
    config: Any
    """Its settings: the table of its name. None without one."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.parts: list[Lifecycle] = []
        self.config = getattr(mesh.settings, self.name, None)

    def folder(self, name: str) -> Traversable:
        """A folder beside the module of the component, such as `tables` or `web`."""
        return files(type(self).__module__.rpartition(".")[0]) / name

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
        return self.folder(self.tables) if self.tables else None

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

    def pages(self) -> Iterable[Pages]:
        """Its folders of static files for browsers."""
        return ()

    def authenticator(self) -> Authenticator | None:
        """Its way to know callers, over HTTP and MQTT: by a cookie, a header or a token."""
        return None

    def prompt_source(self) -> PromptSource | None:
        """Its prompts for agents. It is asked before the sources of components that joined earlier."""
        return None

    def memory_store(self) -> MemoryStore | None:
        """Its store for the memories of agents, in place of those of components that joined earlier."""
        return None

    def model_wrappers(self) -> Iterable[ModelWrapper]:
        """Its wrappers around the model, each at a position of the chain that every call passes."""
        return ()

    def tool_wrappers(self) -> Iterable[ToolCallWrapper]:
        """Its wrappers around calls of tools, each at a position of the chain that every call passes."""
        return ()

    def assemble(self) -> None:
        """Build what consists of the offers of several components.

        Called once, in the order of the components, when all of them are made and before the mesh starts.
        """

    def checks(self) -> Iterable[Check]:
        """The checks of `mesh doctor`, of a mesh that does not run."""
        return ()

    def figures(self) -> Iterable[Figure]:
        """Its numbers for monitoring."""
        return ()

    def warnings(self) -> Iterable[str]:
        """Lines that are printed at the start of the mesh."""
        return ()

    async def drain(self, seconds: float) -> None:
        """Take nothing new, and let what runs end; after that time leave the rest for the next start."""

    async def begin(self) -> None:
        """Run what is open, and send what waits: all that has effects outside of the mesh. Idempotent.

        Called once every component has started; of a mesh that is held or drains when it is released.
        """

    async def start(self) -> None:
        """Begin; the mesh takes messages already. Starts the `parts` of the component."""
        for part in self.parts:
            await part.start()

    async def stop(self) -> None:
        """End. Idempotent, and called also where the start failed."""
        for part in reversed(self.parts):
            await part.stop()


def call_hook(mesh: Mesh, hook: Callable[[Component], _OfferT | None]) -> list[_OfferT]:
    """Calls a hook on every component, newest first, and returns the results that are not None."""
    components = [part for part in reversed(mesh.components) if isinstance(part, Component)]
    return [offer for component in components if (offer := hook(component)) is not None]
