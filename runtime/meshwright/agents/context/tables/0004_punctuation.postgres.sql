-- Punctuation separates words, as for SQLite: the parser reads a hyphen before a digit as a minus, and joins 3.5.
ALTER TABLE memories DROP COLUMN search;
ALTER TABLE memories ADD COLUMN search TSVECTOR GENERATED ALWAYS AS (
    to_tsvector('english', translate(
        lower(coalesce(subject, '') || ' ' || text),
        'äàáâãåöòóôõøüùúûéèêëíìîïñç' || U&'\200B!"#$%&''()*+,-./:;<=>?@[\\]^_`{|}~',
        'aaaaaaoooooouuuueeeeiiiinc' || repeat(' ', 33)
    ))
) STORED;
CREATE INDEX memories_by_words ON memories USING GIN (search);
