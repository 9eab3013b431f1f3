"""The inbox: what waits for people."""
