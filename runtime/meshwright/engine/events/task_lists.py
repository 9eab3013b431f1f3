"""Lists of tasks: pages, dead letters, what is known of them, and which of some agree with a filter."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

from meshwright.engine.events.filter import FEW, TaskFilter
from meshwright.engine.events.search import count_unindexed, delete_texts, find_matches
from meshwright.engine.events.tasks import (
    LISTED_COLUMNS,
    DeadLetterPage,
    DeadLetters,
    TaskPage,
    TaskSummary,
    task_summary,
)
from meshwright.engine.sql.database import Session, marks

_MAX_PAGE = 1000
_MAX_KNOWN = 200  # values of a field
_AT_ONCE = 500
_MAX_NEWEST = 1_000  # tasks, or calls, of which the values of a field are named
_MAX_EVENT_TASKS = 2_000  # whose events are found by the summaries of blocks
_MAX_LEVELS = 50  # of a tree: those above each task that its sums are of
TaskOrder = Literal["created", "changed"]
"""The newest first: by when they were accepted, or by their last change."""


def list_tasks(
    session: Session, tenant_id: str, filter: TaskFilter, limit: int, before: int, order: TaskOrder
) -> TaskPage:
    """One page of a tenant's tasks."""
    limit = max(1, min(limit, _MAX_PAGE))
    # First, since texts may be indexed meanwhile.
    unindexed = 0 if filter.text is None else count_unindexed(session, tenant_id)
    conditions, values = filter.conditions(session, tenant_id)
    place = "last_seq" if order == "changed" else "seq"
    index = filter.index
    if order == "changed" and index is not None and not _are_few(session, index, values):
        index = "tasks_by_change"
    if FEW in conditions:
        index = None
    before = min(before, values.get("end_of_changes", before))  # SQLite reads an index to one bound
    condition, newest = f"{place} < :before AND {conditions}", f"ORDER BY {place} DESC LIMIT :limit"
    if filter.thread_id is not None:
        index, condition = None, _thread_condition(session, condition, newest, order)
    query = ("SELECT", LISTED_COLUMNS, "FROM", session.by_index("tasks", index), "WHERE", condition, newest)
    rows = session.execute(" ".join(query), {**values, "before": before, "limit": limit + 1}).fetchall()
    items = tuple(map(task_summary, rows[:limit]))
    page = TaskPage(items=items, cursor=str(getattr(items[-1], place)) if len(rows) > limit else None)
    return page if filter.text is None else _with_matches(session, page, filter.text, unindexed)


_MAX_SORTED = 1_000  # tasks; the order of more is that of an index
_DEAD = "status IN ('failed', 'timed_out')"
_OF_INDEX = {
    "tasks_by_agent": "tenant_id = :tenant_id AND agent_id = :agent_id",
    "tasks_by_capability": "tenant_id = :tenant_id AND capability = :capability",
    "tasks_by_agent_error": "tenant_id = :tenant_id AND agent_id = :agent_id AND error = :error",
    "tasks_by_error": "tenant_id = :tenant_id AND error = :error",
    "tasks_by_model": "tenant_id = :tenant_id AND model = :model",
    "tasks_by_parent": "parent_task_id = :parent_task_id",
    "tasks_by_requester": "tenant_id = :tenant_id AND requested_by = :requested_by",
    "tasks_by_status": "tenant_id = :tenant_id AND status = :status AND status <> 'succeeded'",
    "tasks_dead": f"tenant_id = :tenant_id AND {_DEAD}",
    "tasks_dead_by_agent": f"tenant_id = :tenant_id AND agent_id = :agent_id AND {_DEAD}",
    "tasks_dead_by_capability": f"tenant_id = :tenant_id AND capability = :capability AND {_DEAD}",
    "tasks_dead_without_error": f"tenant_id = :tenant_id AND error IS NULL AND {_DEAD}",
    "tasks_open": "completed_at IS NULL",
    "tasks_without_agent": "tenant_id = :tenant_id AND agent_id IS NULL",
}
"""The tasks that an index finds for a filter, where those may be few."""


