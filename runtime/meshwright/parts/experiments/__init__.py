"""Experiments: variants of prompts, models and agents on live tasks, compared by what they cost and reach."""
