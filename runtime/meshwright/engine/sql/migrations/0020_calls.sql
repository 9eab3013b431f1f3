-- Rows of calls are found by the call, for those that were taken for cut off and ended after all.
CREATE INDEX calls_by_call ON calls (call_id);
