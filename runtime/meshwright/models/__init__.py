"""Models: the port to one, and the adapters that fill it."""