def _are_few(session: Session, index: str, values: dict[str, Any]) -> bool:
    """Whether an index finds so few tasks for a filter that they are sorted rather than read in order."""
    if (condition := _OF_INDEX.get(index)) is None:
        return False
    some = f"SELECT 1 FROM {session.by_index('tasks', index)} WHERE {condition} LIMIT {_MAX_SORTED + 1}"  # noqa: S608
    own = {name: value for name, value in values.items() if f":{name}" in condition}
    return session.execute(f"SELECT count(*) FROM ({some}) AS first", own).fetchone()[0] <= _MAX_SORTED  # noqa: S608


def _with_matches(session: Session, page: TaskPage, text: str, unindexed: int) -> TaskPage:
    """A page with the match of each task, and how many tasks may be missing."""
    matches = find_matches(session, text, [task.seq for task in page.items])
    items = tuple(task.model_copy(update={"match": matches.get(task.seq)}) for task in page.items)
    return page.model_copy(update={"items": items, "unindexed": unindexed})


def _thread_condition(session: Session, condition: str, newest: str, order: TaskOrder) -> str:
    """The condition for the newest tasks of a thread, of which one may have its id: no index has those."""
    index = "tasks_by_change_of_thread" if order == "changed" else "tasks_by_thread"
    others = session.by_index("tasks", index)
    return (
        f"seq IN (SELECT seq FROM (SELECT seq FROM {others} WHERE {condition} "  # noqa: S608 code
        f"AND thread_id <> task_id {newest}) AS others "
        f"UNION ALL SELECT seq FROM tasks WHERE {condition} AND task_id = :thread_id)"
    )


def _found_tasks(session: Session, filter: TaskFilter, condition: str) -> tuple[str, str]:
    """The table by the index that finds the tasks of a filter, and the condition for them."""
    if filter.thread_id is None:
        return session.by_index("tasks", filter.index), condition
    others = session.by_index("tasks", "tasks_by_thread")
    return session.by_index("tasks", None), (
        f"seq IN (SELECT seq FROM {others} WHERE {condition} AND thread_id <> task_id "  # noqa: S608 code
        f"UNION ALL SELECT seq FROM tasks WHERE {condition} AND task_id = :thread_id)"
    )


_COUNTED_FIELDS = ("agent_id", "error", "capability", "dead")  # of a filter: those that the counts know
_OF_GROUP = (
    "FROM {} WHERE tenant_id = :tenant_id AND coalesce(agent_id, '') = letters.agent_id || '' "
    "AND coalesce(error, '') = letters.error || '' AND status IN ('failed', 'timed_out') {}"
    "ORDER BY completed_at"
)
"""A task of a group; SQLite takes no index of expressions for a column, but for another expression."""


def dead_letters(session: Session, tenant_id: str, filter: TaskFilter, limit: int) -> DeadLetterPage:
    """The groups of a tenant's dead letters, the largest first."""
    is_counted = filter.model_copy(update=dict.fromkeys(_COUNTED_FIELDS)) == TaskFilter()
    groups = _counted_groups if is_counted else _grouped_tasks
    query, values = groups(session, tenant_id, filter.model_copy(update={"dead": True}))
    rows = session.execute(query, {**values, "limit": limit}).fetchall()
    items = tuple(
        DeadLetters(
            agent_id=agent_id,
            error=error,
            tasks=int(tasks),
            first_at=datetime.fromtimestamp(first, UTC),
            last_at=datetime.fromtimestamp(last, UTC),
            task_id=task_id,
            reason=reason,
        )
        for agent_id, error, tasks, first, last, task_id, reason in rows
    )
    return DeadLetterPage(items=items)


_DEAD_INDICES = ("tasks_dead", "tasks_dead_by_agent", "tasks_dead_by_capability")


