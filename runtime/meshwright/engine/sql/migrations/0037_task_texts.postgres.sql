-- The texts of tasks in which a search looks, made from events behind the lists, and how far they have come.
-- Marks and the separators between words of scripts without spaces become spaces, so that the words are those of
-- SQLite: the parser of PostgreSQL takes addresses, paths and numbers with signs for one word.
CREATE TABLE task_texts (
    seq BIGINT PRIMARY KEY,     -- of the task
    request TEXT NOT NULL,      -- '' for none, as the next
    question TEXT NOT NULL,
    answer TEXT NOT NULL,
    error TEXT NOT NULL,
    words TSVECTOR GENERATED ALWAYS AS (to_tsvector('simple', translate(
        request || ' ' || question || ' ' || answer || ' ' || error,
        U&'\200B!"#$%&''()*+,-./:;<=>?@[\\]^_`{|}~', repeat(' ', 33)
    ))) STORED
);
CREATE INDEX task_texts_by_words ON task_texts USING GIN (words);
CREATE TABLE task_texts_position (seq BIGINT NOT NULL);     -- of the last event whose text is there
INSERT INTO task_texts_position VALUES (0);
