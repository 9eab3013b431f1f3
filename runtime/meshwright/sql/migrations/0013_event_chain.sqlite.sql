-- The hash chain of the event log.
ALTER TABLE events ADD COLUMN link BLOB;        -- salt of the payload, and the beginning of the row's hash
ALTER TABLE event_blocks ADD COLUMN hash BLOB;  -- of the last row of the block
ALTER TABLE event_log ADD COLUMN hash BLOB;     -- of the last row
ALTER TABLE event_log ADD COLUMN pruned_seq INTEGER;    -- the last chained row that was pruned, and its hash
ALTER TABLE event_log ADD COLUMN pruned_hash BLOB;
UPDATE event_log SET hash = zeroblob(32);
