-- Doubts have the rank 0: they are listed before all else that is open.
ALTER TABLE inbox ADD COLUMN rank INTEGER NOT NULL DEFAULT 1;
UPDATE inbox SET rank = 0 WHERE document::json ->> 'wait_id' ~ '/0\.[^/]*$';
DROP INDEX inbox_open;
CREATE INDEX inbox_open ON inbox (tenant_id, rank, seq, id) WHERE ended_at IS NULL OR account IS NOT NULL;
