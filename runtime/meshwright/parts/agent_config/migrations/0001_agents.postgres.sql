-- Which model each agent calls. A key is encrypted by the mesh's own keys; nothing else here is secret.
CREATE TABLE agents (
    tenant_id TEXT NOT NULL,
    agent_id TEXT NOT NULL,
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    llm_provider TEXT NOT NULL,
    llm_endpoint TEXT,
    llm_model TEXT NOT NULL,
    llm_api_key_encrypted TEXT,
    llm_timeout DOUBLE PRECISION NOT NULL DEFAULT 30,
    llm_temperature DOUBLE PRECISION NOT NULL DEFAULT 0.7,
    llm_max_tokens INTEGER,
    is_default INTEGER NOT NULL DEFAULT 0,
    is_active INTEGER NOT NULL DEFAULT 1,
    created_at DOUBLE PRECISION NOT NULL,   -- unix seconds
    updated_at DOUBLE PRECISION,            -- none of the row below: it counts from its first change on
    PRIMARY KEY (tenant_id, agent_id)
);
CREATE UNIQUE INDEX agents_default ON agents (tenant_id) WHERE is_default = 1;
INSERT INTO agents (tenant_id, agent_id, name, description, llm_provider, llm_endpoint, llm_model, is_default,
    is_active, created_at)
VALUES ('default', 'default-agent', 'Default agent', 'For every agent without a configuration of its own.',
    'ollama', 'http://localhost:11434', 'mistral:7b-instruct', 1, 0, extract(epoch FROM now()));
