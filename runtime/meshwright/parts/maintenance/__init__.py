"""Looks after a mesh: backup and restore, drain and release, verification, retention."""
