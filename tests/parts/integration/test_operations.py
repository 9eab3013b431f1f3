"""Access to each operation and to contents, by role, tenant and requester of a task.

The tables say it once more, beside the rules that the mesh goes by. A new operation fails here until it has
its lines.
"""

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from decimal import Decimal
from typing import Any, NamedTuple

import pytest
from msgspec.structs import replace

from meshwright import Agent, Capability, File, Run, TaskRequest
from meshwright.agents.context.plan import CompressRequest
from meshwright.core.access import Role
from meshwright.core.encoding import encode
from meshwright.core.errors import Forbidden, MeshError, NotFound, StoreUnavailable, Unauthenticated
from meshwright.core.events import Event
from meshwright.core.messages import Caller
from meshwright.core.operations import get_operation, get_operations
from meshwright.engine.events.audit import Audit
from meshwright.engine.events.filter import EventFilter, TaskFilter
from meshwright.engine.events.inbox import question_id
from meshwright.engine.work.protocol import Wait
from meshwright.mesh.identity.administration import Administration, ModelOperations
from meshwright.mesh.identity.batches import Batches
from meshwright.mesh.identity.events import EventFeed, EventOperations
from meshwright.mesh.identity.operations import Acting, Operations
from meshwright.mesh.identity.rules import check_answer
from meshwright.mesh.mesh import Mesh
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.money.keys import Keys
from meshwright.parts.agent_config.operations import AgentConfigs
from meshwright.parts.agent_config.records import AgentConfigRequest, AgentConfigUpdate
from meshwright.parts.evaluations.operations import Evaluations
from meshwright.parts.evaluations.records import Data, EvaluationRequest, Item
from meshwright.parts.experiments.operations import Experiments
from meshwright.parts.experiments.records import ExperimentRequest, ExperimentRunRequest
from meshwright.parts.figures.operations import FiguresOperations
from meshwright.parts.inbox.operations import InboxOperations
from meshwright.parts.keys.operations import KeyOperations
from meshwright.parts.llmops.operations import PromptRegistry
from meshwright.parts.llmops.records import PromptChange, PromptRequest
from meshwright.parts.money.operations import MoneyOperations
from meshwright.parts.schedules.operations import ScheduleChange, ScheduleRequest, Schedules
from meshwright.testing import MeshUnderTest, mesh_for

SECRET = "the-secret-of-the-task"
ROLES = {
    "v": Role.VIEWER,
    "c": Role.CONTENTS,
    "s": Role.SUBMITTER,
    "o": Role.OPERATOR,
    "a": Role.APPROVER,
    "A": Role.ADMIN,
}
OF_TASKS = """
see          vcsoaA  vcoaA  csaA  caA
task_events  vcsoaA  vcoaA  csaA  caA
follow       vcsoaA  vcoaA  csaA  caA
transcripts  csaA    caA    csaA  caA
export       csaA    caA    csaA  caA
file         csaA    caA    csaA  caA
outcome      csaA    caA    csaA  caA
answer       saA     aA     saA   aA
reply        saA     aA     saA   aA
reveal       saA     aA     saA   aA
claim        saA     aA     -     -
release_claim saA    aA     -     -
cancel       soA     oA     sA    A
retry        soA     oA     -     -
retry_plan   soA     oA     -     -
cancel_plan  soA     oA     -     -
score        soA     oA     -     -
fork         sA      A      -     -
tree         vcsoaA  vcoaA  -     -
"""
"""Roles that may use it on own and on other tasks, and roles that see the contents."""
OF_TENANTS = """
submit        sA     -
tasks         vcoaA  caA
retry_all     oA     -
cancel_all    oA     -
answer_all    aA     -
dead_letters  vcoaA  -
inbox         caA    caA
events        vcoaA  caA
tail          vcoaA  caA
publish       sA     -
agents        vcoaA  -
scores        vcoaA  -
costs         vcoaA  -
status        vcoaA  caA
compress      sA     -
models        sA     -
call_model    sA     -
budgets       vcoaA  -
estimate      vcoaA  -
raise_budget  oA     -
allowances    oA     -
allow         oA     -
disallow      oA     -
create_key    A      -
list_keys     A      -
revoke_key    A      -
rotate_key    A      -
erase         A      -
"""
"""Roles that may use it, and roles that see contents of tasks by it."""
OF_ALL_TENANTS = {
    "open_keys": "A",
    "verify": "A",
    "rotate_secrets": "A",
    "deployments": "oA",
    "explain_route": "oA",
    "test_deployments": "oA",
}
"""Roles of callers of all tenants that may use it; callers of one tenant may not."""


