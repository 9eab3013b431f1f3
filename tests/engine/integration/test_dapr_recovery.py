"""Workers adopt the actors of a worker that is gone, on a real state store."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from types import SimpleNamespace
from typing import Any

import pytest

from meshwright.core.errors import Conflict, StoreUnavailable
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.stores.dapr.documents import Documents
from meshwright.engine.stores.dapr.outbox import StoredActors
from meshwright.engine.stores.dapr.recovery import Recovery
from meshwright.engine.stores.dapr.sidecar import Options, Sidecar
from meshwright.engine.stores.dapr.state import State, WorkerLease
from meshwright.engine.stores.dapr.watches import Watches, WatchList
from tests.support.services import Services

pytestmark = pytest.mark.needs("mosquitto", "redis-server")
OPEN = ActorRef("clerk", "default:open")
OF_FRONTS = ActorRef("schedule", "default:digest")


class Leases(WorkerLease):
    """Says who is gone, without a store."""

    def __init__(self, *gone: str) -> None:
        self.gone = set(gone)

    async def has_expired(self, incarnation: str) -> bool:
        return incarnation in self.gone or incarnation.startswith("left-")  # a list that never had a worker


class Waking(Recovery):
    """Notes which actors it is to wake."""

    woken: list[ActorRef]

    async def review(self, ref: ActorRef, *, adopted: bool = False) -> None:
        assert adopted
        self.woken.append(ref)


class Worker:
    """One incarnation's list, and what it woke."""

    def __init__(
        self, sidecar: Sidecar, state: State, name: str, leases: Leases, types: Collection[str]
    ) -> None:
        self.name = name
        self.sidecar = sidecar
        self.state = state
        self.adopted = asyncio.Event()
        self.watch = WatchList(state, name, self.adopted.set)
        self.watches = Watches(state, leases, "mesh")
        actors = StoredActors()
        actors.watch = self.watch
        unused: Any = None
        documents = Documents(state)
        receiver: Any = SimpleNamespace(kinds=dict.fromkeys(types))
        self.recovery = Waking(Options(), receiver, documents, leases, self.watches, actors, unused)
        self.woken = self.recovery.woken = []

    async def owe(self, ref: ActorRef) -> None:
        """Have an open actor on the list."""
        armed = self.watch.arm(ref)
        assert armed is not None
        await armed


MakeWorker = Callable[..., Awaitable[Worker]]


@pytest.fixture
async def make_worker(services: Services) -> AsyncIterator[MakeWorker]:
    """Workers on one store, beside a sidecar that has no scheduler."""
    async with services.sidecar("mesh", actors=False) as daprd:
        sidecar = Sidecar(daprd.app.grpc_port, daprd.app.api_token)
        sidecar.connect()
        state = State(sidecar, daprd.app.namespace, patience_seconds=5.0)
        await state.probe()

        async def make(name: str, leases: Leases, *types: str) -> Worker:
            worker = Worker(sidecar, state, name, leases, types or ("clerk",))
            await worker.watches.add(name)
            return worker

        yield make
        await sidecar.close()


async def test_a_list_is_taken_up_though_there_is_no_scheduler(make_worker: MakeWorker) -> None:
    leases = Leases("dead")
    await make_worker("alive", leases)
    dead = await make_worker("dead", leases)
    await dead.owe(OPEN)
    heir = await make_worker("heir", leases)
    await heir.recovery.sweep()
    assert heir.woken == [OPEN]


async def test_a_list_whose_adopter_died_over_it_is_adopted_by_the_next(make_worker: MakeWorker) -> None:
    leases = Leases("dead")
    dead = await make_worker("dead", leases)
    await dead.owe(OPEN)
    first, second = await make_worker("first", leases), await make_worker("second", leases)
    first.watch.close(StoreUnavailable("the worker has begun anew"))
    await first.recovery.sweep()
    await second.recovery.sweep()
    assert (first.woken, second.woken) == ([], []), "two have adopted at once"
    leases.gone.add("first")
    await second.recovery.sweep()
    assert second.woken == [OPEN]


async def test_actors_are_left_to_a_worker_that_has_their_type(make_worker: MakeWorker) -> None:
    leases = Leases("dead", "gone")
    dead, gone = [await make_worker(name, leases, "clerk", "schedule") for name in ("dead", "gone")]
    for ref in (OPEN, OF_FRONTS):
        await dead.owe(ref)
    await gone.owe(OF_FRONTS)
    replica = await make_worker("replica", leases, "clerk")
    for _ in range(3):
        await replica.recovery.sweep()
    assert replica.woken == [OPEN] and OF_FRONTS not in replica.watch
    front = await make_worker("front", leases, "clerk", "schedule")
    await front.recovery.sweep()
    assert front.woken == [OF_FRONTS, OF_FRONTS] and OPEN not in front.watch
    assert await front.watches.incarnations() == ["replica", "front"]


async def test_a_worker_that_was_taken_for_gone_hears_of_it_with_its_next_commit(
    make_worker: MakeWorker,
) -> None:
    leases = Leases("sleeper")
    sleeper = await make_worker("sleeper", leases)
    await sleeper.owe(OPEN)
    heir = await make_worker("heir", leases)
    await heir.recovery.sweep()
    assert not sleeper.adopted.is_set()
    with pytest.raises(Conflict):
        await sleeper.owe(ActorRef("clerk", "default:next"))
    assert sleeper.adopted.is_set()
    with pytest.raises(StoreUnavailable, match="another worker has taken up"):
        await sleeper.owe(ActorRef("clerk", "default:last"))


async def test_a_lease_that_ran_out_on_the_way_of_its_renewal_is_lost(make_worker: MakeWorker) -> None:
    worker = await make_worker("late", Leases())
    lapsed = asyncio.Event()
    options = Options(lease_seconds=5.0, renew_seconds=0.1)
    lease = WorkerLease(options, worker.state, worker.sidecar, lapsed.set)
    await lease.take("late")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(lapsed.wait(), 0.5)  # some renewals
    await worker.sidecar.delete(
        worker.state.key("lease", "late")
    )  # as the store does with one that has run out
    await lapsed.wait()
    assert not lease.is_held
    await lease.stop(give_back=False)
