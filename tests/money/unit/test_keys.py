"""Virtual keys, on a real host; and a LiteLLM proxy's, over a fake of its management API."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from meshwright.cli.app import mesh
from meshwright.core import topics
from meshwright.core.access import Role
from meshwright.core.errors import Conflict, InvalidInput, NotFound, StoreUnavailable, Unauthenticated
from meshwright.engine.events.log import EventLog
from meshwright.engine.kernel.envelope import ActorRef, Message
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.sql.sqlite import SqliteDatabase
from meshwright.engine.stores.sqlite import SqliteStore
from meshwright.money.keys import KINDS, PREFIX, KeyProjection, Keys, key_budget
from meshwright.money.proxy import CostDifference, LiteLLMProxy, ProxyFailed, make_proxy, reconcile
from meshwright.testing import ManualClock

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MASTER = "sk-master"


@asynccontextmanager
async def opened_host(folder: Path) -> AsyncIterator[tuple[Runtime, Keys]]:
    database = SqliteDatabase(folder, durability="normal")
    log = EventLog(database, projections=[KeyProjection()])
    runtime = Runtime(SqliteStore(database, log), clock=ManualClock(NOW))
    for kind in KINDS:
        runtime.register(kind)
    await runtime.start()
    try:
        yield runtime, Keys(runtime, log)
    finally:
        await runtime.stop()


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Keys]:
    async with opened_host(folder) as (_, keys):
        yield keys


@pytest.fixture
async def keys(tmp_path: Path) -> AsyncIterator[Keys]:
    async with opened(tmp_path) as keys:
        yield keys


async def test_a_key_is_known_again_also_after_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path) as keys:
        made = await keys.create("helper", tenant_id="acme", budget="5.00/day")
        found = await keys.check(made.key)
    async with opened(tmp_path) as keys:
        assert await keys.check(made.key) == found
        assert await keys.list() == [found.model_copy(update={"used_at": NOW})]
    assert (found.agent_id, found.tenant_id, found.created_at) == ("helper", "acme", NOW)
    assert found.budget is not None
    assert (found.budget.limit_usd, found.budget.window, found.budget.hard) == (Decimal("5.00"), "day", True)


async def test_a_key_is_random_and_long_and_no_two_are_the_same(keys: Keys) -> None:
    made = [(await keys.create("helper")).key for _ in range(50)]
    secrets = {key[len(PREFIX) + 27 :] for key in made}  # behind the id and a hyphen
    assert len(secrets) == 50
    assert {len(secret) for secret in secrets} == {43}  # 32 bytes in base 64


async def test_the_key_itself_is_kept_nowhere(tmp_path: Path) -> None:
    async with opened(tmp_path) as keys:
        made = await keys.create("helper")
        assert made.key not in repr(await keys.list())
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert made.key_id.encode() in stored
    assert hashlib.sha256(made.key.encode()).hexdigest().encode() in stored
    assert made.key[-43:].encode() not in stored


async def test_the_key_itself_is_in_no_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[bytes] = []
    async with opened_host(tmp_path) as (runtime, keys):
        call = runtime.call

        async def noted(ref: ActorRef, method: str, body: Any = None) -> Any:
            sent.append(Message("1", ref, method, body).encode())
            return await call(ref, method, body)

        monkeypatch.setattr(runtime, "call", noted)
        made = await keys.create("helper")
        await keys.revoke(made.key_id)
    assert [made.key_id in data.decode() for data in sent] == [False, True, True]
    assert made.key[-43:].encode() not in b"".join(sent)


async def test_what_is_no_key_is_refused_and_not_repeated(keys: Keys) -> None:
    made = await keys.create("helper")
    changed = made.key[:-1] + ("A" if made.key[-1] != "A" else "B")
    stranger = PREFIX + "0" * 26 + made.key[len(PREFIX) + 26 :]
    for shown in ("", "none", PREFIX, changed, stranger, made.key + "A", made.key_id, "ü" * 80, "\udc80"):
        with pytest.raises(Unauthenticated) as raised:
            await keys.check(shown)
        assert not shown or shown not in str(raised.value)


async def test_a_key_that_could_not_be_made_is_not_listed_and_requires_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened_host(tmp_path) as (runtime, keys):
        call = runtime.call

        async def fails_to_make(ref: ActorRef, method: str, body: Any = None) -> Any:
            if method == "make":
                raise StoreUnavailable("gone")
            return await call(ref, method, body)

        monkeypatch.setattr(runtime, "call", fails_to_make)
        with pytest.raises(StoreUnavailable):
            await keys.create("helper")
        assert await keys.required()
        assert await keys.list() == []


async def test_a_mesh_may_have_any_number_of_keys(keys: Keys) -> None:
    made = []
    for _ in range(3):
        made += await asyncio.gather(*(keys.create("helper") for _ in range(400)))
    assert {key.key_id for key in await keys.list()} == {each.key_id for each in made}
    assert await keys.open() == 1_200
    assert not await keys.required()
    assert all(key.revoked_at for key in await keys.list())


async def test_a_key_has_roles_and_expires(tmp_path: Path) -> None:
    async with opened_host(tmp_path) as (runtime, keys):
        clock = runtime.clock
        assert isinstance(clock, ManualClock)
        old = await keys.create("helper")
        made = await keys.create("helper", roles=["viewer", "operator", "viewer"], expires="1m")
        assert old.roles == (Role.SUBMITTER, Role.VIEWER, Role.CONTENTS) and old.expires_at is None
        assert made.roles == (Role.VIEWER, Role.OPERATOR)
        await clock.advance(59)
        assert (await keys.check(made.key)).key_id == made.key_id
        await clock.advance(1)
        with pytest.raises(Unauthenticated, match="expired at 2026-01-01 00:01:00 UTC"):
            await keys.check(made.key)
        for wrong in ({"roles": ["king"]}, {"roles": []}, {"expires": "soon"}, {"expires": "999999d"}):
            with pytest.raises(InvalidInput, match=next(iter(wrong))):
                await keys.create("helper", **wrong)


async def test_rotation_leaves_no_gap_and_keeps_what_the_key_may_spend(tmp_path: Path) -> None:
    async with opened_host(tmp_path) as (runtime, keys):
        clock = runtime.clock
        assert isinstance(clock, ManualClock)
        first = await keys.create("helper", tenant_id="acme", roles=["viewer"], expires="30d", budget="5/day")
        await clock.advance(10)
        second = await keys.rotate(first.key_id, grace="1m")
        assert (second.agent_id, second.tenant_id, second.roles) == ("helper", "acme", (Role.VIEWER,))
        assert second.budget == first.budget
        assert second.expires_at == NOW + timedelta(days=30, seconds=10)
        for key in (first, second):
            await keys.check(key.key)
        with pytest.raises(Conflict, match=f"was rotated to {second.key_id}"):
            await keys.rotate(first.key_id)
        await clock.advance(60)
        with pytest.raises(Unauthenticated, match="expired"):
            await keys.check(first.key)
        await keys.check(second.key)
        await keys.revoke(second.key_id)
        for key_id, error in ((second.key_id, Conflict), ("none", NotFound)):
            with pytest.raises(error):
                await keys.rotate(key_id)
        listed = {key.key_id: key.replaced_by for key in await keys.list()}
        assert listed == {first.key_id: second.key_id, second.key_id: None}


async def test_the_last_use_of_a_key_and_its_misuse_are_recorded(tmp_path: Path) -> None:
    async with opened_host(tmp_path) as (runtime, keys):
        clock = runtime.clock
        assert isinstance(clock, ManualClock)
        made = await keys.create("helper", tenant_id="acme")
        seen: list[tuple[str, str]] = []
        runtime.listen(topics.MESH, lambda event: seen.append((event.event_type, event.tenant_id)))
        for _ in range(50):
            await keys.check(made.key)
        await clock.advance(600)
        await keys.check(made.key)
        await keys.create("later")  # what was recorded before is in the log by then
        [listed, _] = await keys.list()
        assert listed.used_at == NOW + timedelta(minutes=10)
        for _ in range(50):
            with pytest.raises(Unauthenticated):
                await keys.check(f"{made.key[:-4]}AAAA")
        await keys.revoke(made.key_id)
        [listed, _] = await keys.list()
        assert listed.revoked_at is not None and listed.used_at == NOW + timedelta(minutes=10)
    used, refused, revoked = ("key.used", "acme"), ("key.refused", "acme"), ("key.revoked", "acme")
    assert seen == [used, used, ("key.created", "default"), refused, revoked]


@pytest.mark.parametrize("agent_id", ["", "a b", "a/b", "x" * 65])
async def test_a_key_is_for_an_id(keys: Keys, agent_id: str) -> None:
    with pytest.raises(InvalidInput, match="agent_id"):
        await keys.create(agent_id)
    assert not await keys.required()


@given(
    amount=st.decimals(min_value=0, max_value=10**9, places=6),
    window=st.sampled_from(["hour", "day", "month", "total"]),
)
def test_a_budget_is_read_to_the_last_digit(amount: Decimal, window: str) -> None:
    budget = key_budget(f"{amount:f}/{window}", "01K", "helper")
    assert (budget.limit_usd, budget.window, budget.scope, budget.of) == (amount, window, "agent", "helper")


@pytest.mark.parametrize("text", ["", "x", "5/week", "-1/day", "nan", "inf/day", "5/day/2", "1e300000000"])
def test_a_budget_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="expected dollars"):
        key_budget(text, "01K", "helper")


def test_the_command_makes_lists_and_revokes_keys(tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        return CliRunner().invoke(mesh, ["keys", *arguments, "--data", str(tmp_path)]).stdout

    key = run("create", "--name", "helper", "--budget", "5.00/day", "--yes").strip()
    [listed] = json.loads(run("list", "--json"))
    assert key.startswith(f"{PREFIX}{listed['key_id']}-")
    assert key not in run("list")
    assert "$5.00/day" in run("list")
    assert "is revoked" in run("revoke", listed["key_id"])
    assert "revoked 2" in run("list")


def test_a_key_is_of_a_person_or_of_an_agent(tmp_path: Path) -> None:
    def create(*arguments: str) -> Result:
        command = ["keys", "create", *arguments, "--yes", "--data", str(tmp_path)]
        return CliRunner().invoke(mesh, command)

    for wrong, said in [
        (["--agent", "simpel-agent"], "'simple-agent'"),
        (["--agent", "nobody"], "--name"),
        (["--name", "simple-agent"], "--agent"),
        (["--name", "ada lovelace"], "name: may use letters"),
        (["--name", "ada", "--role", "aprover"], "Did you mean approver?"),
        (["--name", "ada", "--agent", "simple-agent"], "--name ada, or"),
        ([], "--name ada, or"),
    ]:
        refused = create(*wrong)
        assert refused.exit_code != 0 and not refused.stdout
        assert said in refused.stderr + str(refused.exception) + getattr(refused.exception, "remedy", "")
    assert create("--name", "ada", "--role", "approver", "--role", "operator,submitter").exit_code == 0
    listed = CliRunner().invoke(mesh, ["keys", "list", "--json", "--data", str(tmp_path)])
    [ada] = json.loads(listed.stdout)
    assert (ada["agent_id"], ada["roles"]) == ("ada", ["approver", "operator", "submitter"])


# A proxy


class FakeProxy:
    """Speaks LiteLLM's management API as its documents have it, and is no LiteLLM."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.status = 200
        self.error = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self.answer)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        await runner.cleanup()

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.json() if request.method == "POST" else dict(request.query)
        self.asked.append((f"{request.method} {request.path}", body))
        if request.headers.get("authorization") != f"Bearer {MASTER}":
            return web.json_response({"error": {"message": "no"}}, status=401)
        if self.status != 200:
            return web.json_response({"error": {"message": f"{self.error} {MASTER}"}}, status=self.status)
        return web.json_response(text=json.dumps(ANSWERS[request.path]))


