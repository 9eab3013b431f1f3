-- How many tasks of each agent a worker has, as JSON: others hand over tasks by it.
ALTER TABLE workers ADD COLUMN loads text NOT NULL DEFAULT '{}';

-- When the workers were last notified of events; written under the lock of event_log.
CREATE TABLE event_news (told_at timestamptz NOT NULL);
INSERT INTO event_news VALUES ('epoch');
