"""The mesh's own tables: SQL files by number; `.sqlite` or `.postgres` names the database of one."""