class Asker(Agent):
    """Asks a person, with a secret in all that it says."""

    agent_id = "asker"
    capabilities = (Capability("asking"),)
    remembers = False

    async def run(self, run: Run) -> str:
        await run.attach(File(name="secret.txt", data=SECRET.encode()))
        if run.task.payload.get("ask"):
            return await run.ask_person(f"{SECRET}? token=Zk3x9Q2pLm8v")
        return SECRET


class Target(NamedTuple):
    """A task that waits for a person with its question, one that has ended, and a key."""

    waiting: str
    question: str
    ended: str
    key_id: str


def caller(*letters: str, tenant: str = "acme", name: str = "ada", all_tenants: bool = False) -> Caller:
    roles = frozenset(ROLES[letter] for letter in letters)
    return Caller(
        tenant_id=tenant, requested_by=name, roles=roles, key_id=f"key-of-{name}", all_tenants=all_tenants
    )


async def made(mesh: Mesh, owner: Caller) -> Target:
    """Make the tasks of an owner, whatever its roles, and a key of its tenant."""
    ended, waiting = [
        (
            await mesh.get(Tasks).submit(
                TaskRequest(agent_id="asker", payload={"text": SECRET, "ask": ask}), owner
            )
        ).task_id
        for ask in (False, True)
    ]
    await mesh.get(Tasks).outcome(ended, owner.tenant_id)
    wanted = EventFilter(event_type="task.waiting", task_id=waiting, after_seq=0)
    async for _ in mesh.log.tail(wanted):
        break
    question = (await mesh.get(Tasks).task(waiting, owner.tenant_id)).waits[0].wait_id
    key = await mesh.get(Keys).create("eve", tenant_id=owner.tenant_id)
    return Target(waiting, question, ended, key.key_id)


async def first_of(feed: EventFeed | None) -> list[Event]:
    assert feed is not None
    try:
        return await anext(feed.batches)
    finally:
        await feed.batches.aclose()


KINDS: tuple[type[Acting], ...] = (
    Batches,
    EventOperations,
    InboxOperations,
    ModelOperations,
    MoneyOperations,
    KeyOperations,
    Administration,
)


class AllOperations:
    """The operations of all kinds for a caller, by the names of their methods."""

    def __init__(self, mesh: Mesh, by: Caller) -> None:
        self._kinds = [kind(mesh, by) for kind in KINDS]
        self.tenant_id = by.tenant_id

    def __getattr__(self, name: str) -> Any:
        return next(getattr(kind, name) for kind in self._kinds if hasattr(kind, name))


