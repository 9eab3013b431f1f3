-- Doubts have the rank 0: they are listed before all else that is open.
ALTER TABLE inbox ADD COLUMN rank INTEGER NOT NULL DEFAULT 1;
UPDATE inbox SET rank = 0 WHERE json_extract(document, '$.wait_id') GLOB '*/0.*'
    AND json_extract(document, '$.wait_id') NOT GLOB '*/0.*/*';
DROP INDEX inbox_open;
CREATE INDEX inbox_open ON inbox (tenant_id, rank, seq, id) WHERE ended_at IS NULL OR account IS NOT NULL;