def _counted_groups(session: Session, tenant_id: str, filter: TaskFilter) -> tuple[str, dict[str, Any]]:
    """Groups as they are counted with each change of the list, and their first and last task by an index."""
    values = {"tenant_id": session.bindable(tenant_id)}
    conditions = ["tenant_id = :tenant_id"]
    for name in ("agent_id", "error", "capability"):
        if (value := getattr(filter, name)) is not None:
            values[name] = session.bindable(value)
            conditions.append(f"{name} = :{name}")
    index, of_capability = "tasks_dead_of_group", ""
    if filter.capability is not None:
        index, of_capability = "tasks_dead_of_capability", "AND capability = :capability "
    of_group = _OF_GROUP.format(session.by_index("tasks", index), of_capability)
    query = (
        "SELECT nullif(agent_id, ''), nullif(error, ''), tasks, "  # noqa: S608 code
        f"(SELECT completed_at {of_group} LIMIT 1), (SELECT completed_at {of_group} DESC LIMIT 1), "
        f"(SELECT task_id {of_group} DESC LIMIT 1), (SELECT reason {of_group} DESC LIMIT 1) "
        "FROM (SELECT agent_id, error, CAST(sum(tasks) AS BIGINT) AS tasks FROM dead_letters "
        f"WHERE {' AND '.join(conditions)} GROUP BY agent_id, error "
        "ORDER BY sum(tasks) DESC, agent_id, error LIMIT :limit) AS letters "
        "ORDER BY tasks DESC, letters.agent_id, letters.error"
    )
    return query, values


def _grouped_tasks(session: Session, tenant_id: str, filter: TaskFilter) -> tuple[str, dict[str, Any]]:
    """Groups of the tasks that agree with a filter, from their rows."""
    conditions, values = filter.conditions(session, tenant_id)
    tasks, conditions = _found_tasks(session, filter, conditions)
    if filter.timed and filter.index in _DEAD_INDICES:
        tasks = session.by_index("tasks", "tasks_dead_by_change")
    query = (
        "WITH ended AS (SELECT agent_id, error, task_id, reason, completed_at, ROW_NUMBER() OVER "  # noqa: S608
        "(PARTITION BY agent_id, error ORDER BY completed_at DESC, seq DESC) AS place "
        f"FROM {tasks} WHERE {conditions}) "
        "SELECT agent_id, error, COUNT(*), MIN(completed_at), MAX(completed_at), "
        "MAX(CASE WHEN place = 1 THEN task_id END), MAX(CASE WHEN place = 1 THEN reason END) "
        "FROM ended GROUP BY agent_id, error ORDER BY COUNT(*) DESC, agent_id, error LIMIT :limit"
    )
    return query, values


def tasks_among(session: Session, tenant_id: str, filter: TaskFilter, ids: Sequence[str]) -> set[str]:
    """Those of some tasks that agree with a filter."""
    conditions, values = filter.conditions(session, tenant_id)
    matches: set[str] = set()
    for at in range(0, len(ids), _AT_ONCE):
        id_values = {
            f"id{place}": session.bindable(name) for place, name in enumerate(ids[at : at + _AT_ONCE])
        }
        listed = ", ".join(f":{name}" for name in id_values)
        query = f"SELECT task_id FROM tasks WHERE task_id IN ({listed}) AND {conditions}"  # noqa: S608
        matches.update(task_id for (task_id,) in session.execute(query, {**values, **id_values}).fetchall())
    return matches


class EventTasks(NamedTuple):
    """Tasks whose events are looked for: the `seq` of the first one's first event, and the ids of all.

    `task_ids` is None where there are more than 2,000.
    """

    first_seq: int
    task_ids: list[str] | None


def find_event_tasks(session: Session, tenant_id: str, filter: TaskFilter) -> EventTasks | None:
    """The tasks that agree with a filter; None where there are none."""
    conditions, values = filter.conditions(session, tenant_id)
    tasks, conditions = _found_tasks(session, filter, conditions)
    query = f"SELECT seq, task_id FROM {tasks} WHERE {conditions} ORDER BY seq LIMIT {_MAX_EVENT_TASKS + 1}"  # noqa: S608
    rows = session.execute(query, values).fetchall()
    if not rows:
        return None
    task_ids = [task_id for _, task_id in rows] if len(rows) <= _MAX_EVENT_TASKS else None
    return EventTasks(rows[0][0], task_ids)


_INDICES_BY_TENANT = {
    "agent_id": "tasks_by_agent",
    "capability": "tasks_by_capability",
    "requested_by": "tasks_by_requester",
    "error": "tasks_by_error",
    "model": "tasks_by_model",
}


