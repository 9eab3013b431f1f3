-- The log counts in a row of its own, and each full block of 2,048 events has one summary of its keys instead of
-- an index entry for each key.
CREATE TABLE event_log (seq INTEGER NOT NULL);
INSERT INTO event_log SELECT coalesce(max(seq), 0) FROM events;
DROP TABLE event_keys;
ALTER TABLE event_blocks ADD COLUMN keys BLOB;  -- 4 bytes of hash for each key; NULL: summarized at the next start

-- One row for each projection.
CREATE TABLE projection_positions (
    name TEXT PRIMARY KEY,
    version INTEGER NOT NULL,   -- of what its tables say
    position INTEGER NOT NULL   -- the last seq that was folded in
) WITHOUT ROWID;
INSERT INTO projection_positions SELECT name, 1, position FROM projections,
    (SELECT 'tasks' AS name UNION ALL SELECT 'outcomes' UNION ALL SELECT 'calls') WHERE version = 2;
DROP TABLE projections;
