"""The inbox: what tasks wait for people to say, a projection of the log with one row for each question.

A question is open until it is answered or expires, while its attempt at the task goes on. All tasks of a
tenant that wait for the same budget ask one question, which is open while one of them waits. A deployment of
a model whose key is refused is one item, however many tasks wait for it, until the deployment answers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from msgspec import field
from msgspec.structs import asdict, replace
from pydantic_core import from_json

from meshwright.core.encoding import View, encode
from meshwright.core.events import Event
from meshwright.core.ids import derived_id
from meshwright.core.model_events import DeploymentLeftAlone, DeploymentRecovered
from meshwright.core.task_events import (
    QuestionClaimed,
    QuestionReached,
    QuestionReleased,
    QuestionReminded,
    TaskWaiting,
    WaitEnded,
)
from meshwright.engine.events.filter import TaskFilter, seconds
from meshwright.engine.events.log import EventLog
from meshwright.engine.events.rows import PRUNED_EVENT
from meshwright.engine.events.status import wait_account
from meshwright.engine.events.task_lists import tenants_in
from meshwright.engine.events.tasks import PRUNED, by_pruning, parse_cursor, pruned_tasks
from meshwright.engine.sql.database import Row, Session
from meshwright.engine.work.people import asks_for_money, is_doubt

_WAITING, _ENDED, _REACHED = "task.waiting", "wait.ended", "question.reached"
_CLAIMED, _RELEASED, _REMINDED = "question.claimed", "question.released", "question.reminded"
_REFUSED, _RECOVERED = "deployment.refused", "deployment.recovered"
_REFUSED_PARTS = {"402": "Credit", "404": "Model"}
_DEPLOYMENT = "deployment/"  # and its name: the key of an item of no task
_DOUBT, _OTHER = 0, 1  # ranks
_AMONG_DOUBTS = "doubts:"  # of a cursor
_MAX_PAGE = 500
_OF_ROW = ("id", "seq", "tenant_id", "task_id", "generation", "attempt")
_COLUMNS = (*_OF_ROW, "account", "rank", "ended_at", "document")
_INTO = f"inbox ({', '.join(_COLUMNS)})"
_REPLACE = (
    "ON CONFLICT (id) DO UPDATE SET ended_at = excluded.ended_at, document = excluded.document, "
    "generation = excluded.generation, attempt = excluded.attempt"
)
_IS_CURRENT = (
    "CASE WHEN inbox.task_id = '' THEN 1=1 WHEN account IS NOT NULL THEN EXISTS "
    "(SELECT 1 FROM waits WHERE waits.account = inbox.account AND waits.tenant_id = inbox.tenant_id) ELSE "
    "EXISTS (SELECT 1 FROM tasks WHERE tasks.task_id = inbox.task_id AND tasks.tenant_id = inbox.tenant_id "
    "AND tasks.completed_at IS NULL AND tasks.generation = inbox.generation "
    "AND tasks.attempts = inbox.attempt) END"
)
_MAY_BE_OPEN = "(ended_at IS NULL OR account IS NOT NULL)"  # the condition of an index
_IS_OPEN = f"{_MAY_BE_OPEN} AND {_IS_CURRENT}"
_SHOWN = f"document, {_IS_CURRENT}, account"
_WAITS = (
    "SELECT task_id, wait_key, since FROM waits WHERE account = ? AND tenant_id = ? ORDER BY since, wait_key"
)
_OF_THREAD = (
    "WITH RECURSIVE below (task_id) AS ("  # noqa: S608 conditions are code
    "SELECT task_id FROM {open_of_thread} "
    "WHERE thread_id = :thread_id AND tenant_id = :tenant_id AND completed_at IS NULL UNION "
    "SELECT tasks.task_id FROM below JOIN {open_below} ON parent_task_id = below.task_id "
    "WHERE tasks.tenant_id = :tenant_id AND completed_at IS NULL AND parent_task_id IS NOT NULL) "
    "SELECT document FROM {inbox_of_task} WHERE task_id IN (SELECT task_id FROM below) "
    f"AND tenant_id = :tenant_id AND {_IS_OPEN} ORDER BY seq, id"
)
_FORGET = (
    "DELETE FROM inbox WHERE seq < (SELECT coalesce(min(seq), 1) FROM events) "
    "AND (task_id <> '' OR ended_at IS NOT NULL) AND NOT EXISTS "
    "(SELECT 1 FROM tasks WHERE tasks.task_id = inbox.task_id AND tasks.tenant_id = inbox.tenant_id)"
)

_DELETE = "DELETE FROM inbox WHERE tenant_id = ? AND task_id = ? AND account IS NULL"
_CLEAR = "DELETE FROM inbox WHERE seq >= ? OR (task_id = '' AND document NOT LIKE ?)"

QuestionStatus = Literal["open", "answered", "expired", "closed"]


class Question(View, kw_only=True):
    """One thing that a task waits for a person to say, or that a person has to mend or decides on."""

    id: str
    """For people, who may type its end alone."""
    seq: int
    """The number of the event that began it. Lists continue after it."""
    wait_id: str
    """The `key` to answer with."""
    task_id: str
    """The task that waits. "" for a deployment to mend; an item of a `source` may come from a task."""
    tenant_id: str
    """The tenant of the task."""
    source: str = ""
    """The part of the mesh that takes the decision. "" for a question of a task."""
    agent_id: str | None = None
    """The agent that asks. None if no agent does."""
    status: QuestionStatus = "open"
    """`open`, `answered`, `expired`, or `closed` if its task needs it no longer."""
    question: str = ""
    """The question as text."""
    subject: dict[str, Any] = field(default_factory=dict)
    """The thing that it is about, as data."""
    answer_schema: dict[str, Any] | None = None
    """The JSON schema of its answer. None: any JSON."""
    may_answer: tuple[str, ...] = ()
    """Callers who may answer. Empty: every caller but the agent that asks."""
    since: datetime | None = None
    """When it was asked."""
    expires_at: datetime | None = None
    """When it ends without an answer. None: it stays."""
    reached_at: datetime | None = None
    """When it was first shown to somebody who may answer it. None: to nobody yet."""
    reached_by: str | None = None
    """The caller or channel that showed it. None: nobody has seen it."""
    reminded_at: datetime | None = None
    """When it was last reminded of. None: not yet."""
    escalated_to: tuple[str, ...] | None = None
    """Callers whom it was asked of as well since nobody had answered; `*`: everybody who may answer. None: of
    nobody else yet."""
    claimed_by: str | None = None
    """The caller who is looking at it: the answer of another is refused. None: nobody says so."""
    claimed_until: datetime | None = None
    """When that claim ends by itself."""
    answered_by: str | None = None
    """The caller who answered. None without an answer."""
    ended_at: datetime | None = None
    """When it ended. None while it is open."""
    decision: Literal["approved", "denied"] | None = None
    """The answer of an approval, or to whether a step may run again; None for other questions."""
    tasks: int = 1
    """How many tasks wait for the same answer: all that wait for a budget, of which this names the first."""
    digest: str | None = None
    """A hash of what is shown. An answer that names it is refused once the question is another."""

    @property
    def takes_answer(self) -> bool:
        """Whether a person answers it; a deployment is mended."""
        return bool(self.task_id or self.source)

    @property
    def key(self) -> str:
        """The key of events about the question: for money the budget, for which tasks wait together."""
        return question_key(self.wait_id, self.subject)

    @property
    def kind(self) -> str:
        """By whom and what for it asks, as in `coder: approval send_mail`, or `mcp/files`."""
        if not self.task_id:
            return self.wait_id.rpartition("/")[0]
        parts = (str(self.subject[name]) for name in ("kind", "tool") if self.subject.get(name))
        return f"{self.agent_id}: {' '.join(parts) or 'question'}"

    def at(self, now: datetime) -> Question:
        """The question without a claim that has ended by then."""
        if self.claimed_until is None or self.claimed_until > now:
            return self
        return replace(self, claimed_by=None, claimed_until=None)


class QuestionClaim(View):
    """Says who is looking at a question."""

    id: str
    """The question."""
    claimed_by: str | None = None
    """The caller who is looking at it. None: nobody."""
    claimed_until: datetime | None = None
    """When the claim ends by itself."""


class InboxPage(View):
    """Some questions in their order; `cursor` asks for those that follow, and is None at the end."""

    items: tuple[Question, ...]
    cursor: str | None = None


class Inbox:
    """The questions of a mesh."""

    def __init__(self, log: EventLog) -> None:
        self._log = log

    async def page(
        self,
        tenant_id: str,
        *,
        id: str | None = None,
        with_ended: bool = False,
        limit: int = 50,
        cursor: str | None = None,
        of_task: TaskFilter | None = None,
    ) -> InboxPage:
        """A tenant's open questions, doubts first, then the oldest, at most 500.

        With `with_ended` also those that have ended, all from the oldest on.

        `id` is an end or a beginning of their ids, or of the ids of their tasks, or a whole `wait_id`;
        `of_task` says which tasks ask. Raises InvalidInput for a wrong cursor.
        """
        after = _parse_place(cursor, with_ended=with_ended)
        await self._log.index_for(of_task)
        view = self._log.view if of_task is None else self._log.view_apart
        return await view(_list, tenant_id, id, with_ended, limit, after, of_task)

    async def find(self, tenant_id: str, wait_id: str) -> Question | None:
        """The question of a wait, open or not; None where there is none."""
        return await self.get(tenant_id, question_id(tenant_id, wait_id))

    async def get(self, tenant_id: str, id: str) -> Question | None:
        """The question with an id, open or not; None where there is none."""
        return await self._log.view(_find, tenant_id, id)

    async def next_question(self, tenant_id: str, thread_id: str) -> Question | None:
        """The oldest open question, but for money, of a thread's tasks and of those that they delegated."""
        return await self._log.view(_find_next, tenant_id, thread_id)

    async def refused(self) -> list[tuple[str, int | None]]:
        """The deployments that wait for a person to fix their keys, with what they were refused with."""
        subjects = [question.subject for question in await self._log.view(_refused)]
        return [(str(subject.get("deployment")), subject.get("status")) for subject in subjects]

    async def tenants(self) -> list[str]:
        """The tenants that have or had questions or tasks."""
        return await self._log.view(_tenants)


