-- Tasks that wait for a program of an agent outside of the mesh, the longest waiting first.
CREATE INDEX waits_of_program ON waits (account, since) WHERE kind = 'program';
