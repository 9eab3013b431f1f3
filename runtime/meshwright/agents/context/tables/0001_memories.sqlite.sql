-- Memories say of which kind they are, what they are about, where they come from, and whether they are recalled.
ALTER TABLE memories ADD COLUMN kind TEXT NOT NULL DEFAULT 'fact';
ALTER TABLE memories ADD COLUMN subject TEXT;           -- in lower case: of two of one subject the newer may count
ALTER TABLE memories ADD COLUMN status TEXT NOT NULL DEFAULT 'active';
ALTER TABLE memories ADD COLUMN trust INTEGER NOT NULL DEFAULT 1;   -- 3 a person, 2 code, 1 a model, 0 strangers
ALTER TABLE memories ADD COLUMN step TEXT;              -- of the task, that wrote it
ALTER TABLE memories ADD COLUMN expires_at REAL;        -- unix seconds
ALTER TABLE memories ADD COLUMN superseded_by TEXT;     -- the id of the one that counts in its place
ALTER TABLE memories ADD COLUMN approved_by TEXT;       -- who promoted it
ALTER TABLE memories ADD COLUMN changed_by TEXT;
ALTER TABLE memories ADD COLUMN changed_at REAL;
ALTER TABLE memories ADD COLUMN previous TEXT;          -- JSON: the fields as they were before the last change
ALTER TABLE memories ADD COLUMN used INTEGER NOT NULL DEFAULT 0;    -- how often it was recalled
ALTER TABLE memories ADD COLUMN helped INTEGER NOT NULL DEFAULT 0;  -- and cited by an answer of a task that succeeded
CREATE INDEX memories_by_subject ON memories (owner, subject) WHERE subject IS NOT NULL;
CREATE INDEX memories_to_delete ON memories (status, changed_at) WHERE status = 'forgotten';
CREATE TRIGGER memory_edited AFTER UPDATE OF text, owner ON memories BEGIN
    INSERT INTO memory_text (memory_text, rowid, text, owner) VALUES ('delete', old.n, old.text, old.owner);
    INSERT INTO memory_text (rowid, text, owner) VALUES (new.n, new.text, new.owner);
END;