def question_id(tenant_id: str, wait_id: str) -> str:
    """The short name of a wait."""
    return derived_id("question", tenant_id, wait_id)


def question_key(wait_id: str, subject: Any) -> str:
    """The key of events about the question of a wait: for money the budget, for which tasks wait together."""
    account = wait_account(subject) if asks_for_money(subject) else None
    return wait_id if account is None else _money_key(account)


class InboxProjection:
    """The table `inbox`."""

    name = "inbox"
    version = 2
    event_types: Collection[str] = (
        *(_WAITING, _ENDED, _REACHED, _CLAIMED, _RELEASED, _REMINDED),
        *(_REFUSED, _RECOVERED, PRUNED, PRUNED_EVENT),
    )

    def fold(self, session: Session, events: Sequence[Event]) -> None:
        """Add questions, and end them. An end may arrive before its question."""
        for is_pruning, some in by_pruning(events):
            if not is_pruning:
                self._change(session, [*some])
                continue
            for event in some:
                for task_id in pruned_tasks(event):
                    session.execute(_DELETE, (event.tenant_id, task_id))

    def _change(self, session: Session, events: Sequence[Event]) -> None:
        changes = [(key, event) for event in events for key in _named(event)]
        rows = _stored(session, {_row_id(event, key) for key, event in changes})
        for key, event in changes:
            row_id = _row_id(event, key)
            if row_id not in rows and not _asks(event):
                continue
            document = rows.get(row_id, _begun(row_id, key, event))
            if event.event_type == _REFUSED and document.get("ended_at") is not None:  # it was mended before
                document = {**_begun(row_id, key, event), "seq": document["seq"]}
            if event.event_type == _REACHED and document.get("reached_at") is not None:
                continue  # the first time counts
            if event.event_type in (_CLAIMED, _RELEASED) and _is_refused(document, event):
                continue
            rows[row_id] = {**document, **_change(event)}
        session.insert(_INTO, [_question_row(rows[row_id]) for row_id in rows], then=_REPLACE)
        if any(event.event_type == PRUNED_EVENT for event in events):
            session.execute(_FORGET)

    def clear(self, session: Session, oldest: int) -> None:
        """Forget the questions whose first event is in the log, and the items that version 1 had of parts."""
        session.execute(_CLEAR, (oldest, f'%"wait_id":"{_DEPLOYMENT}%'))


