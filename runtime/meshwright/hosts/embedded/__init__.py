"""One process, one SQLite file: the default host."""

from meshwright.hosts.embedded.host import EmbeddedHost

__all__ = ["EmbeddedHost"]
