-- Memories are found by the words of their subjects too.
DROP TRIGGER memory_written;
DROP TRIGGER memory_forgotten;
DROP TRIGGER memory_edited;
DROP TABLE memory_text;
CREATE VIRTUAL TABLE memory_text USING fts5(
    text, subject, owner, content='memories', content_rowid='n', tokenize='porter unicode61'
);
INSERT INTO memory_text (memory_text) VALUES ('rebuild');
CREATE TRIGGER memory_written AFTER INSERT ON memories BEGIN
    INSERT INTO memory_text (rowid, text, subject, owner) VALUES (new.n, new.text, new.subject, new.owner);
END;
CREATE TRIGGER memory_forgotten AFTER DELETE ON memories BEGIN
    INSERT INTO memory_text (memory_text, rowid, text, subject, owner)
    VALUES ('delete', old.n, old.text, old.subject, old.owner);
END;
CREATE TRIGGER memory_edited AFTER UPDATE OF text, subject, owner ON memories BEGIN
    INSERT INTO memory_text (memory_text, rowid, text, subject, owner)
    VALUES ('delete', old.n, old.text, old.subject, old.owner);
    INSERT INTO memory_text (rowid, text, subject, owner) VALUES (new.n, new.text, new.subject, new.owner);
END;
