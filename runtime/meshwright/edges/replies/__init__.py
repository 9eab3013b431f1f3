"""Replies: the outcome of a task goes back to the source of the task."""
