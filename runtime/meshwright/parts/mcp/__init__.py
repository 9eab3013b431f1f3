"""Servers of the Model Context Protocol, whose tools agents may call."""
