"""Figures of a running mesh: of its agents, workers, models and disk, for people and for monitoring."""
