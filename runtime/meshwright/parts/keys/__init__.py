"""Keys of callers: made, rotated and revoked by administrators."""