def known_values(
    session: Session, tenant_id: str | None, field: str, value: str, *, of_calls: bool = False
) -> Collection[str] | None:
    """Returns None where a task has a value of a field, else the last values that there are.

    With `of_calls` a call of a model may have it too. Without a tenant it is about all of them. The values of
    `prompt` are names, and of a name with a digest the versions of that prompt.
    """
    if field == "prompt":
        return _known_prompts(session, tenant_id, value)
    of_tenant = "" if tenant_id is None else "tenant_id = :tenant_id AND "
    values: dict[str, Any] = {} if tenant_id is None else {"tenant_id": session.bindable(tenant_id)}
    tables = [("tasks", f"{'task_id' if field == 'parent_task_id' else field} = :value")]
    if field == "thread_id":
        tables = [
            ("tasks", "task_id = :value AND thread_id = :value"),  # a thread is mostly that of one task
            (session.by_index("tasks", "tasks_by_thread"), "thread_id = :value AND thread_id <> task_id"),
        ]
    if of_calls and field == "thread_id":
        of_no_task = "thread_id = :value AND (thread_id <> task_id OR task_id IS NULL)"
        tables.append((session.by_index("calls", "calls_by_thread"), of_no_task))
    elif of_calls and field in ("agent_id", "model"):
        tables += [("call_hours", f"{field} = :value"), ("call_sums", f"{field} = :value")]
    queries = [
        (f"SELECT 1 FROM {table} WHERE {of_tenant}{condition} LIMIT 1", values)  # noqa: S608 code
        for table, condition in tables
    ]
    if tenant_id is None and (index := _INDICES_BY_TENANT.get(field)):  # which begin with the tenant
        table = session.by_index("tasks", index)
        query = f"SELECT 1 FROM {table} WHERE tenant_id = :tenant_id AND {field} = :value LIMIT 1"  # noqa: S608
        queries[:1] = [(query, {"tenant_id": name}) for name in tenants_in(session, "tasks")]
    for query, of_query in queries:
        if session.execute(query, {**of_query, "value": session.bindable(value)}).fetchall():
            return None
    last = (
        f"SELECT {field} FROM (SELECT {field}, seq FROM tasks WHERE {of_tenant}1 = 1 "  # noqa: S608
        f"ORDER BY seq DESC LIMIT {_MAX_NEWEST}) AS newest WHERE {field} IS NOT NULL "
        f"GROUP BY {field} ORDER BY max(seq) DESC LIMIT {_MAX_KNOWN}"
    )
    return [name for (name,) in session.execute(last, values).fetchall()]


def _known_prompts(session: Session, tenant_id: str | None, prompt: str) -> Collection[str] | None:
    """Returns None where a call was made with a prompt, else the last ones that there are."""
    condition, values = TaskFilter(prompt=prompt).call_condition(session, "calls")
    of_tenant = "prompt IS NOT NULL"
    if tenant_id is not None:
        of_tenant += " AND tenant_id = :tenant_id"
        values["tenant_id"] = session.bindable(tenant_id)
    calls = (
        "(SELECT tenant_id, nullif(prompt, '') AS prompt FROM call_hours "
        "UNION ALL SELECT tenant_id, nullif(prompt, '') FROM call_sums) AS calls"
    )
    if session.execute(f"SELECT 1 FROM {calls} WHERE {of_tenant} AND {condition} LIMIT 1", values).fetchall():  # noqa: S608
        return None
    del values["prompt"]
    newest = (
        "(SELECT * FROM (SELECT seq, tenant_id, prompt FROM calls ORDER BY seq DESC "  # noqa: S608
        f"LIMIT {_MAX_NEWEST}) AS newest "
        "UNION ALL SELECT seq, tenant_id, nullif(prompt, '') FROM call_sums) AS calls"
    )
    last = (
        f"SELECT prompt FROM {newest} WHERE {of_tenant} "  # noqa: S608
        f"GROUP BY prompt ORDER BY max(seq) DESC LIMIT {_MAX_KNOWN}"
    )
    versions = [version for (version,) in session.execute(last, values).fetchall()]
    name, at, _ = prompt.partition("@")
    of_name = [version for version in versions if at and version.startswith(f"{name}@")]
    return of_name or [*dict.fromkeys(version.partition("@")[0] for version in versions)]


class ListedTask(NamedTuple):
    """A task of a tree with how far below the root it is, and how many tasks are below it."""

    task: TaskSummary
    depth: int
    below: int


class TasksBelow(NamedTuple):
    """The first tasks of a tree, each before its own, and how many there are; `is_whole` is False where some
    are deeper than 50."""

    tasks: list[ListedTask]
    count: int
    is_whole: bool


