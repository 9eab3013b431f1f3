-- A schedule is a row, and no longer an actor with a list made from its events.
ALTER TABLE schedules RENAME TO listed_schedules;

CREATE TABLE schedules (
    tenant_id TEXT NOT NULL,
    id TEXT NOT NULL,
    wake_at DOUBLE PRECISION,   -- unix seconds: when there is something to do; NULL for never
    document TEXT NOT NULL,     -- JSON: its state, with the task that it submits
    PRIMARY KEY (tenant_id, id)
);
CREATE INDEX schedules_by_wake_at ON schedules (wake_at) WHERE wake_at IS NOT NULL;

INSERT INTO schedules SELECT split_part(id, ':', 1), split_part(id, ':', 2),
    CASE WHEN obliged = 1 THEN 0 ELSE wake_at END, convert_from(state, 'UTF8')
FROM heads WHERE type = 'Schedule' AND NULLIF(convert_from(state, 'UTF8'), '')::json ->> 'spec' IS NOT NULL;

-- Schedules whose actors are elsewhere: this migration, and the start, end here.
CREATE TABLE left_schedules (
    count INTEGER CONSTRAINT schedules_of_an_earlier_version_are_actors_in_dapr CHECK (count = 0)
);
INSERT INTO left_schedules SELECT count(*) FROM (
    SELECT 'Schedule/' || tenant_id || ':' || id AS name FROM listed_schedules
    UNION SELECT aggregate_id FROM events WHERE event_type = 'schedule.created'
        AND seq > (SELECT position FROM projection_positions WHERE name = 'schedules')
) AS known WHERE name NOT IN (SELECT 'Schedule/' || id FROM heads WHERE type = 'Schedule');

DROP TABLE left_schedules;
DROP TABLE listed_schedules;
DELETE FROM heads WHERE type = 'Schedule';
DELETE FROM projection_positions WHERE name = 'schedules';
