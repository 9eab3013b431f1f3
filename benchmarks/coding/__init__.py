"""Coding jobs: small repositories with a failing test, which an agent solves with the tools for code.

python -m benchmarks.coding                                # by recorded trajectories: 20 of 20
python -m benchmarks.coding --model anthropic/claude-...   # by a model, with the key in its usual variable
python -m benchmarks.coding --kill between                 # kill -9 before every answer of the model
"""
