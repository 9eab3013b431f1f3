"""Virtual keys are one set for a whole mesh: what one worker makes or ends counts for all, on every host."""

import asyncio

import pytest

from meshwright.envelope import ActorRef
from meshwright.errors import InvalidInput, NotFound
from meshwright.kernel.runtime import Runtime
from meshwright.ledger.keys import (
    KEY,
    KEYS,
    LIST,
    MAX_KEYS,
    KeyIndex,
    Keys,
    KeyState,
    NewKeyState,
    Unauthenticated,
    VirtualKey,
    VirtualKeys,
    digest,
)
from meshwright.messages import new_id
from meshwright.turns import ActorKind
from tests.support.host_harness import SHARED, STEADY, HostHarness

KINDS = (ActorKind.of(VirtualKey, type=KEY), ActorKind.of(VirtualKeys, type=KEYS))
shared = pytest.mark.parametrize("harness", SHARED, indirect=True)


async def kept(host: Runtime, key_id: str) -> KeyState | None:
    state = await host.read(ActorRef(KEY, key_id))
    assert state is None or isinstance(state, KeyState)
    return state


async def test_a_key_is_made_listed_checked_and_revoked(harness: HostHarness) -> None:
    keys = Keys(await harness.open(*KINDS))
    assert not await keys.required()
    made = [await keys.create("helper", tenant_id="acme", budget="5.00/day"), await keys.create("other")]
    assert await keys.required()
    assert [await keys.check(each.key) for each in made] == await keys.list()
    assert [key.key_id for key in await keys.list()] == [each.key_id for each in made]
    revoked = await keys.revoke(made[0].key_id)
    with pytest.raises(Unauthenticated, match="was revoked"):
        await keys.check(made[0].key)
    assert await keys.list() == [revoked, await keys.check(made[1].key)]
    assert (revoked.agent_id, revoked.tenant_id, revoked.budget) == ("helper", "acme", made[0].budget)


@shared
async def test_a_key_of_one_worker_counts_for_another_and_ends_there_at_once(harness: HostHarness) -> None:
    host = await harness.open(*KINDS)
    here, there = Keys(host), Keys(await harness.open_beside(host))
    assert not await there.required()
    made = await here.create("helper")
    assert await there.required()
    assert await there.check(made.key) == await here.check(made.key)
    assert await there.list() == await here.list()
    await here.revoke(made.key_id)
    with pytest.raises(Unauthenticated, match="was revoked"):
        await there.check(made.key)
    other = await there.create("helper")
    await here.check(other.key)
    await there.revoke(other.key_id)
    with pytest.raises(Unauthenticated, match="was revoked"):
        await here.check(other.key)


@shared
async def test_keys_that_two_workers_make_at_once_are_all_there(harness: HostHarness) -> None:
    host = await harness.open(*KINDS)
    both = [Keys(host), Keys(await harness.open_beside(host))]
    made = await asyncio.gather(*(both[n % 2].create(f"helper-{n}") for n in range(20)))
    for keys in both:
        assert {key.key_id for key in await keys.list()} == {key.key_id for key in made}


async def test_keys_and_their_ends_outlive_a_crash(harness: HostHarness) -> None:
    host = await harness.open(*KINDS)
    ended, good = [await Keys(host).create("helper") for _ in range(2)]
    await Keys(host).revoke(ended.key_id)
    before = await Keys(host).list()
    keys = Keys(await harness.crash(host))
    assert await keys.required()
    assert await keys.list() == before
    assert (await keys.check(good.key)).key_id == good.key_id
    with pytest.raises(Unauthenticated, match="was revoked"):
        await keys.check(ended.key)


async def test_a_mesh_that_was_opened_stays_open_until_another_key(harness: HostHarness) -> None:
    host = await harness.open(*KINDS)
    keys = Keys(host)
    made = [await keys.create("helper") for _ in range(2)]
    await keys.revoke(made[0].key_id)
    assert await keys.required()
    assert await keys.open() == 1
    assert await keys.open() == 0
    keys = Keys(await harness.crash(host))
    assert not await keys.required()
    with pytest.raises(Unauthenticated, match="was revoked"):
        await keys.check(made[1].key)
    other = await keys.create("helper")
    assert await keys.required()
    assert (await keys.check(other.key)).key_id == other.key_id


async def test_a_key_that_was_added_meanwhile_keeps_the_mesh_closed(harness: HostHarness) -> None:
    host = await harness.open(*KINDS)
    await host.call(LIST, "add", new_id())
    await host.call(LIST, "add", new_id())
    assert await host.call(LIST, "open", 1) is False
    assert await Keys(host).required()


def test_a_list_of_an_older_version_requires_keys() -> None:
    assert KeyIndex.model_validate({"ids": [new_id()]}).required


async def test_a_repeat_changes_nothing(harness: HostHarness) -> None:
    host = await harness.open(*KINDS)
    keys = Keys(host)
    made = await keys.create("helper")
    before = await kept(host, made.key_id)
    assert before is not None and before.key is not None
    other = NewKeyState(key=before.key.model_copy(update={"agent_id": "thief"}), hash=digest("another"))
    await host.call(ActorRef(KEY, made.key_id), "make", other)
    await host.call(LIST, "add", made.key_id)
    assert await kept(host, made.key_id) == before
    assert await keys.list() == [before.key]
    revoked = await keys.revoke(made.key_id)
    assert await keys.revoke(made.key_id) == revoked
    await host.call(ActorRef(KEY, made.key_id), "make", other)
    assert await keys.list() == [revoked]


async def test_a_key_that_was_listed_and_not_made_closes_the_door_and_opens_none(
    harness: HostHarness,
) -> None:
    host = await harness.open(*KINDS)
    keys, key_id = Keys(host), new_id()
    await host.call(LIST, "add", key_id)
    assert await keys.required()
    assert await keys.list() == []
    with pytest.raises(NotFound, match="no key"):
        await keys.revoke(key_id)
    with pytest.raises(Unauthenticated, match="not one of"):
        await keys.check(f"sk-mesh-{key_id}-{'A' * 43}")


@pytest.mark.parametrize("harness", STEADY, indirect=True)
async def test_there_are_no_more_keys_than_the_list_has_room_for(harness: HostHarness) -> None:
    host = await harness.open(*KINDS)
    keys = Keys(host)
    for _ in range(0, MAX_KEYS - 1, 333):
        await asyncio.gather(*(host.call(LIST, "add", new_id()) for _ in range(333)))
    made = await keys.create("helper")
    with pytest.raises(InvalidInput, match="1,000 keys, revoked ones included"):
        await keys.create("helper")
    assert [key.key_id for key in await keys.list()] == [made.key_id]
