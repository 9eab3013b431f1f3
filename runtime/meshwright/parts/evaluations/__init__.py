"""Evaluations: answers of agents, measured by metrics and judged by agents, beside the labels of people."""
