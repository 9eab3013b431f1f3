"""The schema, as numbered SQL files: each is applied once, in order, in a transaction of its own."""
