"""A hold reaches each process of a mesh, and outlives all of them, on every store."""

from typing import Any, cast

from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.kernel.turns import ActorKind
from meshwright.mesh.mesh import Mesh
from meshwright.parts.maintenance.operations import MeshHold, ProcessHold
from tests.support.harness import RuntimeHarness


class Process:
    """The part of a mesh that a hold changes, on a host; it is its own worker."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.state = "working"
        self.holds = False
        self.following = ProcessHold(cast("Mesh", self))

    def get(self, kind: type[Any]) -> Any:
        return self

    def hold(self) -> None:
        self.holds = True

    async def begin(self) -> None:
        self.state, self.holds = "working", False

    async def follow(self) -> tuple[str, bool]:
        await self.following.follow()
        return self.state, self.holds


async def test_a_hold_outlives_its_process_until_it_is_released(harness: RuntimeHarness) -> None:
    runtime = await harness.open(ActorKind.from_class(MeshHold))
    process = Process(runtime)
    assert await process.follow() == ("working", False)
    for _ in range(2):
        await process.following.change(is_held=True)
    assert (process.state, process.holds) == ("held", True)
    restarted = Process(await harness.reopen(runtime))
    assert await restarted.follow() == ("held", True)
    await restarted.following.change(is_held=False)
    assert (restarted.state, await restarted.following.is_set()) == ("working", False)


async def test_each_process_follows_and_one_that_drains_goes_on_draining(harness: RuntimeHarness) -> None:
    runtime = await harness.open(ActorKind.from_class(MeshHold))
    first, second = Process(runtime), Process(await harness.open_beside(runtime))
    draining = Process(runtime)
    draining.state = "draining"
    await first.following.change(is_held=True)
    assert await second.follow() == ("held", True)
    assert await draining.follow() == ("draining", False)
    await second.following.change(is_held=False)
    assert await first.follow() == ("working", False)
