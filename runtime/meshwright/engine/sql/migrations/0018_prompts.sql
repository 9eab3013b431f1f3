-- Calls of models, and the tasks that made them, are found by the version of the prompt.
ALTER TABLE calls ADD COLUMN prompt TEXT;          -- NAME@DIGEST, NULL for a call that no prompt was made for
CREATE INDEX calls_of_task ON calls (task_id, tenant_id, prompt) WHERE prompt IS NOT NULL;
