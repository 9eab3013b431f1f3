"""The tables of the log: rows of events, and one summary of the keys of each full block of 2,048 events.

An index would cost an event an entry for each of its keys, and each random key a page of its own. A summary
is written once, at the end of its table: 4 bytes of hash for each distinct key. A search reads the summaries,
then the few blocks that can hold what it looks for, and the last block, which has no summary yet.

Types, topics, agents and tenants come again in block after block. The table `event_keys` has the blocks of
each of them, so that a search for one that is rare reads no summary of another block.

Tenants are charged for the bytes that their events take: the payload, and `ROW_BYTES` for the rest of a row.
The table `tenant_storage` has the sums of the full blocks, and changes with them in the same transaction. The
rows of the last block are added at each reading, so that writing an event costs nothing more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from zlib import crc32

from meshwright.core.events import Event
from meshwright.engine.events.filter import KEYED, EventFilter
from meshwright.engine.events.rows import (
    COLUMN_LIST,
    COLUMNS,
    ERASED,
    PAYLOAD,
    ROW_BYTES,
    RecentRows,
    erased_link,
    forget_rows,
    link,
    read_row,
    recent_rows,
    sealed_rows,
)
from meshwright.engine.sql.database import Row, Session, marks

_OTHER_ID = COLUMNS.index("other_id") - 1  # of a row without its number
_INTO = f"events ({COLUMN_LIST}, link)"

_BLOCK_BITS = 11
BLOCK_EVENTS = 1 << _BLOCK_BITS
"""The events of a full block, which are pruned together; the first number of a block is a multiple of it."""
_MAX_SUMMARIES = 1024  # read in one go: 5 MB
_INDEXED = "event_type", "agent_id", "topic", "tenant_id"
_MAX_KEY_CHARS = 200  # in `event_keys`: longer ones that begin alike share their blocks
_MAX_BLOCKS_COUNTED = 64  # of a key, to begin a search with the rarest
_MAX_BLOCKS_READ = 32  # in one go: about 30 ms
MAX_BYTES_READ = 4 * 1024 * 1024  # of payloads
NEWS_SECONDS = 0.22
"""The time from a notification of events to the look for those behind it, which had none of their own."""

_LOCK_END = {
    "sqlite": "SELECT seq, hash FROM event_log",
    "postgres": "SELECT seq, hash FROM event_log FOR UPDATE",
}
_SET_END = "UPDATE event_log SET seq = ?, hash = ?"
_TAKE_ENDS = "DELETE FROM event_ends RETURNING block, hash"
SEALED_KINDS = (
    *("double precision", "text", "bigint", *["text"] * 10, "bytea", "bytea"),
    *("bytea", "bytea", "bytea"),
)
"""The types of the columns of `sealed_rows`."""
_NOTE_PRUNED = """
    UPDATE event_log SET pruned_seq = :seq, pruned_hash = (SELECT hash FROM event_blocks WHERE block = :block)
    WHERE EXISTS (SELECT 1 FROM event_blocks WHERE block = :block AND hash IS NOT NULL)
