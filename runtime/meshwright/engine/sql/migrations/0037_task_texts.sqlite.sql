-- The texts of tasks in which a search looks, made from events behind the lists, and how far they have come.
CREATE TABLE task_texts (
    seq INTEGER PRIMARY KEY,    -- of the task
    request TEXT NOT NULL,      -- '' for none, as the next
    question TEXT NOT NULL,
    answer TEXT NOT NULL,
    error TEXT NOT NULL
);
CREATE TABLE task_texts_position (seq BIGINT NOT NULL);     -- of the last event whose text is there
INSERT INTO task_texts_position VALUES (0);

CREATE VIRTUAL TABLE task_words USING fts5(
    request, question, answer, error, content='task_texts', content_rowid='seq', prefix='2 3',
    tokenize="unicode61 remove_diacritics 0 categories 'L* N* Co Mn Mc'"
);
CREATE TRIGGER task_text_inserted AFTER INSERT ON task_texts BEGIN
    INSERT INTO task_words (rowid, request, question, answer, error)
    VALUES (new.seq, new.request, new.question, new.answer, new.error);
END;
CREATE TRIGGER task_text_deleted AFTER DELETE ON task_texts BEGIN
    INSERT INTO task_words (task_words, rowid, request, question, answer, error)
    VALUES ('delete', old.seq, old.request, old.question, old.answer, old.error);
END;
CREATE TRIGGER task_text_changed AFTER UPDATE ON task_texts BEGIN
    INSERT INTO task_words (task_words, rowid, request, question, answer, error)
    VALUES ('delete', old.seq, old.request, old.question, old.answer, old.error);
    INSERT INTO task_words (rowid, request, question, answer, error)
    VALUES (new.seq, new.request, new.question, new.answer, new.error);
END;
