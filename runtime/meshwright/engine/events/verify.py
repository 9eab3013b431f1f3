"""Verification of the event log: the hash chain row by row, signed heads, and erasures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path

from meshwright.core.topics import type_on
from meshwright.engine.events.event_types import ContentsErased, EventsPruned, LossAccepted, LossNoticed
from meshwright.engine.events.heads import SIGNED, Head, Signer, fingerprint, stored_heads
from meshwright.engine.events.log import LOSS_NOTICED
from meshwright.engine.events.rows import (
    COLUMNS,
    ERASED,
    ERASED_EVENT,
    HASH_BYTES,
    PAYLOAD,
    PRUNED_EVENT,
    fits,
    is_erased,
    next_hash,
)
from meshwright.engine.events.table import IS_OF_TYPE, block_end
from meshwright.engine.sql.database import Database, Row, Session
from meshwright.engine.sql.folder import marked_seq

_AT_ONCE = 2_000  # rows
_SELECT = f"SELECT {', '.join(COLUMNS)}, link FROM events WHERE seq > ? ORDER BY seq LIMIT ?"  # noqa: S608 code
_SELECT_STATE = "SELECT seq, hash, pruned_seq, pruned_hash FROM event_log"
_TYPE, _TOPIC = COLUMNS.index("event_type"), COLUMNS.index("topic")
_LOSS_ACCEPTED = "store.loss_accepted"
_OLDER = "So it is after a failover to a standby that was behind, at an old primary, and after a restore"
_SAME_PICTURE = "A database that came back older and went on can give the same picture"
Progress = Callable[[int, int], None]
"""Called with the number of the row that was reached, and of the last."""


@dataclass
class ChainReport:
    """The findings of a verification: rows `first` to `last` are as they were written, unless `faults` say.

    `heads` counts the signed heads that vouch for rows, `signed_seq` is the last row that one vouches for.
    Those up to `pruned_seq` were deleted by age.
    """

    rows: int = 0
    first: int = 1
    last: int = 0
    heads: int = 0
    signed_seq: int = 0
    erased: int = 0
    pruned_seq: int = 0
    key: str = ""
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def sentence(self) -> str:
        """The proved facts as a sentence."""
        if self.rows:
            proved = f"{self.rows:,} rows from {self.first:,} to {self.last:,} unaltered"
        else:
            proved = "no row is chained"
        heads = f"{self.heads:,} signed {'head' if self.heads == 1 else 'heads'}"
        return f"{proved}; {heads}"


def verify(database: Database, progress: Progress | None = None, *, key: str = "") -> ChainReport:
    """Walk the log, on a connection of its own, and check the heads that its data folder keeps of it.

    `key` is the public key that has to have signed them, by default that of the folder. It ends with the
    first row that is wrong. Rows that are written meanwhile are passed by. Raises StoreFailed.
    """
    key = key or Signer(database.folder).public_key()
    while True:
        with database.reading_apart() as session:
            walk = _Walk(session, database.folder, key)
            walk.run(progress or _silent)
            if not walk.was_overtaken():  # rows were pruned meanwhile
                return walk.report


def _silent(reached: int, last: int) -> None:
    """Report nothing."""


class _Walk:
    def __init__(self, session: Session, folder: Path, key: str) -> None:
        if session.dialect == "sqlite":  # text that is no text is a finding too
            session.connection.text_factory = _any_text
        self.report = ChainReport(key=key)
        self._session = session
        self._heads: dict[int, list[Head]] = {}
        self._erased: set[int] = set()
        self._pruned: set[int] = set()
        self._lost: dict[range, str] = {}
        self._top = 0
        self._filed: set[str] = set()
        self._marked = marked_seq(folder) if session.dialect == "sqlite" else 0  # before: it goes on
        self._state = self._read_state()
        # Behind the state: a head is in the file before it is in the log.
        for number, head in enumerate(stored_heads(folder), start=1):
            self._take_head(head, f"head {number} of audit.heads")

    def _read_state(self) -> tuple[int, bytes, int, bytes | None]:
        rows = self._session.execute(_SELECT_STATE).fetchall()
        if len(rows) != 1 or None in rows[0][:2]:
            self.report.faults.append("The log has lost its count: the table event_log is not as it was")
            return 0, b"", 0, None
        last, last_hash, pruned_seq, pruned_hash = rows[0]
        return last, bytes(last_hash), pruned_seq or 0, pruned_hash

    def was_overtaken(self) -> bool:
        return bool(self.report.faults) and self._read_state()[2] != self.report.pruned_seq

    def run(self, progress: Progress) -> None:
        report = self.report
        last, last_hash, pruned_seq, pruned_hash = self._state
        report.pruned_seq, report.first = pruned_seq, pruned_seq + 1
        head, before = bytes(pruned_hash or bytes(HASH_BYTES)), report.first - 1
        for row, following in self._rows(report.first - 1, last):
            if report.faults:
                return
            seq, expected = row[0], next_hash(row, head)
            if expected is None or not fits(row, expected):
                report.faults.append(_diagnosis(row, following, head, before))
                return
            head, before = expected, seq
            self._note(row)
            report.rows, report.last = report.rows + 1, seq
            self._check_block(seq, head)
            self._check_heads(seq, head)
            if not report.rows % _AT_ONCE:
                progress(seq, last)
        self._check_end(before, head, last, last_hash)
        progress(last, last)

    def _rows(self, after: int, last: int) -> Iterator[tuple[Row, Row | None]]:
        """The rows behind a number, up to the last, each with the one that follows it."""
        pending: Row | None = None
        while rows := self._session.execute(_SELECT, (after, _AT_ONCE)).fetchall():
            for row in rows:
                if row[0] > last:
                    break
                if pending is not None:
                    yield pending, row
                pending = row
            after = rows[-1][0]
        if pending is not None:
            yield pending, None

    # What one row says

    def _note(self, row: Row) -> None:
        seq, event_type = row[0], type_on(row[_TOPIC], row[_TYPE])
        if is_erased(row):
            if row[PAYLOAD] != ERASED:
                self.report.faults.append(f"Row {seq:,} was erased, and then given another payload")
            self._erased.add(seq)
            self.report.erased += 1
        elif event_type in _NOTED:
            self._take(seq, event_type, row[PAYLOAD])

    def _take(self, seq: int, event_type: str, payload: bytes) -> None:
        try:
            if event_type == ERASED_EVENT:
                self._take_erasure(ContentsErased.model_validate_json(payload).ranges)
            elif event_type == PRUNED_EVENT:
                self._pruned.add(EventsPruned.model_validate_json(payload).through)
            elif event_type == _LOSS_ACCEPTED:
                loss = LossAccepted.model_validate_json(payload)
                self._lost[range(loss.last_seq + 1, loss.lost_until_seq + 1)] = "and their loss accepted"
            elif event_type == LOSS_NOTICED:
                noticed = LossNoticed.model_validate_json(payload)
                lost = range(noticed.last_seq + 1, noticed.lost_until_seq + 1)
                self._lost[lost] = f"which row {seq:,} says: the database came back older. {_OLDER}"
            else:
                self._take_head(Head.model_validate_json(payload), f"the head of row {seq:,}", in_log=True)
        except (LookupError, TypeError, ValueError) as error:
            self.report.notes.append(f"Row {seq:,} ({event_type}) has no payload of its type: {error}")

    def _take_erasure(self, ranges: Iterable[tuple[int, int]]) -> None:
        for first, last in ranges:
            self._erased.difference_update(
                range(max(first, self.report.first), min(last, self._state[0]) + 1)
            )

    def _take_head(self, head: Head | None, name: str, *, in_log: bool = False) -> None:
        if head is None:
            self.report.faults.append(f"{name.capitalize()} is no head")
        elif head.key != self.report.key and in_log:
            note = f"The log has heads of another key, {fingerprint(head.key)}, which were not checked"
            self.report.notes += [] if note in self.report.notes else [note]
        elif not head.is_signed_by(self.report.key):
            self.report.faults.append(
                f"{name.capitalize()} (row {head.seq:,}) is not signed by this mesh's key, "
                f"{fingerprint(self.report.key)}"
            )
        elif in_log and head.signature not in self._filed:
            self.report.faults.append(f"The file audit.heads lacks the head of row {head.seq:,}")
        else:
            self._filed.add(head.signature)
            self._heads.setdefault(head.seq, []).append(head)
            self._top = max(self._top, head.seq)

    # Checks

    def _check_block(self, seq: int, head: bytes) -> None:
        if block_end(seq >> 11) - 1 != seq:
            return
        stored = self._session.execute(
            "SELECT hash FROM event_blocks WHERE block = ?", (seq >> 11,)
        ).fetchall()
        if stored and stored[0][0] is not None and bytes(stored[0][0]) != head:
            self.report.faults.append(f"Rows up to {seq:,} were altered, and their hashes made to fit")

    def _check_heads(self, seq: int, head: bytes) -> None:
        for signed in self._heads.get(seq, ()):
            if signed.hash != head.hex():
                self.report.faults.append(self._other_history(signed))
                return
            self.report.heads, self.report.signed_seq = self.report.heads + 1, seq

    def _other_history(self, signed: Head) -> str:
        """Why the rows up to a head are others than it vouches for.

        If the later ones of them are all younger than the head, the log went back behind it and on again.
        """
        first, seq = self.report.signed_seq + 1, signed.seq
        at = f"{signed.time:%Y-%m-%d %H:%M:%S} UTC"
        query = "SELECT max(seq) FROM events WHERE seq <= ? AND time <= ?"
        [(older,)] = self._session.execute(query, (seq, signed.time.timestamp())).fetchall()
        if older is not None and (other := max(older + 1, first)) <= seq:
            return (
                f"Rows {other:,} to {seq:,} are younger than the head that was signed of them at {at}: "
                f"the database came back older, and went on. {_OLDER}"
            )
        remark = f". {_SAME_PICTURE}" if self._session.dialect == "postgres" else ""
        return (
            f"Row {first:,}, or one up to {seq:,}, was altered, and the hashes made to fit: "
            f"the head that was signed at {at} has another{remark}"
        )

    def _cut(self, end: int, top: int, witness: str) -> str:
        missing = f"Rows {end + 1:,} to {top:,} are missing: "
        if self._session.dialect == "postgres":
            return f"{missing}{witness} names them. The database is older, or the log was cut. {_OLDER}"
        return f"{missing}the log was cut, {witness} names them"

    def _check_end(self, reached: int, head: bytes, last: int, last_hash: bytes) -> None:
        report = self.report
        if report.faults:
            return
        if last_hash != head:
            report.faults.append(f"Rows behind {reached:,} are missing: the log had come to row {last:,}")
            return
        [(end,)] = self._session.execute("SELECT seq FROM event_log").fetchall()  # it may have gone on
        top, witness = max((self._top, "a signed head"), (self._marked, "mesh.mark"), key=itemgetter(0))
        if top > end:
            report.faults.append(self._cut(end, top, witness))
        missing = [seq for seq in self._heads if report.first <= seq <= last and not self._was_read(seq)]
        for seq in missing:
            report.faults.append(f"Row {seq:,} is missing: a signed head names it")
        if report.pruned_seq and report.pruned_seq not in self._pruned:
            report.faults.append(
                f"Rows up to {report.pruned_seq:,} are missing, and no event says that age was the reason"
            )
        query = f"SELECT seq, payload FROM events WHERE seq > :last AND {IS_OF_TYPE}"  # noqa: S608 erased meanwhile
        erasures = {"last": last, "event_type": ERASED_EVENT}
        for seq, payload in self._session.execute(query, erasures).fetchall():
            self._take(seq, ERASED_EVENT, payload)
        for seq in sorted(self._erased)[:1]:
            report.faults.append(f"The payload of row {seq:,} was erased, and no event says by whom")
        for gap, how in self._lost.items():
            report.notes.append(f"Rows {gap.start:,} to {gap.stop - 1:,} were lost, {how}")
        query = "SELECT min(seq) FROM events WHERE seq > (SELECT seq FROM event_log)"
        [(beyond,)] = self._session.execute(query).fetchall()
        if beyond is not None:
            report.faults.append(f"Row {beyond:,} was inserted: the log has not come so far")

    def _was_read(self, seq: int) -> bool:
        if any(seq in gap for gap in self._lost):
            return True
        return bool(self._session.execute("SELECT 1 FROM events WHERE seq = ?", (seq,)).fetchall())


_NOTED = frozenset({ERASED_EVENT, PRUNED_EVENT, _LOSS_ACCEPTED, LOSS_NOTICED, SIGNED})


def _diagnosis(row: Row, following: Row | None, head: bytes, before: int) -> str:
    seq = row[0]
    if seq > before + 1:
        missing = f"Row {before + 1:,} is" if seq == before + 2 else f"Rows {before + 1:,} to {seq - 1:,} are"
        return f"{missing} missing"
    if following is not None and fits(following, (earlier := next_hash(following, head, seq))):
        assert earlier is not None
        if fits(row, next_hash(row, earlier, following[0])):
            return f"Rows {seq:,} and {following[0]:,} were exchanged"
        return f"Row {seq:,} was inserted"
    return f"Row {seq:,} was altered"


def _any_text(data: bytes) -> str:
    return data.decode(errors="surrogateescape")