"""
_SELECT_KNOWN = "SELECT other_id FROM events WHERE other_id"
_SELECT_AT = f"SELECT {COLUMN_LIST} FROM events WHERE seq"  # noqa: S608 code
_SELECT_OWN = "SELECT 1 FROM events WHERE seq BETWEEN ? AND ? AND aggregate_id = ? AND own_id = ?"
_SELECT_LAST = (
    "SELECT max(seq) FROM events WHERE seq BETWEEN ? AND ? AND task_id = ? AND tenant_id = ? "
    "AND topic NOT LIKE 'app.%' AND event_type IN ({types}) GROUP BY event_type"
)
_SELECT_KEYS = " ".join(("SELECT time,", ", ".join(KEYED), "FROM events WHERE seq BETWEEN ? AND ?"))
_REACHED = "SELECT coalesce(min(position), 0) FROM projection_positions WHERE name = 'tasks'"
_SPAN_OF_TASK = "SELECT seq, last_seq, completed_at FROM tasks WHERE task_id = ? AND tenant_id = ?"
_FIRST_OF_TASK = "SELECT seq FROM tasks WHERE task_id = ? AND tenant_id = ?"
_SELECT_OPEN = "SELECT (SELECT max(block) + 1 FROM event_blocks), (SELECT min(seq) FROM events)"
_INTO_KEYS = "event_keys (key, block)"
_BLOCK_SINCE = (
    "SELECT coalesce((SELECT min(block) FROM event_blocks WHERE max_time >= ?), "
    "(SELECT max(block) + 1 FROM event_blocks), 0)"
)
_COUNT_BLOCKS = (
    "SELECT count(*) FROM (SELECT 1 FROM event_keys WHERE key = ? AND block BETWEEN ? AND ? LIMIT ?) AS first"
)
_ALSO_HAS = (
    "EXISTS (SELECT 1 FROM event_keys AS other WHERE other.key = :{} AND other.block = event_keys.block)"
)
_KEYS_OF_BLOCK = " UNION ".join(
    f"SELECT substr('{kind}=' || {kind}, 1, {_MAX_KEY_CHARS}) FROM rows_of_block"  # noqa: S608 code
    for kind in _INDEXED
)
_DELETE_KEYS = (
    f"WITH rows_of_block AS (SELECT DISTINCT {', '.join(_INDEXED)} FROM events "  # noqa: S608 code
    "WHERE seq BETWEEN :first AND :last) "
    f"DELETE FROM event_keys WHERE block = :block AND key IN ({_KEYS_OF_BLOCK})"
)
_INTO_BLOCKS = "event_blocks (block, min_time, max_time, written_at, keys, hash)"
_REPLACE_KEYS = "ON CONFLICT (block) DO UPDATE SET keys = excluded.keys"

IS_OF_TYPE = "(event_type = :event_type AND (event_type LIKE 'app.%' OR topic NOT LIKE 'app.%'))"
"""A condition: no row of a caller's topic counts as an event of the mesh, whatever its type says."""


class Matches(NamedTuple):
    """Events of a search, and the `seq` up to which (downwards: down to which) there are no others.

    `size` is what their payloads have together, in bytes of JSON.
    """

    events: list[Event]
    reached: int
    size: int


Written = tuple[int, Sequence[int]]
"""The `seq` of the first event that was written, and which of those handed in were known already."""


def newest(session: Session) -> int:
    """The last `seq` of the log, 0 if it is empty."""
    return session.execute("SELECT seq FROM event_log").fetchall()[0][0]


def pruned_through(session: Session) -> int:
    """The last `seq` whose event was deleted by age."""
    return session.execute("SELECT coalesce(pruned_seq, 0) FROM event_log").fetchall()[0][0]


# Writing


def lock(session: Session) -> Row:
    """Keep other processes from writing until the transaction ends; returns the last `seq` and its hash."""
    [end] = session.execute(_LOCK_END[session.dialect]).fetchall()
    return end


def insert(session: Session, rows: Sequence[Row], now: float) -> Written:
    """Number and write rows of `event_row`. Those whose whole id is known are dropped."""
    if session.dialect == "postgres":
        return _append(session, rows, now)
    last, head = lock(session)  # numbers go up in the order of commit
    first = last + 1
    dropped: list[int] = []
    if others := [row[_OTHER_ID] for row in rows if row[_OTHER_ID] is not None]:
        existing_ids = {event_id for (event_id,) in session.select_in(_SELECT_KNOWN, others)}
        for index, row in enumerate(rows):
            if row[_OTHER_ID] in existing_ids:
                dropped.append(index)
            elif row[_OTHER_ID] is not None:
                existing_ids.add(row[_OTHER_ID])  # twice in one call is once in the log
    if dropped:
        rows = [row for index, row in enumerate(rows) if index not in dropped]
    if rows:
        last += len(rows)
        linked, hashes = link(session, rows, first, head)
        session.insert(_INTO, linked)
        session.execute(_SET_END, (last, hashes[-1]))
        for block in range(_block_number(first), _block_number(last) + 1):
            low, high = max(first, _first_seq(block)), min(last, _last_seq(block))
            recent = recent_rows(session, low, opens_block=low == _first_seq(block))  # need not be read again
            recent.add(linked[low - first : high - first + 1])
            if high == _last_seq(block):
                _fill(session, block, recent, now, hashes[high - first])
    return first, dropped