_UNCLAIMED: dict[str, Any] = {"claimed_by": None, "claimed_until": None}
_OF_QUESTION = ("subject", "answer_schema", "may_answer", "expires_at", "digest")


def _named(event: Event) -> Iterator[str]:
    """The key that an event of a question names, if it does: a person's, one for money, or a deployment's."""
    if (deployment := _read_deployment(event)) is not None:
        yield f"{_DEPLOYMENT}{deployment.deployment}"
    elif (shown := QuestionReached.read(event) or QuestionReminded.read(event)) is not None:
        yield shown.key
    elif (wait := _read_wait(event)) is not None:
        if event.task_id and wait.kind in ("person", "money"):
            yield wait.key
    elif (claim := _read_claim(event)) is not None:
        yield claim.key


def _read_deployment(event: Event) -> DeploymentLeftAlone | DeploymentRecovered | None:
    return DeploymentLeftAlone.read(event) or DeploymentRecovered.read(event)


def _read_claim(event: Event) -> QuestionClaimed | QuestionReleased | None:
    return QuestionClaimed.read(event) or QuestionReleased.read(event)


def _is_refused(document: dict[str, Any], event: Event) -> bool:
    """Whether a claim or a release has no effect: the question has ended or is claimed by another."""
    if (claim := _read_claim(event)) is None:
        return False
    if document.get("ended_at") is not None:
        return True
    until = document.get("claimed_until")
    is_open = until is None or datetime.fromisoformat(until).timestamp() <= event.time.timestamp()
    is_own = document.get("claimed_by") == claim.by
    return not (is_own or (is_open and isinstance(claim, QuestionClaimed)))


