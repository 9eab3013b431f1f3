-- As that of SQLite; and words are found without their accents, as SQLite finds them.
ALTER TABLE memories DROP COLUMN search;
ALTER TABLE memories ADD COLUMN search TSVECTOR GENERATED ALWAYS AS (
    to_tsvector('english', translate(
        lower(coalesce(subject, '') || ' ' || text), 'äàáâãåöòóôõøüùúûéèêëíìîïñç', 'aaaaaaoooooouuuueeeeiiiinc'
    ))
) STORED;
CREATE INDEX memories_by_words ON memories USING GIN (search);
