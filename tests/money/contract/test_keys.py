"""Virtual keys are one set for a whole mesh: what one worker makes or ends counts for all, on every host."""

import asyncio

import pytest

from meshwright.core.errors import NotFound
from meshwright.core.ids import new_id
from meshwright.engine.events.log import EventLog
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.sql.postgres import PostgresDatabase
from meshwright.engine.sql.sqlite import SqliteDatabase
from meshwright.money.keys import (
    KEY,
    KINDS,
    REQUIREMENT,
    Key,
    KeyProjection,
    Keys,
    KeyState,
    Unauthenticated,
    digest,
)
from tests.support.harness import SHARED, RuntimeHarness, Setup
from tests.support.postgres_harness import PostgresHarness

shared = pytest.mark.parametrize("harness", SHARED, indirect=True)


def keys_of(runtime: Runtime) -> Keys:
    """The keys as any worker has them: the list is only where the event log is."""
    database = SqliteDatabase(None)
    return Keys(runtime, EventLog(database))


async def kept(runtime: Runtime, key_id: str) -> KeyState | None:
    state = await runtime.read(ActorRef(KEY, key_id))
    assert state is None or isinstance(state, KeyState)
    return state


async def key_of(runtime: Runtime, key_id: str) -> Key | None:
    state = await kept(runtime, key_id)
    return state and state.key


async def test_a_key_is_made_checked_and_revoked(harness: RuntimeHarness) -> None:
    runtime = await harness.open(*KINDS)
    keys = keys_of(runtime)
    assert not await keys.required()
    made = [await keys.create("helper", tenant_id="acme", budget="5.00/day"), await keys.create("other")]
    assert await keys.required()
    assert [await keys.check(each.key) for each in made] == [
        await key_of(runtime, each.key_id) for each in made
    ]
    revoked = await keys.revoke(made[0].key_id)
    with pytest.raises(Unauthenticated, match="was revoked"):
        await keys.check(made[0].key)
    assert await key_of(runtime, made[0].key_id) == revoked
    assert (await keys.check(made[1].key)).key_id == made[1].key_id
    assert (revoked.agent_id, revoked.tenant_id, revoked.budget) == ("helper", "acme", made[0].budget)


@shared
async def test_a_key_of_one_worker_counts_for_another_and_ends_there_at_once(harness: RuntimeHarness) -> None:
    runtime = await harness.open(*KINDS)
    here, there = keys_of(runtime), keys_of(await harness.open_beside(runtime))
    assert not await there.required()
    made = await here.create("helper")
    assert await there.required()
    assert await there.check(made.key) == await here.check(made.key)
    await here.revoke(made.key_id)
    with pytest.raises(Unauthenticated, match="was revoked"):
        await there.check(made.key)
    other = await there.create("helper")
    await here.check(other.key)
    await there.revoke(other.key_id)
    with pytest.raises(Unauthenticated, match="was revoked"):
        await here.check(other.key)


@shared
async def test_keys_that_two_workers_make_at_once_all_count(harness: RuntimeHarness) -> None:
    runtime = await harness.open(*KINDS)
    both = [keys_of(runtime), keys_of(await harness.open_beside(runtime))]
    made = await asyncio.gather(*(both[n % 2].create(f"helper-{n}") for n in range(20)))
    for keys in both:
        found = await asyncio.gather(*(keys.check(each.key) for each in made))
        assert [key.key_id for key in found] == [each.key_id for each in made]


@pytest.mark.parametrize("harness", ["postgres"], indirect=True)
async def test_every_front_lists_the_keys_of_all_workers(harness: RuntimeHarness) -> None:
    assert isinstance(harness, PostgresHarness)
    data = harness.new_data()
    runtime = await harness.open_on(data, Setup(KINDS))
    beside = await harness.open_beside(runtime)
    made = await asyncio.gather(*(keys_of((runtime, beside)[n % 2]).create(f"helper-{n}") for n in range(20)))
    ended = await keys_of(beside).revoke(made[3].key_id)
    for worker in (runtime, beside):
        database = PostgresDatabase(data, harness.folder, durable=False)
        log = EventLog(database, projections=[KeyProjection()])
        await database.open()
        listed = await Keys(worker, log).list()
        await database.close()
        assert {key.key_id for key in listed} == {each.key_id for each in made}
        assert [key for key in listed if key.revoked_at] == [ended]


