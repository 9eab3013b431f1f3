-- The vector of a memory's text, by a model of embeddings. None are there until a model has made them.
ALTER TABLE memories ADD COLUMN embedded_by TEXT;       -- the model
ALTER TABLE memories ADD COLUMN signs BLOB;             -- a bit for each number of the vector
ALTER TABLE memories ADD COLUMN vector BLOB;            -- numbers of single precision, of the length 1 together
