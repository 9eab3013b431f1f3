-- Amounts are exact: decimal text, where they were floating point.
ALTER TABLE tasks ADD COLUMN cost TEXT;
UPDATE tasks SET cost = printf('%.12g', cost_usd) WHERE cost_usd IS NOT NULL;
ALTER TABLE tasks DROP COLUMN cost_usd;
ALTER TABLE tasks RENAME COLUMN cost TO cost_usd;   -- US dollars; NULL where nobody knows the price
