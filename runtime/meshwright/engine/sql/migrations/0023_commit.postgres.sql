-- Ends of full blocks whose summaries are not written yet, with the hash of their last row.
CREATE TABLE event_ends (block BIGINT PRIMARY KEY, hash BYTEA NOT NULL);

-- Numbers, chains and writes events, as meshwright/events/table.py and chain.py do on SQLite. The last three
-- lists are what the chain is made of: salts, commitments and packed facts. "stands" has one for each event, or
-- is NULL for all. "dropped" counts from 0 among those that stand: their whole ids are known.
CREATE FUNCTION mesh_append_events(
    channel TEXT, stands BOOLEAN[], times DOUBLE PRECISION[], event_types TEXT[], event_versions BIGINT[],
    topics TEXT[], tenant_ids TEXT[], task_ids TEXT[], agent_ids TEXT[], trace_ids TEXT[], traceparents TEXT[],
    aggregate_ids TEXT[], own_ids TEXT[], other_ids TEXT[], idempotency_keys TEXT[], extras BYTEA[],
    payloads BYTEA[], salts BYTEA[], commitments BYTEA[], packed BYTEA[],
    OUT first_seq BIGINT, OUT dropped BIGINT[], OUT fills BOOLEAN
) LANGUAGE plpgsql AS $$
DECLARE
    last BIGINT;
    head BYTEA;
    is_due BOOLEAN;
    position INTEGER := -1;
    known TEXT[];
    seqs BIGINT[] := array_fill(NULL::BIGINT, ARRAY[cardinality(times)]);
    links BYTEA[] := array_fill(NULL::BYTEA, ARRAY[cardinality(times)]);
    own RECORD;
BEGIN
    SELECT seq, hash, (SELECT clock_timestamp() - told_at > interval '200 ms' FROM event_news)
        INTO last, head, is_due FROM event_log FOR UPDATE;
    first_seq := last + 1;
    dropped := '{}';
    fills := false;
    IF cardinality(array_remove(other_ids, NULL)) > 0 THEN
        known := ARRAY(SELECT other_id FROM events WHERE other_id = ANY (array_remove(other_ids, NULL)));
    END IF;
    FOR own IN SELECT * FROM unnest(salts, commitments, packed, other_ids)
        WITH ORDINALITY AS new (salt, commitment, facts, other_id, n)
    LOOP
        CONTINUE WHEN NOT stands[own.n];
        position := position + 1;
        IF own.other_id IS NOT NULL THEN
            IF own.other_id = ANY (known) THEN
                dropped := dropped || position::BIGINT;
                CONTINUE;
            END IF;
            known := known || own.other_id;
        END IF;
        last := last + 1;
        head := sha256(head || own.commitment || int8send(  -- the number's lowest byte first
            ((last & 255) << 56) | (((last >> 8) & 255) << 48) | (((last >> 16) & 255) << 40)
            | (((last >> 24) & 255) << 32) | (((last >> 32) & 255) << 24) | (((last >> 40) & 255) << 16)
            | (((last >> 48) & 255) << 8) | (last >> 56)
        ) || own.facts);
        seqs[own.n] := last;
        links[own.n] := own.salt || substr(head, 1, 8);
        IF last & 2047 = 2047 THEN
            INSERT INTO event_ends VALUES (last >> 11, head) ON CONFLICT DO NOTHING;
            fills := true;
        END IF;
    END LOOP;
    IF last < first_seq THEN
        RETURN;
    END IF;
    INSERT INTO events SELECT * FROM unnest(
        seqs, times, event_types, event_versions, topics, tenant_ids, task_ids, agent_ids, trace_ids,
        traceparents, aggregate_ids, own_ids, other_ids, idempotency_keys, extras, payloads, links
    ) AS new (seq) WHERE seq IS NOT NULL;
    UPDATE event_log SET seq = last, hash = head;
    IF is_due THEN
        UPDATE event_news SET told_at = clock_timestamp();
        PERFORM pg_notify(channel, 'e' || last);
    END IF;