def _read_wait(event: Event) -> TaskWaiting | WaitEnded | None:
    return TaskWaiting.read(event) or WaitEnded.read(event)


def _row_id(event: Event, key: str) -> str:
    """The id of the question that an event is of; what asks for money is known by its budget."""
    waiting = TaskWaiting.read(event)
    account = wait_account(waiting.subject) if waiting is not None and waiting.kind == "money" else None
    return question_id(event.tenant_id, key if account is None else _money_key(account))


def _money_key(account: str) -> str:
    return f"money/{account}"


def _asks(event: Event) -> bool:
    """Whether an event is of a question that a person is asked; for money not every task asks one."""
    wait = _read_wait(event)
    if wait is None:
        return event.event_type == _REFUSED
    return wait.kind == "person" or (isinstance(wait, TaskWaiting) and asks_for_money(wait.subject))


def _begun(row_id: str, key: str, event: Event) -> dict[str, Any]:
    return {
        "id": row_id,
        "seq": event.seq or 0,
        "wait_id": key,
        "task_id": event.task_id or "",
        "tenant_id": event.tenant_id,
        "since": event.time,
    }


def _change(event: Event) -> dict[str, Any]:
    if (deployment := DeploymentLeftAlone.read(event)) is not None:
        return _refusal(deployment)
    if (end := WaitEnded.read(event)) is not None:
        status = {"expired": "expired", "withdrawn": "closed"}.get(end.how or "", "answered")
        by = {"answered_by": end.answered_by, "decision": end.decision}
        return {"status": status, "ended_at": event.time, **by, **_UNCLAIMED}
    if (reached := QuestionReached.read(event)) is not None:
        return {"reached_at": event.time, "reached_by": reached.by}
    if (reminded := QuestionReminded.read(event)) is not None:
        asked = {"may_answer": reminded.may_answer, "escalated_to": reminded.escalated_to or None}
        return {"reminded_at": event.time, **asked}
    if (claimed := QuestionClaimed.read(event)) is not None:
        return {"claimed_by": claimed.by, "claimed_until": claimed.until.isoformat()}
    if event.event_type == _RELEASED:
        return _UNCLAIMED
    if (waiting := TaskWaiting.read(event)) is None:
        return {"status": "closed", "ended_at": event.time}
    question = {"question": waiting.asked, "agent_id": event.agent_id}
    question |= {name: getattr(waiting, name) for name in _OF_QUESTION if getattr(waiting, name)}
    # A run that finds no money asks again, in the same step.
    return {**question, "status": "open", "ended_at": None} if waiting.kind == "money" else question


