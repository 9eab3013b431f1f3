"""A simulator of model providers: it is no model, and behaves as badly as the real ones do.

    python -m tests.support.simulator fix-tests --port 8001

`scenarios.toml` holds the scenarios: who answers (a persona of `personas.py`), what goes wrong
meanwhile, the window and the prices. `server.py` speaks OpenAI's and Anthropic's API; `world.py` has the
tools that the personas ask for, and counts what was really done.
"""