_WITH_COUNTS = (
    f"SELECT {LISTED_COLUMNS}, coalesce(tasks_below.below, 0), coalesce(tasks_below.depth, 0) "  # noqa: S608 code
    "FROM {} LEFT JOIN tasks_below USING (task_id, tenant_id) WHERE tenant_id = :tenant_id AND "
)


def tasks_below(session: Session, tenant_id: str, task_id: str, limit: int) -> TasksBelow:
    """A tenant's task with the first below it, in the order in which they were delegated; none if unknown."""
    root = _WITH_COUNTS.format("tasks") + "task_id = :task_id"
    of_parent = _WITH_COUNTS.format(session.by_index("tasks", "tasks_by_parent"))
    children = f"{of_parent}parent_task_id = :task_id ORDER BY seq LIMIT :limit"
    values = {"tenant_id": session.bindable(tenant_id), "task_id": session.bindable(task_id)}
    waiting = [(row, 0) for row in session.execute(root, values).fetchall()]
    count, depth = (waiting[0][0][-2] + 1, waiting[0][0][-1]) if waiting else (0, 0)
    tasks, ids = list[ListedTask](), set[str]()
    while waiting and len(tasks) < limit:
        row, level = waiting.pop()
        task, below = task_summary(row[:-2]), row[-2]
        if task.task_id in ids:  # a forged event may say that a task is below itself
            continue
        ids.add(task.task_id)
        tasks.append(ListedTask(task, level, below))
        if below and level < _MAX_LEVELS:
            values = {"tenant_id": task.tenant_id, "task_id": task.task_id, "limit": limit - len(tasks)}
            rows = session.execute(children, values).fetchall()
            waiting += [(row, level + 1) for row in reversed(rows)]
    return TasksBelow(tasks, count, is_whole=depth < _MAX_LEVELS)


def tenants_in(session: Session, table: str) -> list[str]:
    """The tenants that have rows in a table, by its index of tenants: a step for each of them."""
    tenants, last = list[str](), ""
    query = f"SELECT min(tenant_id) FROM {table} WHERE tenant_id > ?"  # noqa: S608 code
    while (last := session.execute(query, (last,)).fetchone()[0]) is not None:
        tenants.append(last)
    return tenants


_OPEN_TASKS = "SELECT tenant_id, task_id, thread_id FROM tasks WHERE completed_at IS NULL"


_OPEN_CODE = (
    "SELECT agent_id, code, COUNT(*), SUM(CASE WHEN once > 0 THEN 1 ELSE 0 END) FROM tasks "
    "WHERE completed_at IS NULL AND code IS NOT NULL GROUP BY agent_id, code ORDER BY agent_id"
)


def open_tasks(session: Session) -> list[tuple[str, str, str | None]]:
    """(tenant_id, task_id, thread_id) of every task that has no outcome."""
    return session.execute(_OPEN_TASKS).fetchall()


def open_code(session: Session) -> list[tuple[str, str, int, int]]:
    """(agent_id, code, tasks, tasks with steps that are not idempotent) of the tasks that have no outcome."""
    rows = session.execute(_OPEN_CODE).fetchall()
    return [(agent_id, code, int(tasks), int(once)) for agent_id, code, tasks, once in rows]


class EndedTask(NamedTuple):
    """The end of a task, in unix seconds. They are ordered: tasks may end at the same time."""

    completed_at: float
    tenant_id: str
    task_id: str


def ended_tasks(session: Session, after: EndedTask, before: float, limit: int) -> list[EndedTask]:
    """The tasks that ended behind another one, up to a time, in order."""
    query = (
        "SELECT completed_at, tenant_id, task_id FROM tasks WHERE completed_at >= ? AND completed_at <= ? "
        "AND (completed_at, tenant_id, task_id) > (?, ?, ?) ORDER BY completed_at, tenant_id, task_id LIMIT ?"
    )
    values = (after.completed_at, before, *after, limit)
    return [EndedTask(*row) for row in session.execute(query, values).fetchall()]


class TaskSubject(NamedTuple):
    """Which tasks: those that somebody asked for, those of a thread, or one. One of the three is given."""

    requested_by: str | None = None
    thread_id: str | None = None
    task_id: str | None = None

    def __str__(self) -> str:
        name, value = next((name, value) for name, value in self._asdict().items() if value is not None)
        return f"{_SUBJECTS[name]} {value!r}"


