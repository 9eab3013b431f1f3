-- The ends of ids, by which people name tasks, and their beginnings: the unique index has the database's order of
-- letters, in which ids that begin alike are not beside one another.
CREATE INDEX tasks_by_id_end ON tasks (substr(task_id, greatest(length(task_id) - 3, 1)));
CREATE INDEX tasks_by_id_begin ON tasks (task_id COLLATE "C");
