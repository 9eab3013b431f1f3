"""How many bytes the events of each tenant take, which is the storage that a tenant is charged for.

An event counts its payload and `_ROW_BYTES` for the rest of its row. A table has the sums of the full
blocks of the log, and changes with them in the same transaction: when a block is full, is deleted, or loses a
payload. The rows of the last block are added at each reading, so that writing an event costs nothing more.
"""

from __future__ import annotations

from meshwright.sql.database import Session

_ROW_BYTES = 256
_SUM = f"""
    SELECT tenant_id, :sign * sum(length(payload) + {_ROW_BYTES}) FROM events
    WHERE seq BETWEEN :first AND :last AND tenant_id IS NOT NULL GROUP BY tenant_id
"""  # noqa: S608 code
_COUNT = f"""
    INSERT INTO tenant_storage {_SUM}
    ON CONFLICT (tenant_id) DO UPDATE SET bytes = tenant_storage.bytes + excluded.bytes
"""
_FREE = """
    UPDATE tenant_storage SET bytes = bytes - :freed
    WHERE tenant_id = (SELECT tenant_id FROM events WHERE seq = :seq)
    AND EXISTS (SELECT 1 FROM event_blocks WHERE block = :block)
"""
_STORED = f"""
    SELECT tenant_id, sum(bytes) FROM (
        SELECT tenant_id, bytes FROM tenant_storage
        UNION ALL
        SELECT tenant_id, length(payload) + {_ROW_BYTES} FROM events
        WHERE seq >= (SELECT coalesce(max(block) + 1, 0) << :block_bits FROM event_blocks)
    ) AS parts WHERE tenant_id IS NOT NULL GROUP BY tenant_id
"""  # noqa: S608 code


def count(session: Session, first: int, last: int) -> None:
    """Add the rows of a block that is full now."""
    session.execute(_COUNT, {"sign": 1, "first": first, "last": last})


def discount(session: Session, first: int, last: int) -> None:
    """Take away the rows of a full block that is about to be deleted."""
    session.execute(_COUNT, {"sign": -1, "first": first, "last": last})


def free(session: Session, seq: int, block: int, freed: int) -> None:
    """Take away so many bytes of the payload of one row, where its block is full."""
    session.execute(_FREE, {"seq": seq, "block": block, "freed": freed})


def stored(session: Session, block_bits: int) -> dict[str, int]:
    """The bytes of every tenant, by its name."""
    return {name: int(size) for name, size in session.execute(_STORED, {"block_bits": block_bits}).fetchall()}