def _refusal(deployment: DeploymentLeftAlone) -> dict[str, Any]:
    message = deployment.error.message if deployment.error is not None else ""
    refused = _REFUSED_PARTS.get(str(deployment.status), "Key")
    question = f"{refused} refused: {message}. Tasks wait until that is repaired and the model tested"
    subject = {"deployment": deployment.deployment, "status": deployment.status}
    return {"question": question, "subject": {"kind": "deployment", **subject}, "status": "open"}


def _question_row(document: dict[str, Any]) -> Row:
    try:
        question = Question.model_validate(document)
    except ValueError:  # an event that another program has published: the names are ours
        names = ("id", "seq", "wait_id", "task_id", "tenant_id", "since")
        question = Question.model_validate({name: document[name] for name in names})
    generation, attempt = _parse_attempt(question.wait_id)
    account = wait_account(question.subject) if asks_for_money(question.subject) else None
    ended_at = None if question.ended_at is None else seconds(question.ended_at)
    fields = {name: value for name, value in asdict(question).items() if value is not None}
    return (
        question.id,
        question.seq,
        question.tenant_id,
        question.task_id,
        generation,
        attempt,
        account,
        _DOUBT if is_doubt(question.wait_id) else _OTHER,
        ended_at,
        encode(fields).decode(),
    )


def _parse_attempt(wait_id: str) -> tuple[int, int]:
    """The generation and the attempt that a wait is of: `steps/{task}/{generation}/{attempt}/{path}`."""
    parts = wait_id.split("/")
    numbers = [int(part) if part.isdecimal() and len(part) < 10 else 0 for part in parts[2:4]]
    return (numbers[0], numbers[1]) if len(numbers) == 2 else (0, 0)


def _stored(session: Session, ids: Collection[str]) -> dict[str, dict[str, Any]]:
    rows = session.select_in("SELECT id, document FROM inbox WHERE id", ids)
    return {row_id: from_json(document) for row_id, document in rows}


