-- What a store says of itself, as in SQLite: whether its work is held, and where it has gone.
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
