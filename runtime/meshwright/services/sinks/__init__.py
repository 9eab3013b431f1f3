"""Sinks: services that get how tasks ended, and their scores."""