def _list(
    session: Session,
    tenant_id: str,
    id: str | None,
    with_ended: bool,
    limit: int,
    after: tuple[int, int],
    of_task: TaskFilter | None,
) -> InboxPage:
    limit = max(1, min(limit, _MAX_PAGE))
    values: dict[str, Any] = {"tenant_id": session.bindable(tenant_id), "limit": limit + 1}
    conditions, order = ["tenant_id = :tenant_id", "seq > :after"], "seq, id"
    values["after"] = after[1]
    if not with_ended:
        conditions, order = [conditions[0], "(rank, seq) > (:rank, :after)", _IS_OPEN], "rank, seq, id"
        values["rank"] = after[0]
    if id is not None:
        values |= {"id": session.bindable(id), "of_wait": question_id(tenant_id, id)}
        ends = [
            f"substr({name}, 1, length(:id)), substr({name}, length({name}) - length(:id) + 1)"
            for name in ("id", "task_id")
        ]
        conditions.append(f"(id = :of_wait OR :id IN ({', '.join(ends)}))")
    if of_task is not None:
        condition, of_rows = of_task.row_condition(session, "inbox")
        conditions.append(condition)
        values |= of_rows
    table = session.by_index("inbox", "inbox_by_tenant" if with_ended else "inbox_open")
    query = (
        f"SELECT {_SHOWN} FROM {table} "  # noqa: S608 conditions are code
        f"WHERE {' AND '.join(conditions)} ORDER BY {order} LIMIT :limit"
    )
    rows = session.execute(query, values).fetchall()
    items = tuple(_shown(session, *row) for row in rows[:limit])
    cursor = _make_cursor(items[-1], with_ended=with_ended) if len(rows) > limit else None
    return InboxPage(items=items, cursor=cursor)


def _make_cursor(last: Question, *, with_ended: bool) -> str:
    return f"{_AMONG_DOUBTS if is_doubt(last.wait_id) and not with_ended else ''}{last.seq}"


def _parse_place(cursor: str | None, *, with_ended: bool) -> tuple[int, int]:
    """The rank and the `seq` after which a page begins. Raises InvalidInput for a wrong cursor."""
    if cursor is None:
        return _DOUBT, 0
    if cursor.startswith(_AMONG_DOUBTS) and not with_ended:
        return _DOUBT, parse_cursor(cursor.removeprefix(_AMONG_DOUBTS))
    return _OTHER, parse_cursor(cursor)


def _find(session: Session, tenant_id: str, row_id: str) -> Question | None:
    query = f"SELECT {_SHOWN} FROM inbox WHERE id = ? AND tenant_id = ?"  # noqa: S608 code
    row = session.execute(query, (row_id, session.bindable(tenant_id))).fetchone()
    return None if row is None else _shown(session, *row)


def _shown(session: Session, document: str, current: bool, account: str | None) -> Question:
    if account is None:
        return _question(document, bool(current))
    return _question_for_money(session, document, account)


def _question(document: str, current: bool) -> Question:
    question = Question.model_validate_json(document)
    if question.status == "open" and not current:
        return question.model_copy(update={"status": "closed"})
    return question


def _question_for_money(session: Session, document: str, account: str) -> Question:
    question = Question.model_validate_json(document)
    waits = session.execute(_WAITS, (account, session.bindable(question.tenant_id))).fetchall()
    if not waits:
        return _question(document, current=False)
    task_id, wait_id, since = waits[0]
    update = {"task_id": task_id, "wait_id": wait_id, "since": datetime.fromtimestamp(since, UTC)}
    update["tasks"] = len({task_id for task_id, *_ in waits})
    return question.model_copy(update={**update, "status": "open", "answered_by": None, "ended_at": None})


def _find_next(session: Session, tenant_id: str, thread_id: str) -> Question | None:
    query = _OF_THREAD.format(
        open_of_thread=session.by_index("tasks", "tasks_open_of_thread"),
        open_below=session.by_index("tasks", "tasks_open_below"),
        inbox_of_task=session.by_index("inbox", "inbox_of_task"),
    )
    rows = session.execute(query, {"tenant_id": tenant_id, "thread_id": thread_id}).fetchall()
    questions = (Question.model_validate_json(document) for (document,) in rows)
    return next((question for question in questions if not asks_for_money(question.subject)), None)


def _refused(session: Session) -> list[Question]:
    rows = session.execute("SELECT document FROM inbox WHERE task_id = '' AND ended_at IS NULL").fetchall()
    return [Question.model_validate_json(document) for (document,) in rows]


def _tenants(session: Session) -> list[str]:
    return sorted({*tenants_in(session, "inbox"), *tenants_in(session, "tasks")})
