"""The cache of answers: a model that remembers what it said, and the stores where it is kept."""
