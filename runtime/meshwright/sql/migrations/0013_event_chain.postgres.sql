-- The hash chain of the event log. It begins behind the events that are there.
ALTER TABLE events ADD COLUMN link BYTEA;       -- salt of the payload, and the beginning of the row's hash
ALTER TABLE event_blocks ADD COLUMN hash BYTEA; -- of the last row of the block
ALTER TABLE event_log ADD COLUMN hash BYTEA;    -- of the last row
ALTER TABLE event_log ADD COLUMN chained_from BIGINT;
ALTER TABLE event_log ADD COLUMN pruned_seq BIGINT;     -- the last chained row that was pruned, and its hash
ALTER TABLE event_log ADD COLUMN pruned_hash BYTEA;
UPDATE event_log SET hash = decode(repeat('00', 32), 'hex'), chained_from = seq + 1;
