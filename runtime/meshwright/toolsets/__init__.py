"""Toolsets that come with Meshwright, a module each: agents name their classes in `toolsets`."""