USES: dict[str, Callable[[AllOperations, Target], Any]] = {
    "see": lambda ops, task: ops.see(task.ended),
    "task_events": lambda ops, task: ops.task_events(task.ended, EventFilter()),
    "follow": lambda ops, task: ops.follow(task.waiting),
    "transcripts": lambda ops, task: ops.transcripts(task.ended),
    "export": lambda ops, task: ops.export(task.ended),
    "file": lambda ops, task: ops.file(task.ended, 1),
    "outcome": lambda ops, task: ops.outcome(task.ended),
    "answer": lambda ops, task: ops.answer(task.waiting, task.question, "yes"),
    "reply": lambda ops, task: ops.reply(task.waiting, "yes"),
    "reveal": lambda ops, task: ops.reveal(task.waiting, task.question),
    "claim": lambda ops, task: ops.claim(question_id(ops.tenant_id, task.question)),
    "release_claim": lambda ops, task: ops.release_claim(question_id(ops.tenant_id, task.question)),
    "cancel": lambda ops, task: ops.cancel(task.waiting),
    "retry": lambda ops, task: ops.retry(task.ended),
    "cancel_plan": lambda ops, task: ops.cancel_plan(task.waiting),
    "retry_plan": lambda ops, task: ops.retry_plan(task.ended),
    "score": lambda ops, task: ops.score(task.ended, "thumbs", 1.0),
    "retry_all": lambda ops, *_: ops.retry_all(dry_run=True),
    "cancel_all": lambda ops, *_: ops.cancel_all(dry_run=True),
    "answer_all": lambda ops, *_: ops.answer_all("yes", kind="none"),
    "dead_letters": lambda ops, *_: ops.dead_letters(),
    "fork": lambda ops, task: ops.fork(task.ended, "1", dry_run=True),
    "tree": lambda ops, task: ops.tree(task.ended),
    "submit": lambda ops, *_: ops.submit(TaskRequest(agent_id="asker")),
    "tasks": lambda ops, *_: ops.tasks(),
    "inbox": lambda ops, *_: ops.inbox(),
    "events": lambda ops, *_: ops.events(EventFilter(limit=1000)),
    "tail": lambda ops, *_: ops.tail(EventFilter(after_seq=0)),
    "publish": lambda ops, *_: ops.publish("app.test", "test.done", {"text": "x"}),
    "agents": lambda ops, *_: ops.agents(),
    "scores": lambda ops, *_: ops.scores("asking"),
    "costs": lambda ops, *_: ops.costs(),
    "status": lambda ops, *_: ops.status(),
    "compress": lambda ops, *_: ops.compress(
        CompressRequest(sender="a", receiver="b", project_id="p", task_summary="x")
    ),
    "models": lambda ops, *_: ops.models(),
    "call_model": lambda ops, *_: ops.call_model(),
    "budgets": lambda ops, _: ops.budgets(),
    "estimate": lambda ops, _: ops.estimate(agent_id="asker"),
    "raise_budget": lambda ops, task: ops.raise_budget(Decimal(1), task_id=task.waiting),
    "allowances": lambda ops, _: ops.allowances(),
    "allow": lambda ops, _: ops.allow("asker", "5/day"),
    "disallow": lambda ops, _: ops.disallow("asker"),
    "create_key": lambda ops, _: ops.create_key(name="eve"),
    "list_keys": lambda ops, _: ops.list_keys(),
    "revoke_key": lambda ops, task: ops.revoke_key(task.key_id),
    "rotate_key": lambda ops, task: ops.rotate_key(task.key_id, grace="1h"),
    "erase": lambda ops, task: ops.erase(task_id=task.ended),
    "open_keys": lambda ops, _: ops.open_keys(),
    "verify": lambda ops, _: ops.verify(),
    "rotate_secrets": lambda ops, _: ops.rotate_secrets(),
    "deployments": lambda ops, _: ops.deployments(),
    "explain_route": lambda ops, _: ops.explain_route(),
    "test_deployments": lambda ops, _: ops.test_deployments(),
}
"""A use of each operation, as valid as it takes to be let in."""


async def use(mesh: Mesh, name: str, by: Caller, task: Target) -> tuple[bool, bool]:
    """Use an operation; returns whether the caller may, and whether it sees the secret."""
    try:
        result = USES[name](AllOperations(mesh, by), task)
        if isinstance(result, Awaitable):
            result = await result
        if isinstance(result, EventFeed) or name == "follow":
            result = await first_of(result)
    except (Forbidden, Unauthenticated):
        return False, False
    except MeshError:
        return True, False
    return True, SECRET in shown(result)


def shown(result: Any) -> str:
    if name := getattr(result, "data", None):
        return name.decode()
    if isinstance(result, list) and result and hasattr(result[0], "paths"):
        return SECRET  # transcripts, which are contents
    return str(result) if isinstance(result, tuple) else encode(result).decode()


def lines(table: str) -> list[list[str]]:
    return [line.split() for line in table.strip().splitlines()]


@pytest.fixture
async def meshed() -> AsyncIterator[MeshUnderTest]:
    async with mesh_for(Asker) as under_test:
        under_test.mesh.get(Audit).records_reads = True
        yield under_test


def test_every_operation_has_a_rule_and_a_line_in_the_tables() -> None:
    methods = {
        name
        for kind in KINDS
        for name, _ in inspect.getmembers(kind, inspect.isfunction)
        if not (name.startswith("_") or hasattr(Acting, name))
    }
    tables = {line[0] for table in (OF_TASKS, OF_TENANTS) for line in lines(table)} | {*OF_ALL_TENANTS}
    declared = {name for kind in KINDS for name in get_operations(kind)}
    assert methods == declared == tables == set(USES)


