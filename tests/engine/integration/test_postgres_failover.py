"""PostgreSQL with a standby: failover to one that was behind, and an old primary that comes back."""

import asyncio
from pathlib import Path
from urllib.parse import quote

import aiohttp

from tests.engine.integration.test_postgres_workers import SLEEPER, Front, process, ready
from tests.support.postgres import NAME, PASSWORD, USER, Address, Cluster
from tests.support.running_mesh import mesh

UP = ("up", "--port", "0", "--trust")
SIGNED_OFTEN = {"MESH_AUDIT__HEAD_SECONDS": "0.1"}


def both(first: Cluster, second: Cluster) -> Address:
    """An address with two servers."""
    hosts = f"127.0.0.1:{first.port},127.0.0.1:{second.port}"
    options = quote("-csearch_path=public")
    return Address(
        f"postgresql://{USER}:{PASSWORD}@{hosts}/{NAME}?target_session_attrs=read-write&options={options}"
    )


def with_agent(folder: Path) -> None:
    (folder / "actors").mkdir()
    (folder / "actors" / "sleeper.py").write_text(SLEEPER)


async def stopped(running: object) -> None:
    running.terminate()  # type: ignore[attr-defined]
    await running.wait()  # type: ignore[attr-defined]


async def test_a_start_notices_a_standby_that_was_behind(
    tmp_path: Path, own_postgres: Cluster, standby: Cluster
) -> None:
    with_agent(tmp_path)
    url = both(own_postgres, standby)
    async with asyncio.timeout(240):
        async with (
            process(tmp_path / "one", url, *UP, **SIGNED_OFTEN) as running,
            aiohttp.ClientSession(await ready(running)) as http,
        ):
            front = Front(http, own_postgres)
            kept = await front.work()
            standby.catch_up(own_postgres)
            standby.lag()
            lost = [await front.work() for _ in range(5)]
            last = max(event["seq"] for event in await front.events())
            await stopped(running)
        own_postgres.stop()
        standby.promote()
        async with (
            process(tmp_path / "one", url, *UP, **SIGNED_OFTEN) as running,
            aiohttp.ClientSession(await ready(running)) as http,
        ):
            front = Front(http, standby)
            [noticed] = await front.events(event_type="store.loss_noticed")
            loss = noticed["payload"]
            assert loss["last_seq"] < last <= loss["lost_until_seq"]
            assert await front.status_of(kept) == "succeeded"
            assert {await front.status_of(task_id) for task_id in lost} == {None}
            after = await front.work()
            seqs = [event["seq"] for event in await front.events() if event["task_id"] == after]
            assert min(seqs) > loss["lost_until_seq"], "a number was given twice"
            await stopped(running)
    gone = f"events {loss['last_seq'] + 1} to {loss['lost_until_seq']} are gone"
    assert gone in (tmp_path / "one" / "stderr").read_text()
    found = await mesh("verify", "--data", str(tmp_path / "one" / "data"), MESH_DATABASE=url)
    assert found.status == 0, found
    assert "came back older" in found.out and "altered" not in found.out.replace("unaltered", ""), found


async def test_numbers_that_were_given_again_accuse_nobody(
    tmp_path: Path, own_postgres: Cluster, standby: Cluster
) -> None:
    with_agent(tmp_path)
    url = both(own_postgres, standby)
    async with asyncio.timeout(240):
        async with (
            process(tmp_path / "one", url, *UP, **SIGNED_OFTEN) as running,
            aiohttp.ClientSession(await ready(running)) as http,
        ):
            front = Front(http, own_postgres)
            await front.work()
            standby.catch_up(own_postgres)
            standby.lag()
            await front.work()
            last = max(event["seq"] for event in await front.events())
            await stopped(running)
        own_postgres.stop()
        standby.promote()
        async with (  # a process that knows nothing of the rows which are gone
            process(tmp_path / "two", url, *UP, **SIGNED_OFTEN) as running,
            aiohttp.ClientSession(await ready(running)) as http,
        ):
            front = Front(http, standby)
            while max(event["seq"] for event in await front.events()) <= last + 20:
                await front.work()
            await stopped(running)
        data = str(tmp_path / "one" / "data")
        for _ in range(2):  # before the process that knows of them has noticed it, and after
            found = await mesh("verify", "--audit", "--data", data, MESH_DATABASE=url)
            assert found.status == 1
            assert "the database came back older, and went on" in found.err, found
            assert "altered" not in found.err and " cut" not in found.err, found
            async with (
                process(tmp_path / "one", url, *UP) as running,
                aiohttp.ClientSession(await ready(running)) as http,
            ):
                [noticed] = await Front(http, standby).events(event_type="store.loss_noticed")
                assert noticed["payload"]["last_seq"] < last <= noticed["payload"]["lost_until_seq"]
                await stopped(running)


async def test_an_old_primary_that_comes_back_gets_no_worker(
    tmp_path: Path, own_postgres: Cluster, standby: Cluster
) -> None:
    with_agent(tmp_path)
    url = both(own_postgres, standby)
    async with (
        process(tmp_path / "one", url, *UP) as running,
        asyncio.timeout(240),
        aiohttp.ClientSession(await ready(running)) as http,
    ):
        front = Front(http, own_postgres)
        await front.work()
        standby.catch_up(own_postgres)
        own_postgres.stop()
        standby.promote()
        await front.work()
        own_postgres.start()
        before = own_postgres.rows("SELECT count(*) FROM events")
        async with process(tmp_path / "two", url, "worker"):
            while standby.rows("SELECT count(*) FROM workers") != [(2,)]:
                await asyncio.sleep(0.05)
            await front.work()
        standby.query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'meshwright'"
        )
        await front.work()  # by new connections, of which the old primary would be the first
        assert own_postgres.rows("SELECT count(*) FROM events") == before, "the old primary was written"
        verified = await mesh("verify", "--data", str(tmp_path / "one" / "data"), MESH_DATABASE=url)
        assert verified.status == 0, verified
    await refused_by_folder(tmp_path, own_postgres)


async def refused_by_folder(tmp_path: Path, old: Cluster) -> None:
    """A process whose folder knows the new primary does not join the old one, by its address alone either."""
    async with process(tmp_path / "two", old.url(), "worker") as again:
        assert await asyncio.wait_for(again.wait(), 60) != 0
    said = (tmp_path / "two" / "stderr").read_text()
    assert "is an old primary that came back: it is on timeline 1, and this mesh has worked on" in said
    verified = await mesh("verify", "--data", str(tmp_path / "one" / "data"), MESH_DATABASE=old.url())
    assert verified.status != 0 and "is an old primary that came back" in verified.err
    async with process(tmp_path / "two", old.url(), "worker", MESH_ACCEPT_LOSS="true"):
        joined = "SELECT count(*) FROM workers WHERE expires_at > clock_timestamp()"
        async with asyncio.timeout(60):
            while old.rows(joined) != [(1,)]:
                await asyncio.sleep(0.05)
