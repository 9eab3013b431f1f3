"""Sinks: services that get how tasks ended, their scores, and registered prompts."""
