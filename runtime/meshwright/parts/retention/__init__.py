"""Retention: tasks that ended long enough ago leave the lists, and their contents go."""
