-- The ends of ids, by which people name tasks.
CREATE INDEX tasks_by_id_end ON tasks (substr(task_id, -4));