@pytest.mark.parametrize("line", lines(OF_TASKS), ids=lambda line: line[0])
async def test_each_role_uses_operations_on_own_and_others_tasks(
    meshed: MeshUnderTest, line: list[str]
) -> None:
    mesh, (name, own, others, sees_own, sees_others) = meshed.mesh, line
    foreign = await made(mesh, caller(tenant="globex"))
    for letter in ROLES:
        by = caller(letter)
        for owner, may, sees in (("ada", own, sees_own), ("bob", others, sees_others)):
            task = await made(mesh, caller(name=owner))
            expected = (letter in may, letter in sees)
            assert await use(mesh, name, by, task) == expected, (name, letter, owner)
        with pytest.raises((NotFound, Forbidden)):
            await USES[name](AllOperations(mesh, by), foreign)
    assert (await mesh.get(Tasks).task(foreign.waiting, "globex")).status == "waiting"


@pytest.mark.parametrize("line", lines(OF_TENANTS), ids=lambda line: line[0])
async def test_each_role_uses_operations_of_its_tenant_alone(meshed: MeshUnderTest, line: list[str]) -> None:
    mesh, (name, may, sees) = meshed.mesh, line
    task, other = await made(mesh, caller(name="bob")), await made(mesh, caller(tenant="globex"))
    await EventOperations(mesh, caller("s", tenant="initech")).publish("app.test", "test.began", {})
    for letter in ROLES:
        spy = caller(letter, tenant="initech")
        assert await use(mesh, name, spy, other) == (letter in may, False), (name, letter, "spy")
        expected = (letter in may, letter in sees)
        assert await use(mesh, name, caller(letter), task) == expected, (name, letter)
    assert not (await use(mesh, name, Caller(tenant_id="acme"), task))[0]


async def test_words_of_requests_are_searched_by_those_who_may_read_them(meshed: MeshUnderTest) -> None:
    mesh = meshed.mesh
    await made(mesh, caller(name="bob"))
    wanted = EventFilter(of_task=TaskFilter(text="task"), after_seq=0)
    searches: list[Callable[[AllOperations], Any]] = [
        lambda ops: ops.tasks(text="task"),
        lambda ops: ops.dead_letters(text="task"),
        lambda ops: ops.events(wanted),
        lambda ops: ops.tail(wanted),
        lambda ops: ops.costs(text="task"),
        lambda ops: ops.cancel_all(text="task", dry_run=True),
    ]
    for search in searches:
        with pytest.raises(Forbidden, match="contents"):
            await search(AllOperations(mesh, caller("v", "o")))
        found = await search(AllOperations(mesh, caller("c", "o")))
        if isinstance(found, EventFeed):
            await found.batches.aclose()
    assert len((await AllOperations(mesh, caller("c")).tasks(text="SECRET-of-the")).items) == 2


@pytest.mark.parametrize("name", sorted(OF_ALL_TENANTS))
async def test_operations_on_the_mesh_take_a_caller_of_all_tenants(meshed: MeshUnderTest, name: str) -> None:
    task = Target("none", "none", "none", "none")
    for letter in ROLES:
        assert not (await use(meshed.mesh, name, caller(letter), task))[0], letter
        of_all = caller(letter, all_tenants=True)
        assert (await use(meshed.mesh, name, of_all, task))[0] == (letter in OF_ALL_TENANTS[name]), letter


async def test_a_task_names_no_file_that_its_caller_may_not_read(meshed: MeshUnderTest) -> None:
    mesh = meshed.mesh
    task = await made(mesh, caller(name="bob"))
    named = TaskRequest(agent_id="asker", payload={"files": [{"url": f"/tasks/{task.ended}/files/1"}]})
    for by, may in (
        (caller("s", name="bob"), True),
        (caller("s", "c"), True),
        (caller("s"), False),
        (caller("A", tenant="globex"), False),
    ):
        try:
            await Operations(mesh, by).submit(named)
        except NotFound:
            assert not may, by
        else:
            assert may, by


@pytest.mark.parametrize(
    ("letter", "kind", "may_answer", "expected"),
    [
        ("s", "question", (), True),
        ("s", "approval", (), False),
        ("s", "approval", ("ada",), True),
        ("a", "approval", (), True),
        ("o", "question", ("ada",), False),
    ],
)
async def test_approvals_take_an_approver_or_the_caller_whom_they_name(
    meshed: MeshUnderTest, letter: str, kind: str, may_answer: tuple[str, ...], expected: bool
) -> None:
    mesh, by, wait = (
        meshed.mesh,
        caller(letter),
        Wait(wait_id="w", subject={"kind": kind}, may_answer=may_answer),
    )
    task = await made(mesh, by)
    view = replace(await mesh.get(Tasks).task(task.ended, "acme"), waits=(wait,))
    try:
        get_operation(Operations.answer).rule.check(by)
        check_answer(by, view, "w")
    except Forbidden:
        assert not expected
    else:
        assert expected


