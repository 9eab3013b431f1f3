-- As those of SQLite: the columns are explained there.
ALTER TABLE memories
    ADD COLUMN embedded_by TEXT,
    ADD COLUMN signs BYTEA,
    ADD COLUMN vector BYTEA;