ANSWERS: dict[str, Any] = {
    "/key/generate": {"key": "sk-made", "token_id": "88dc", "expires": None},
    "/key/delete": {"deleted_keys": ["88dc"]},
    "/spend/tags": [
        {"individual_request_tag": "research", "log_count": 2, "total_spend": 0.0000084},
        {"individual_request_tag": "cheap", "log_count": 1, "total_spend": 0.1},
    ],
    "/global/spend/report": [
        {
            "group_by_day": "2026-01-01",
            "customers": [{"customer": "helper", "total_spend": 0.1, "metadata": []}],
        },
        {
            "group_by_day": "2026-01-02",
            "customers": [
                {"customer": "helper", "total_spend": 0.2, "metadata": []},
                {"customer": None, "total_spend": 1, "metadata": []},
            ],
        },
    ],
}


@pytest.fixture
async def fake() -> AsyncIterator[tuple[FakeProxy, LiteLLMProxy]]:
    fake = FakeProxy()
    async with fake.running() as url:
        yield fake, LiteLLMProxy(f"{url}/v1", MASTER)


async def test_a_proxy_makes_and_ends_a_key_with_its_budget(fake: tuple[FakeProxy, LiteLLMProxy]) -> None:
    server, proxy = fake
    made = await proxy.create_key("helper", tenant_id="acme", budget=key_budget("5.00/day", "x", "helper"))
    await proxy.delete_key(made.token)
    assert made == ("sk-made", "88dc")
    (generate, asked), (delete, ended) = server.asked
    assert (generate, delete) == ("POST /key/generate", "POST /key/delete")
    assert (asked["user_id"], asked["max_budget"], asked["budget_duration"]) == ("helper", 5.0, "1d")
    assert asked["metadata"]["tenant_id"] == "acme"
    assert ended == {"keys": ["88dc"]}


