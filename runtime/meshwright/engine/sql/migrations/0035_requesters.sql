-- The tasks of a requester, of which an erasure reads all.
CREATE INDEX tasks_by_requester ON tasks (tenant_id, requested_by, seq);
