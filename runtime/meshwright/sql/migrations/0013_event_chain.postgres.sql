-- The hash chain of the event log.
ALTER TABLE events ADD COLUMN link BYTEA;       -- salt of the payload, and the beginning of the row's hash
ALTER TABLE event_blocks ADD COLUMN hash BYTEA; -- of the last row of the block
ALTER TABLE event_log ADD COLUMN hash BYTEA;    -- of the last row
ALTER TABLE event_log ADD COLUMN pruned_seq BIGINT;     -- the last chained row that was pruned, and its hash
ALTER TABLE event_log ADD COLUMN pruned_hash BYTEA;
UPDATE event_log SET hash = decode(repeat('00', 32), 'hex');
