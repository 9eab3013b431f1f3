"""The mesh's SQL database: one port, SQLite and PostgreSQL behind it."""
