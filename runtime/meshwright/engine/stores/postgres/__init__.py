"""A store that several workers share: PostgreSQL."""

from meshwright.engine.stores.postgres.store import PostgresStore

__all__ = ["PostgresStore"]
