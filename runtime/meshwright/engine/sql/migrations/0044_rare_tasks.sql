-- The tasks of a model, those that no agent got, those that failed without an error, and the calls with tags.
CREATE INDEX tasks_by_model ON tasks (tenant_id, model, seq) WHERE model IS NOT NULL;
CREATE INDEX tasks_without_agent ON tasks (tenant_id, seq) WHERE agent_id IS NULL;
CREATE INDEX tasks_dead_without_error ON tasks (tenant_id, seq) WHERE error IS NULL AND status IN ('failed', 'timed_out');
CREATE INDEX calls_by_tags ON calls (tenant_id, tags, seq) WHERE tags <> '[]';

-- The sums of an agent and of a model, however many hours others have.
CREATE INDEX call_hours_by_agent ON call_hours (tenant_id, agent_id, time);
CREATE INDEX call_hours_by_model ON call_hours (tenant_id, model, time);

-- The last block with an event of a time or before: its summary is too long to be read for it.
CREATE INDEX event_blocks_by_begin ON event_blocks (block, min_time);
