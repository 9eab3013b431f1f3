-- Logins of browsers. The cookie itself is not stored, only its digest.
CREATE TABLE sessions (
    digest TEXT NOT NULL PRIMARY KEY,
    token TEXT NOT NULL,                    -- the key or token of the login, encrypted by the mesh's cipher
    created_at DOUBLE PRECISION NOT NULL,   -- unix seconds
    expires_at DOUBLE PRECISION NOT NULL
);
