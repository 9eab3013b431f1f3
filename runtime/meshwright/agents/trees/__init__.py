"""Trees: copies of a git repository that tasks change, without git's own files in them."""
