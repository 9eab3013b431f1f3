"""Schedules: tasks that are submitted by themselves, at due times."""
