"""The one SQLite file: a writer thread that groups commits, readers, and the schema's numbered steps."""
