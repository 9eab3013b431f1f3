"""A store that several workers share: PostgreSQL."""

from meshwright.stores.postgres.store import PostgresStore

__all__ = ["PostgresStore"]