def _append(session: Session, rows: Sequence[Row], now: float) -> Written:
    """The same by a function of the server, which commits of actors call too.

    Other workers are notified at most every 200 ms, however many write, and look again by themselves after
    that time (`NEWS_SECONDS`).
    """
    sealed = sealed_rows(session, rows)
    columns = zip(*sealed, strict=True) if sealed else [()] * len(SEALED_KINDS)
    values = [session.channel, None, *session.lists(SEALED_KINDS, columns)]
    [(first, dropped, fills)] = session.call("mesh_append_events", values).fetchall()
    if fills:
        fill_blocks(session, now)
    return first, dropped


def fill_blocks(session: Session, now: float) -> None:
    """Write the summaries of the full blocks that have none yet, where other processes write the log too."""
    if session.dialect == "postgres":
        lock(session)  # no payload is erased meanwhile
        for block, end_hash in session.execute(_TAKE_ENDS).fetchall():
            _fill(session, block, RecentRows(_first_seq(block)), now, end_hash)


def _fill(session: Session, block: int, recent: RecentRows, now: float, end_hash: bytes) -> None:
    """Write the summary of a full block, and the bytes of its tenants; `end_hash` is of its last row."""
    columns = recent.keys
    if columns:
        stored = [(tenant, size) for tenant, size in recent.stored.items() if tenant is not None]
        session.insert("tenant_storage (tenant_id, bytes)", stored, then=_ADD_BYTES)
    else:
        rows = session.execute(_SELECT_KEYS, (_first_seq(block), _last_seq(block))).fetchall()
        columns = [set(column) for column in zip(*rows, strict=True)]
        _count_stored(session, block, 1)
    if columns:
        times, *keyed = columns
        keys = [(kind, key) for kind, column in zip(KEYED, keyed, strict=True) for key in column]
        hashes = b"".join(_key_hash(kind, key) for kind, key in keys)
        row = block, min(times), max(times), now, hashes, end_hash
        session.insert(_INTO_BLOCKS, [row], then=_REPLACE_KEYS)
        indexed = {_indexed_key(kind, key) for kind, key in keys if kind in _INDEXED and key is not None}
        session.insert(_INTO_KEYS, [(key, block) for key in sorted(indexed)], then="ON CONFLICT DO NOTHING")


def skip_to(session: Session, seq: int, now: float) -> None:
    """Go on behind a `seq`: numbers up to there were given once, and are not given again."""
    last, head = lock(session)
    if seq > last:
        if _block_number(last) < _block_number(seq + 1):
            _fill(session, _block_number(last), RecentRows(last), now, head)  # it never gets its last row
        session.execute("UPDATE event_log SET seq = ?", (seq,))


def _key_hash(kind: str, key: str | None) -> bytes:
    return crc32(f"{kind}={key}".encode(errors="replace")).to_bytes(4, "little")  # a collision costs a read


def _indexed_key(kind: str, key: str) -> str:
    return f"{kind}={key}"[:_MAX_KEY_CHARS]


def _block_number(seq: int) -> int:
    return seq >> _BLOCK_BITS


def _first_seq(block: int) -> int:
    return block << _BLOCK_BITS


def _last_seq(block: int) -> int:
    return _first_seq(block + 1) - 1


# Reading


def search(
    session: Session,
    filter: EventFilter,
    first: int,
    last: int,
    limit: int,
    max_bytes: int = MAX_BYTES_READ,
    task_ids: Sequence[str] | None = None,
) -> Matches:
    """Look for events from `first` to `last`, in the filter's order, a bounded way along.

    It ends with the event that makes them `limit`, or their payloads `max_bytes`. With `task_ids`, those of
    the tasks of the filter, no block without an event of one of them is read.
    """
    tasks = None if task_ids is None else _hashes(b"".join(_key_hash("task_id", name) for name in task_ids))
    down = filter.order == "desc"
    oldest = first  # the first that can be late enough
    if filter.since is not None:
        [(block,)] = session.execute(_BLOCK_SINCE, (filter.period()[0],)).fetchall()
        oldest = max(first, _first_seq(block))
    if _unindexed_hashes(filter) or filter.timed or tasks is not None:
        if not down:
            last = min(last, _last_seq(_block_number(oldest) + _MAX_SUMMARIES - 1))
        elif (window := _first_seq(_block_number(last) - _MAX_SUMMARIES + 1)) > oldest:
            first = oldest = window
    blocks = _blocks_with(session, filter, _block_number(oldest), _block_number(last), tasks)
    events: list[Event] = []
    size = 0
    for low, high in _runs(blocks[:_MAX_BLOCKS_READ]):
        for row in _rows(session, filter, max(first, low), min(last, high), limit - len(events)):
            events.append(read_row(row))
            size += len(row[PAYLOAD])
            if len(events) == limit or size >= max_bytes:
                return Matches(events, events[-1].seq or 0, size)
    if len(blocks) <= _MAX_BLOCKS_READ:
        return Matches(events, first if down else last, size)
    reached = blocks[_MAX_BLOCKS_READ - 1]
    return Matches(events, _first_seq(reached) if down else _last_seq(reached), size)


