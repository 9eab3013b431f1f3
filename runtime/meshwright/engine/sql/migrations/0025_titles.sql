-- The titles that agents set.
ALTER TABLE tasks ADD COLUMN title TEXT;