async def test_the_spend_of_a_proxy_is_exact_and_laid_beside_the_ledgers(
    fake: tuple[FakeProxy, LiteLLMProxy],
) -> None:
    server, proxy = fake
    theirs = await proxy.spend_by_tag()
    assert theirs == {"research": Decimal("0.0000084"), "cheap": Decimal("0.1")}
    assert await proxy.spend_by_agent(date(2026, 1, 1), date(2026, 1, 2)) == {"helper": Decimal("0.3"), "": 1}
    assert server.asked[-1][1] == {
        "start_date": "2026-01-01",
        "end_date": "2026-01-02",
        "group_by": "customer",
    }
    ours = {"research": Decimal("0.0000084"), "local": None}
    assert reconcile(ours, theirs) == [
        CostDifference("cheap", None, Decimal("0.1")),
        CostDifference("local", None, None),
        CostDifference("research", Decimal("0.0000084"), Decimal("0.0000084")),
    ]


@pytest.mark.parametrize(
    ("status", "error", "remedy"),
    [
        (500, "Database not connected. Connect a database", "Give the proxy a database"),
        (400, "no_db_connection", "Give the proxy a database"),
        (400, "You must be a LiteLLM Enterprise user", "LiteLLM's licence"),
        (401, "", "master key"),
        (500, "odd", "Give the proxy a database: it keeps keys and spend in one. Else the proxy's own log"),
        (418, "odd", "log says why"),
    ],
)
async def test_why_a_proxy_refuses_is_told_without_its_words(
    fake: tuple[FakeProxy, LiteLLMProxy], status: int, error: str, remedy: str
) -> None:
    server, proxy = fake
    server.status, server.error = status, error
    with pytest.raises(ProxyFailed) as raised:
        await proxy.spend_by_tag()
    assert remedy in str(raised.value)
    assert MASTER not in str(raised.value)


async def test_a_server_that_is_no_proxy_is_told(
    fake: tuple[FakeProxy, LiteLLMProxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, proxy = fake
    for path in ANSWERS:
        monkeypatch.setitem(ANSWERS, path, {"something": "else"})
    for call in (
        proxy.create_key("helper"),
        proxy.spend_by_tag(),
        proxy.spend_by_agent(date(2026, 1, 1), date(2026, 1, 1)),
    ):
        with pytest.raises(ProxyFailed, match="something else"):
            await call
    with pytest.raises(NotFound):
        await proxy.delete_key("sk-x")


async def test_a_proxy_that_is_not_there_is_told() -> None:
    with pytest.raises(ProxyFailed, match="does not answer"):
        await LiteLLMProxy("http://127.0.0.1:1", MASTER).spend_by_tag()
    with pytest.raises(InvalidInput, match="No LiteLLM proxy is set"):
        make_proxy(None, MASTER)