def events_at(session: Session, seqs: Sequence[int]) -> list[Event]:
    """The events of these numbers, but for those that are pruned."""
    return [read_row(row) for row in session.select_in(_SELECT_AT, seqs)]


def before_task(session: Session, task_id: str, tenant_id: str, max_late: int) -> int:
    """A `seq` before all events of a task that has a record.

    A task that the lists lack is newer than the place that they have reached. The first event of a task that
    they know may have others before it, at most so many numbers earlier.
    """
    # The place first: the lists may go on meanwhile.
    [(reached,)] = session.execute(_REACHED).fetchall()
    first = first_of_task(session, task_id, tenant_id)
    return max(0, (reached if first is None else first - 1) - max_late)


def first_of_task(session: Session, task_id: str, tenant_id: str) -> int | None:
    """The `seq` of the first event of a task, by the lists; None for a task that they lack."""
    row = session.execute(_FIRST_OF_TASK, (session.bindable(task_id), session.bindable(tenant_id))).fetchone()
    return None if row is None else row[0]


def newest_of_task(
    session: Session, task_id: str, tenant_id: str, event_types: Sequence[str], max_late: int
) -> dict[str, Event]:
    """The newest event of each type, of a task that has a record."""
    events = dict[str, Event]()
    for first, last in _spans_of_task(session, task_id, tenant_id, max_late):
        missing = [event_type for event_type in event_types if event_type not in events]
        if first > last or not missing:
            continue
        if last - first < BLOCK_EVENTS:  # one look at so few costs less than a search for each type
            select = _SELECT_LAST.format(types=marks(len(missing)))
            values = first, last, session.bindable(task_id), session.bindable(tenant_id), *missing
            rows = session.execute(select, values).fetchall()
            events |= {event.event_type: event for event in events_at(session, [seq for (seq,) in rows])}
            continue
        for event_type in missing:
            query = EventFilter(task_id=task_id, tenant_id=tenant_id, event_type=event_type, order="desc")
            reached = last
            while reached >= first and event_type not in events:
                matches = search(session, query, first, reached, 1)
                if matches.events:
                    events[event_type] = matches.events[0]
                reached = matches.reached - 1
    return events


def _spans_of_task(session: Session, task_id: str, tenant_id: str, max_late: int) -> list[tuple[int, int]]:
    """The first and last `seq` between which events of a task are that has a record, the newest first.

    A task that the lists know as ended has none between its last event and the place that they have reached.
    """
    # The place first: the lists may go on meanwhile.
    [(reached,)] = session.execute(_REACHED).fetchall()
    row = session.execute(_SPAN_OF_TASK, (session.bindable(task_id), session.bindable(tenant_id))).fetchone()
    first, last, completed_at = row or (reached + 1, reached, None)
    first, last, end = max(1, first - max_late), last + max_late, newest(session)
    if completed_at is None or last >= reached:
        return [(first, end)]
    return [(reached + 1, end), (first, last)]


def knows(session: Session, event_id: str, aggregate_id: str | None = None, after_seq: int = 0) -> bool:
    """Whether the log has an event of that id, behind a `seq`.

    An event whose id does not begin with its `aggregate_id` is found by an index. Any other is looked for
    among those of the aggregate, or without it of all that the id may begin with.
    """
    if session.select_in(_SELECT_KNOWN, [event_id]):
        return True
    parts = event_id.split("/")
    for cut in range(2, len(parts)):
        actor, own = "/".join(parts[:cut]), "/".join(parts[cut:])
        if aggregate_id not in (None, actor):
            continue
        filter = EventFilter(aggregate_id=actor, order="desc")
        first, last = _block_number(after_seq + 1), _block_number(newest(session))
        for block in _blocks_with(session, filter, first, last):
            bounds = (max(_first_seq(block), after_seq + 1), _last_seq(block), actor, own)
            if session.execute(_SELECT_OWN, bounds).fetchall():
                return True
    return False


