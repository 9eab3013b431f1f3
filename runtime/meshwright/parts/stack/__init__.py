"""The stack: what a mesh on Dapr rests on, started, watched and stopped. See `stack.py`."""