async def test_keys_and_their_ends_outlive_a_crash(harness: RuntimeHarness) -> None:
    runtime = await harness.open(*KINDS)
    ended, good = [await keys_of(runtime).create("helper") for _ in range(2)]
    revoked = await keys_of(runtime).revoke(ended.key_id)
    runtime = await harness.crash(runtime)
    keys = keys_of(runtime)
    assert await keys.required()
    assert await key_of(runtime, ended.key_id) == revoked
    assert (await keys.check(good.key)).key_id == good.key_id
    with pytest.raises(Unauthenticated, match="was revoked"):
        await keys.check(ended.key)


async def test_a_mesh_that_was_opened_stays_open_until_another_key(harness: RuntimeHarness) -> None:
    runtime = await harness.open(*KINDS)
    keys = keys_of(runtime)
    made = [await keys.create("helper") for _ in range(2)]
    await keys.revoke(made[0].key_id)
    assert await keys.required()
    await runtime.call(REQUIREMENT, "open", 2)
    await runtime.call(REQUIREMENT, "open", 2)
    keys = keys_of(await harness.crash(runtime))
    assert not await keys.required()
    for each in made:
        with pytest.raises(Unauthenticated, match="was revoked"):
            await keys.check(each.key)
    other = await keys.create("helper")
    assert await keys.required()
    assert (await keys.check(other.key)).key_id == other.key_id
    with pytest.raises(Unauthenticated, match="was revoked"):
        await keys.check(made[1].key)
    ended = await keys.revoke(made[1].key_id)
    assert ended.revoked_at is not None and await keys.revoke(made[1].key_id) == ended


async def test_a_key_that_is_being_made_while_the_mesh_is_opened_does_not_count(
    harness: RuntimeHarness,
) -> None:
    runtime = await harness.open(*KINDS)
    before = await runtime.call(REQUIREMENT, "require")
    await runtime.call(REQUIREMENT, "open", 0)
    keys = keys_of(runtime)
    other = await kept(runtime, (await keys.create("helper")).key_id)
    assert other is not None and other.key is not None and other.opening > before
    key = other.key.model_copy(update={"key_id": new_id()})
    text = f"sk-mesh-{key.key_id}-{'A' * 43}"
    late = KeyState(key=key, hash=digest(text), opening=before)
    await runtime.call(ActorRef(KEY, key.key_id), "make", late)
    with pytest.raises(Unauthenticated, match="was revoked"):
        await keys.check(text)


async def test_a_repeat_changes_nothing(harness: RuntimeHarness) -> None:
    runtime = await harness.open(*KINDS)
    keys = keys_of(runtime)
    made = await keys.create("helper")
    before = await kept(runtime, made.key_id)
    assert before is not None and before.key is not None
    other = KeyState(key=before.key.model_copy(update={"agent_id": "thief"}), hash=digest("another"))
    await runtime.call(ActorRef(KEY, made.key_id), "make", other)
    assert await kept(runtime, made.key_id) == before
    revoked = await keys.revoke(made.key_id)
    assert await keys.revoke(made.key_id) == revoked
    await runtime.call(ActorRef(KEY, made.key_id), "make", other)
    assert await key_of(runtime, made.key_id) == revoked


async def test_a_key_that_was_not_made_closes_the_door_and_opens_none(harness: RuntimeHarness) -> None:
    runtime = await harness.open(*KINDS)
    keys, key_id = keys_of(runtime), new_id()
    await runtime.call(REQUIREMENT, "require")
    assert await keys.required()
    with pytest.raises(NotFound, match="no key"):
        await keys.revoke(key_id)
    with pytest.raises(Unauthenticated, match="not one of"):
        await keys.check(f"sk-mesh-{key_id}-{'A' * 43}")