def _unindexed_hashes(filter: EventFilter) -> list[bytes]:
    """The hashes of the keys that only summaries have."""
    exact = filter.exact().items()
    return [_key_hash(kind, key) for kind, key in exact if kind in KEYED and kind not in _INDEXED]


def _hashes(keys: bytes) -> frozenset[int]:
    """The hashes of a summary, as numbers of this machine."""
    return frozenset(memoryview(keys).cast("I"))


def _blocks_with(
    session: Session, filter: EventFilter, first: int, last: int, tasks: frozenset[int] | None = None
) -> list[int]:
    """The blocks from `first` to `last` that may hold events of a filter, in the filter's order.

    With `tasks`, the hashes of the ids of some tasks, those that may hold an event of one of them.
    All of them if summaries decide; else as many as a search reads, and one more.
    """
    # First, since a block may be filled meanwhile.
    [(after_full, oldest)] = session.execute(_SELECT_OPEN).fetchall()
    unfilled = after_full or _block_number(oldest or 0)
    exact, hashes = filter.exact(), _unindexed_hashes(filter)
    values: dict[str, Any] = {"first": first, "last": last}
    conditions = ["block BETWEEN :first AND :last"]
    source = "event_blocks"
    if keys := [_indexed_key(kind, session.bindable(exact[kind])) for kind in _INDEXED if kind in exact]:
        source = "event_keys JOIN event_blocks USING (block)"
        if len(keys) > 1:
            counted = first, last, _MAX_BLOCKS_COUNTED
            keys.sort(key=lambda key: session.execute(_COUNT_BLOCKS, (key, *counted)).fetchall()[0][0])
        names = [f"key{n}" for n in range(len(keys))]
        values |= zip(names, keys, strict=True)
        conditions += ["key = :key0", *map(_ALSO_HAS.format, names[1:])]
    if filter.timed:
        conditions.append("+max_time >= :since AND +min_time <= :until")
        values["since"], values["until"] = filter.period()
    down = filter.order == "desc"
    by_keys = bool(hashes) or tasks is not None
    query = f"SELECT block, {'keys' if by_keys else 'NULL'} FROM {source} WHERE {' AND '.join(conditions)}"  # noqa: S608
    if not by_keys:
        query += f" ORDER BY block {'DESC' if down else 'ASC'} LIMIT {_MAX_BLOCKS_READ + 1}"
    rows = session.execute(query, values).fetchall()
    blocks = {block for block, summary in rows if summary is None or all(key in summary for key in hashes)}
    if tasks is not None:
        blocks &= {block for block, summary in rows if not tasks.isdisjoint(_hashes(summary))}
    return sorted(blocks | set(range(max(first, unfilled), last + 1)), reverse=down)