END $$;

-- Writes a group of batches: see meshwright/stores/postgres/commits.py. Each list "in_.." has the number of the
-- batch, from 1, that a row of the lists behind it is of. Rows are found by indices, as fast in large tables as
-- in small ones, for which the plans are made.
CREATE FUNCTION mesh_commit(
    worker TEXT, channel TEXT, are_journal BOOLEAN[],
    in_expected SMALLINT[], expected_types TEXT[], expected_ids TEXT[], expected_revisions BIGINT[],
    in_ahead SMALLINT[], ahead_types TEXT[], ahead_ids TEXT[],
    in_heads SMALLINT[], are_new BOOLEAN[], head_types TEXT[], head_ids TEXT[], revisions BIGINT[],
    last_turns TEXT[], sents BIGINT[], wake_ats DOUBLE PRECISION[], are_obliged SMALLINT[], seens BYTEA[],
    states BYTEA[], head_owners TEXT[],
    in_shifted SMALLINT[], shifted_types TEXT[], shifted_ids TEXT[],
    in_taken SMALLINT[], taken_numbers BIGINT[],
    in_records SMALLINT[], record_types TEXT[], record_ids TEXT[], streams TEXT[], record_ns BIGINT[],
    record_values BYTEA[],
    in_messages SMALLINT[], to_types TEXT[], to_ids TEXT[], to_workers TEXT[], are_for_one BOOLEAN[],
    are_remembered SMALLINT[], bodies BYTEA[],
    in_events SMALLINT[], times DOUBLE PRECISION[], event_types TEXT[], event_versions BIGINT[], topics TEXT[],
    tenant_ids TEXT[], task_ids TEXT[], agent_ids TEXT[], trace_ids TEXT[], traceparents TEXT[],
    aggregate_ids TEXT[], own_ids TEXT[], other_ids TEXT[], idempotency_keys TEXT[], extras BYTEA[],
    payloads BYTEA[], salts BYTEA[], commitments BYTEA[], packed BYTEA[],
    OUT ends TEXT[], OUT moved TEXT[], OUT there BIGINT[], OUT numbers BIGINT[], OUT owners TEXT[],
    OUT first_seq BIGINT, OUT dropped BIGINT[], OUT fills BOOLEAN
) LANGUAGE plpgsql 
    SET plan_cache_mode = force_generic_plan SET jit = off
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    batches CONSTANT INTEGER := cardinality(are_journal);
    stands BOOLEAN[] := array_fill(true, ARRAY[batches]);
    all_stand BOOLEAN;
    left_there BIGINT[];
    own_numbers BIGINT[];
    new_records TEXT[];
    own RECORD;