_SUBJECTS = {"requested_by": "requester", "thread_id": "thread", "task_id": "id"}


class SubjectTask(NamedTuple):
    """A task of a subject, or (`is_witness`) another of its thread, which got what was said there."""

    task_id: str
    has_ended: bool
    is_witness: bool


_FIRST_OF_SUBJECT = {
    "requested_by": (
        "SELECT task_id FROM {by_requester} WHERE tenant_id = :tenant_id AND requested_by = :value"
    ),
    "thread_id": (
        "SELECT task_id FROM {by_thread} WHERE thread_id = :value AND thread_id <> task_id "
        "AND tenant_id = :tenant_id UNION "
        "SELECT task_id FROM tasks WHERE task_id = :value AND thread_id = :value AND tenant_id = :tenant_id"
    ),
    "task_id": "SELECT task_id FROM tasks WHERE task_id = :value AND tenant_id = :tenant_id",
}
# A tenant joined to an empty text keeps SQLite from the index of tenants.
_TASKS_OF_SUBJECT = """
    WITH RECURSIVE first (task_id) AS ({first}), found (task_id) AS (
        SELECT task_id FROM first UNION
        SELECT tasks.task_id FROM found JOIN tasks
        ON tasks.parent_task_id = found.task_id OR tasks.forked_from = found.task_id
        WHERE tasks.tenant_id || '' = :tenant_id
    ), threads (thread_id) AS (
        SELECT DISTINCT thread_id FROM found JOIN tasks USING (task_id)
        WHERE tenant_id = :tenant_id AND thread_id IS NOT NULL
    ), members (task_id) AS (
        SELECT task_id FROM found UNION
        SELECT task_id FROM threads CROSS JOIN {by_thread}
        WHERE tasks.thread_id = threads.thread_id AND tasks.thread_id <> task_id AND tenant_id = :tenant_id
        UNION
        SELECT task_id FROM threads CROSS JOIN tasks
        WHERE task_id = threads.thread_id AND tasks.thread_id = threads.thread_id AND tenant_id = :tenant_id
    )
    SELECT tasks.task_id, completed_at, tasks.task_id NOT IN (SELECT task_id FROM found)
    FROM members CROSS JOIN tasks
    WHERE tasks.task_id = members.task_id AND tenant_id = :tenant_id ORDER BY seq
"""


def subject_tasks(session: Session, tenant_id: str, subject: TaskSubject) -> list[SubjectTask]:
    """A tenant's tasks of a subject, what they delegated, their forks, and the others of their threads."""
    name, value = next((name, value) for name, value in subject._asdict().items() if value is not None)
    by_thread = session.by_index("tasks", "tasks_by_thread")
    first = _FIRST_OF_SUBJECT[name].format(
        by_thread=by_thread, by_requester=session.by_index("tasks", "tasks_by_requester")
    )
    query = _TASKS_OF_SUBJECT.format(first=first, by_thread=by_thread)
    rows = session.execute(query, {"tenant_id": tenant_id, "value": session.bindable(value)}).fetchall()
    return [SubjectTask(task_id, at is not None, bool(is_witness)) for task_id, at, is_witness in rows]


def erase_task_rows(session: Session, tenant_id: str, task_id: str) -> None:
    """Take from the lists what they quote of a task."""
    key = tenant_id, task_id
    erase = "UPDATE tasks SET reason = NULL, text = NULL, title = NULL WHERE tenant_id = ? AND task_id = ?"
    session.execute(erase, key)
    session.execute("DELETE FROM inbox WHERE tenant_id = ? AND task_id = ?", key)


def delete_ended_tasks(session: Session, before: int, kept_statuses: Sequence[str]) -> None:
    """Delete the ended tasks whose every event came before a `seq`, but for those of the `kept` statuses."""
    condition = "seq < ? AND last_seq < ? AND completed_at IS NOT NULL"
    if kept_statuses:
        condition += f" AND status NOT IN ({marks(len(kept_statuses))})"
    values = before, before, *kept_statuses
    delete_texts(session, condition, values)
    session.execute(f"DELETE FROM tasks WHERE {condition}", values)  # noqa: S608 code