async def test_an_answer_that_is_durable_is_no_error_when_the_store_goes_away(
    meshed: MeshUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh = meshed.mesh
    task, answer = await made(mesh, caller()), mesh.get(Tasks).answer

    async def answer_and_lose_the_store(*given: Any, **known: Any) -> None:
        await answer(*given, **known)
        monkeypatch.setattr(mesh.get(Tasks), "task", lose)

    async def lose(*_: Any) -> None:
        raise StoreUnavailable("the store is away")

    monkeypatch.setattr(mesh.get(Tasks), "answer", answer_and_lose_the_store)
    view = await Operations(mesh, caller("s")).answer(task.waiting, task.question, "yes")
    assert view.task_id == task.waiting and (await mesh.get(Tasks).outcome(task.waiting, "acme")).success


OF_COMPONENTS: dict[type, dict[str, str]] = {
    Schedules: {
        **dict.fromkeys(("list_schedules", "show_schedule", "preview_schedule"), "vcoaA"),
        **dict.fromkeys(("create_schedule", "put_schedule", "delete_schedule"), "oA"),
        **dict.fromkeys(("pause_schedule", "resume_schedule", "run_schedule"), "oA"),
    },
    AgentConfigs: {
        **dict.fromkeys(("list_configs", "show_config"), "vcoaA"),
        **dict.fromkeys(("create_config", "change_config", "delete_config", "show_llm"), "A"),
    },
    PromptRegistry: {
        **dict.fromkeys(("page", "history"), "vcoaA"),
        "show": "coaA",
        **dict.fromkeys(("register", "change", "remove"), "oA"),
        **dict.fromkeys(("label", "unlabel"), "A"),
    },
    Evaluations: {**dict.fromkeys(("page", "show", "items"), "vcoaA"), "make": "A", "remove": "oA"},
    Experiments: {
        **dict.fromkeys(("page", "show", "results"), "vcoaA"),
        **dict.fromkeys(("create", "run", "end"), "oA"),
        "see": "aA",
    },
    FiguresOperations: {
        **dict.fromkeys(("show", "trends", "flows", "scale", "story"), "vcoaA"),
        "metrics": "",
    },
}
"""Roles that may use the operations of components."""


@pytest.mark.parametrize("kind", OF_COMPONENTS, ids=lambda kind: kind.__name__)
async def test_each_role_uses_operations_of_components(meshed: MeshUnderTest, kind: type) -> None:
    mesh, table = meshed.mesh, OF_COMPONENTS[kind]
    found = inspect.getmembers(kind, inspect.isfunction)
    takes = {name: inspect.signature(method).parameters for name, method in found if name[0] != "_"}
    assert {name for name, parameters in takes.items() if "caller" in parameters} == table.keys()
    part = mesh.get(kind)
    task = TaskRequest(agent_id="asker")
    values = {
        "schedule_id": "none",
        "agent_id": "none",
        "app": "none",
        "name": "none",
        "label": "production",
        "version": 1,
        "evaluation_id": "none",
        "experiment_id": "none",
    }
    two = [{"name": "now"}, {"name": "cold", "temperature": 0}]
    bodies = {
        "create_schedule": ScheduleRequest(every_seconds=3600, task=task),
        "put_schedule": ScheduleChange(every_seconds=3600, task=task),
        "create_config": AgentConfigRequest(agent_id="asker", name="A", llm_provider="openai", llm_model="m"),
        "change_config": AgentConfigUpdate(llm_model="m"),
        "register": PromptRequest(name="asker", template="Ask."),
        "change": PromptChange(template="Ask."),
        "make": EvaluationRequest(data=Data(items=[Item(output="x")]), metrics=["length"]),
        "run": ExperimentRunRequest(),
    }
    if kind is Experiments:
        bodies["create"] = ExperimentRequest.model_validate(
            {"name": "x", "agent_id": "asker", "variants": two}
        )
    for name, may in table.items():
        for letter in ROLES:
            body = bodies.get(name)
            known = {**values, "caller": caller(letter), "request": body, "change": body}
            needed = {key: known[key] for key in takes[name] if key in known}
            try:
                await getattr(part, name)(**needed)
            except Forbidden:
                assert letter not in may, (name, letter)
            except MeshError:
                assert letter in may, (name, letter)
            else:
                assert letter in may, (name, letter)
