"""The stored bytes of each tenant are those of its rows, on both databases."""

import random

from meshwright.engine.events import table
from tests.support.event_logs import LogOnFile, event, open_log
from tests.support.postgres import Location

BLOCK = 2048


async def counted(store: LogOnFile) -> dict[str, int]:
    rows = await store.rows("SELECT tenant_id, sum(length(payload) + 256) FROM events GROUP BY tenant_id")
    return {tenant_id: int(size) for tenant_id, size in rows}


async def test_every_tenants_bytes_are_those_of_its_rows(location: Location) -> None:
    chance = random.Random(7)
    async with open_log(location) as store:
        assert await store.log.stored_bytes() == {}
        for start in range(0, 3 * BLOCK + 100, 700):
            await store.write(
                [
                    event(number, tenant_id=chance.choice("abc"), payload={"text": "ü" * (number % 90)})
                    for number in range(start, start + 700)
                ]
            )
            assert await store.log.stored_bytes() == await counted(store)
        before = await store.log.stored_bytes()
        for seq in (50, 50, 70, BLOCK, 3 * BLOCK + 50):  # in full blocks and in the last, one of them twice
            await store.database.write(table.erase_payload, seq)
        assert sum((await store.log.stored_bytes()).values()) < sum(before.values())
        assert await store.log.stored_bytes() == await counted(store)
        await store.write([event(number, tenant_id="a") for number in range(BLOCK)])  # which fills the last
        assert await store.log.stored_bytes() == await counted(store)
        assert await store.log.prune(max_events=BLOCK) == 3 * BLOCK - 1
        assert await store.log.stored_bytes() == await counted(store)
    async with open_log(location) as store:
        assert await store.log.stored_bytes() == await counted(store)
