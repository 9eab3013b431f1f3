-- The schedules of the mesh, as their events say. Each row is its actor's, without what its task says.
CREATE TABLE schedules (
    tenant_id TEXT NOT NULL,
    id TEXT NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (tenant_id, id)
);
