"""Plain data and small tools that everything else rests on: imports nothing else of Meshwright."""