def _runs(blocks: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Neighbouring blocks joined: the lowest and the highest `seq` of each run, in the blocks' order."""
    start = 0
    for index in range(1, len(blocks) + 1):
        if index == len(blocks) or abs(blocks[index] - blocks[index - 1]) > 1:
            low, high = sorted((blocks[start], blocks[index - 1]))
            yield _first_seq(low), _last_seq(high)
            start = index


def _rows(session: Session, filter: EventFilter, first: int, last: int, limit: int) -> Iterator[Row]:
    exact = {name: session.bindable(value) for name, value in filter.exact().items()}
    equal = (IS_OF_TYPE if name == "event_type" else f"{name} = :{name}" for name in exact)
    conditions = ["seq BETWEEN :first AND :last", *equal]
    values = {"first": first, "last": last, "limit": limit, **exact}
    if filter.timed:
        conditions.append("time BETWEEN :since AND :until")
        values["since"], values["until"] = filter.period()
    if filter.is_of_calls:
        condition, of_calls = filter.calls_condition(session)
        conditions.append(condition)
        values |= of_calls
    if filter.of_task is not None:
        condition, of_task = filter.of_task.row_condition(session, "events")
        conditions.append(condition)
        values |= of_task
    order = "ORDER BY seq DESC" if filter.order == "desc" else "ORDER BY seq"
    query = ("SELECT", COLUMN_LIST, "FROM events WHERE", " AND ".join(conditions), order, "LIMIT :limit")
    return session.stream(" ".join(query), values)


# Upkeep


def erase_payload(session: Session, seq: int) -> None:
    """Take the payload of a row away. Its commitment stays, so that the chain verifies."""
    for payload, own in session.execute("SELECT payload, link FROM events WHERE seq = ?", (seq,)).fetchall():
        values = (ERASED, None if own is None else erased_link(payload, own), seq)
        session.execute("UPDATE events SET payload = ?, link = ? WHERE seq = ?", values)
        freed = len(payload) - len(ERASED)
        session.execute(_FREE, {"seq": seq, "block": _block_number(seq), "freed": freed})
    forget_rows(session)


def old_blocks(session: Session, end: int, written_before: float) -> list[int]:
    """The blocks, oldest first, that end at or before a `seq` and had their last event before a time."""
    query = "SELECT block, written_at FROM event_blocks WHERE block < ? ORDER BY block"
    old = []
    for block, written_at in session.execute(query, (_block_number(end + 1),)).fetchall():
        if written_at >= written_before:
            break
        old.append(block)
    return old


def delete_block(session: Session, block: int) -> int:
    """Delete a block with its events; returns how many those were. The chain begins behind it then."""
    session.execute(_NOTE_PRUNED, {"seq": _last_seq(block), "block": block})  # while its summary has the hash
    _count_stored(session, block, -1)  # while its rows are there to be counted
    session.execute("DELETE FROM event_blocks WHERE block = ?", (block,))
    session.execute(_DELETE_KEYS, {"block": block, "first": _first_seq(block), "last": _last_seq(block)})
    forget_rows(session)  # rows in memory have the payload still
    return session.execute(
        "DELETE FROM events WHERE seq BETWEEN ? AND ?", (_first_seq(block), _last_seq(block))
    ).rowcount


def stored_bytes(session: Session) -> dict[str, int]:
    """How many bytes the events of each tenant take."""
    # Read first and bound: PostgreSQL's planner takes a bound that it does not know for a third of the log.
    [(after_full, _)] = session.execute(_SELECT_OPEN).fetchall()
    values = {"first": _first_seq(after_full or 0), "block_bits": _BLOCK_BITS}
    rows = session.execute(_STORED, values).fetchall()
    return {name: int(size) for name, size in rows}


def block_end(block: int) -> int:
    """The `seq` that follows a block."""
    return _first_seq(block + 1)


_SUM = f"""
    SELECT tenant_id, :sign * sum(length(payload) + {ROW_BYTES}) FROM events
    WHERE seq BETWEEN :first AND :last AND tenant_id IS NOT NULL GROUP BY tenant_id
"""  # noqa: S608 code
_ADD_BYTES = "ON CONFLICT (tenant_id) DO UPDATE SET bytes = tenant_storage.bytes + excluded.bytes"
_COUNT = f"INSERT INTO tenant_storage {_SUM} {_ADD_BYTES}"
_FREE = """
    UPDATE tenant_storage SET bytes = bytes - :freed
    WHERE tenant_id = (SELECT tenant_id FROM events WHERE seq = :seq)
    AND EXISTS (SELECT 1 FROM event_blocks WHERE block = :block)
"""
_STORED = f"""
    SELECT tenant_id, sum(bytes) FROM (
        SELECT tenant_id, bytes FROM tenant_storage
        UNION ALL
        SELECT tenant_id, length(payload) + {ROW_BYTES} FROM events
        WHERE seq >= :first AND seq >= (SELECT coalesce(max(block) + 1, 0) << :block_bits FROM event_blocks)
    ) AS parts WHERE tenant_id IS NOT NULL GROUP BY tenant_id
"""  # noqa: S608 code


def _count_stored(session: Session, block: int, sign: int) -> None:
    session.execute(_COUNT, {"sign": sign, "first": _first_seq(block), "last": _last_seq(block)})
