"""A mesh: how parts join, who calls it, and the tasks that it runs."""
