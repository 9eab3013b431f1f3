"""Durable actors: turns, their work and events, and the stores."""
