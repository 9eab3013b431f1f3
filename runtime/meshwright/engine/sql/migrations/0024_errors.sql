-- The errors of the attempts that failed.
ALTER TABLE calls ADD COLUMN failed_with TEXT; -- JSON list of codes, one for each of failed_at; NULL for none
