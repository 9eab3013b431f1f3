"""Parts beside the tasks, each in a folder that could be removed."""