BEGIN
    ends := array_fill('written'::TEXT, ARRAY[batches]);
    moved := array_fill(NULL::TEXT, ARRAY[batches]);

    -- Lock what the group rests on, in one order for all workers: new actors, others, messages.
    IF true = ANY (are_new) THEN
        FOR own IN
            WITH created AS (
                INSERT INTO heads SELECT type, id, revision, last_turn, sent, wake_at, obliged, seen, state, owner
                FROM unnest(are_new, head_types, head_ids, revisions, last_turns, sents, wake_ats, are_obliged,
                    seens, states, head_owners)
                    AS new (is_new, type, id, revision, last_turn, sent, wake_at, obliged, seen, state, owner)
                WHERE is_new ORDER BY type, id
                ON CONFLICT (type, id) DO UPDATE SET revision = excluded.revision, last_turn = excluded.last_turn,
                    sent = excluded.sent, wake_at = excluded.wake_at, obliged = excluded.obliged,
                    seen = excluded.seen, state = excluded.state, owner = excluded.owner
                    WHERE heads.revision = 0
                RETURNING type, id
            )
            SELECT batch, type, id FROM unnest(in_heads, are_new, head_types, head_ids)
                AS new (batch, is_new, type, id)
            WHERE is_new AND (type, id) NOT IN (SELECT * FROM created)
        LOOP
            stands[own.batch] := false;
            ends[own.batch] := 'moved';
            moved[own.batch] := own.type || '/' || own.id;
        END LOOP;
    END IF;
    IF cardinality(in_expected) > 0 THEN
        FOR own IN
            WITH locked AS MATERIALIZED (
                SELECT type, id, revision FROM heads
                WHERE (type, id) IN (SELECT * FROM unnest(expected_types, expected_ids))
                ORDER BY type, id FOR UPDATE
            )
            SELECT batch, type, id FROM unnest(in_expected, expected_types, expected_ids, expected_revisions)
                AS expected (batch, type, id, revision)
            LEFT JOIN locked USING (type, id) WHERE coalesce(locked.revision, 0) <> expected.revision
        LOOP
            stands[own.batch] := false;
            ends[own.batch] := 'moved';
            moved[own.batch] := own.type || '/' || own.id;
        END LOOP;
    END IF;
    IF cardinality(in_taken) > 0 THEN
        there := ARRAY(SELECT n FROM messages WHERE n = ANY (taken_numbers) ORDER BY n FOR UPDATE);
    END IF;

    -- Turn down the batches that other workers have overtaken.
    IF true = ANY (are_journal) AND NOT EXISTS (
        SELECT FROM workers WHERE incarnation = worker AND expires_at > clock_timestamp()
    ) THEN
        FOR batch IN 1 .. batches LOOP
            IF are_journal[batch] THEN
                stands[batch] := false;
                ends[batch] := 'expired';
            END IF;
        END LOOP;
    END IF;
    FOR own IN
        SELECT batch, ahead.type, ahead.id FROM unnest(in_ahead, ahead_types, ahead_ids) AS ahead (batch, type, id)
        WHERE EXISTS (SELECT FROM messages WHERE (messages.type, messages.id) = (ahead.type, ahead.id))
    LOOP
        stands[own.batch] := false;
        ends[own.batch] := 'moved';
        moved[own.batch] := own.type || '/' || own.id;
    END LOOP;
    IF cardinality(there) < cardinality(taken_numbers) THEN
        left_there := there;
        FOR batch IN 1 .. batches LOOP
            CONTINUE WHEN NOT stands[batch];
            own_numbers := ARRAY(
                SELECT number FROM unnest(in_taken, taken_numbers) AS taken (batch_of, number)
                WHERE batch_of = batch);
            IF own_numbers <@ left_there THEN
                left_there := ARRAY(SELECT number FROM unnest(left_there) AS number WHERE number <> ALL (own_numbers));
            ELSE
                stands[batch] := false;
                ends[batch] := 'taken';
            END IF;
        END LOOP;
    END IF;

    -- Of several batches with one record the first stands.
    IF cardinality(in_records) > 0 THEN
        WITH written AS (
            INSERT INTO records SELECT type, id, stream, n, value
            FROM unnest(in_records, record_types, record_ids, streams, record_ns, record_values)
                WITH ORDINALITY AS new (batch, type, id, stream, n, value, position)
            WHERE stands[batch] ORDER BY position
            ON CONFLICT DO NOTHING RETURNING type, id, stream, n
        )
        SELECT coalesce(array_agg(written::TEXT), '{}') INTO new_records FROM written;
    END IF;
    IF cardinality(new_records) < cardinality(in_records) THEN
        FOR own IN
            WITH standing AS (
                SELECT batch, (type, id, stream, n)::TEXT AS key
                FROM unnest(in_records, record_types, record_ids, streams, record_ns)
                    AS record (batch, type, id, stream, n)
                WHERE stands[batch]
            )
            SELECT DISTINCT batch FROM standing WHERE are_journal[batch] AND batch NOT IN (
                SELECT min(standing.batch) FROM standing WHERE key = ANY (new_records) GROUP BY key)
        LOOP
            stands[own.batch] := false;
            ends[own.batch] := 'skipped';
        END LOOP;
    END IF;

    all_stand := true = ALL (stands);
    IF NOT all_stand THEN
        DELETE FROM heads USING unnest(in_heads, are_new, head_types, head_ids) AS new (batch, is_new, type, id)
        WHERE (heads.type, heads.id) = (new.type, new.id) AND new.is_new AND NOT stands[new.batch]
            AND heads.xmin = pg_current_xact_id()::xid;  -- created above
    END IF;

    -- Write.
    IF false = ANY (are_new) THEN
        UPDATE heads SET revision = new.revision, last_turn = new.last_turn, sent = new.sent, wake_at = new.wake_at,
            obliged = new.obliged, seen = new.seen, state = new.state, owner = new.owner
        FROM unnest(in_heads, are_new, head_types, head_ids, revisions, last_turns, sents, wake_ats, are_obliged,
            seens, states, head_owners)
            AS new (batch, is_new, type, id, revision, last_turn, sent, wake_at, obliged, seen, state, owner)
        WHERE (heads.type, heads.id) = (new.type, new.id) AND NOT new.is_new AND (all_stand OR stands[new.batch]);
    END IF;
    IF cardinality(in_shifted) > 0 THEN
        UPDATE heads SET owner = worker
        FROM unnest(in_shifted, shifted_types, shifted_ids) AS shifted (batch, type, id)
        WHERE (heads.type, heads.id) = (shifted.type, shifted.id) AND owner <> worker AND stands[shifted.batch];
    END IF;
    IF cardinality(in_messages) > 0 THEN
        WITH sent AS (
            INSERT INTO messages
            SELECT nextval('message_numbers'), type, id, owner, CASE owner WHEN worker THEN 1 ELSE 0 END, remember, body
            FROM (
                SELECT type, id, remember, body, CASE WHEN is_for_one THEN to_worker ELSE coalesce(
                    -- Messages for one actor land together, so that they stay in order; else where it committed last.
                    (SELECT owner FROM messages WHERE (messages.type, messages.id) = (new.type, new.id)
                        ORDER BY owner = '' DESC LIMIT 1),
                    (SELECT owner FROM heads JOIN workers ON incarnation = owner
                        AND jsonb_exists(kinds::jsonb, new.type)
                        WHERE (heads.type, heads.id) = (new.type, new.id)),
                    to_worker) END AS owner
                FROM unnest(in_messages, to_types, to_ids, to_workers, are_for_one, are_remembered, bodies)
                    WITH ORDINALITY AS new (batch, type, id, to_worker, is_for_one, remember, body, position)
                WHERE all_stand OR stands[batch] ORDER BY position
            ) AS placed
            RETURNING n, owner
        )
        SELECT array_agg(n ORDER BY n), array_agg(owner ORDER BY n) INTO numbers, owners FROM sent;
        PERFORM pg_notify(channel || '_' || owner, 'm') FROM (SELECT DISTINCT unnest(owners) AS owner) AS told
        WHERE owner NOT IN ('', worker);
    END IF;
    IF cardinality(in_taken) > 0 THEN
        DELETE FROM messages WHERE n = ANY (CASE WHEN all_stand THEN taken_numbers ELSE ARRAY(
            SELECT number FROM unnest(in_taken, taken_numbers) AS taken (batch, number) WHERE stands[batch]) END);
    END IF;

    IF cardinality(in_events) > 0 AND true = ANY (stands) THEN
        SELECT * INTO first_seq, dropped, fills FROM mesh_append_events(
            channel, CASE WHEN NOT all_stand THEN ARRAY(SELECT stands[batch] FROM unnest(in_events) AS batch) END,
            times, event_types, event_versions, topics, tenant_ids, task_ids, agent_ids, trace_ids, traceparents,
            aggregate_ids, own_ids, other_ids, idempotency_keys, extras, payloads, salts, commitments, packed);
    END IF;
END $$;
