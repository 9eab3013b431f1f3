-- The models that a wait for a provider is for: JSON list of a group and deployments; NULL where unknown.
ALTER TABLE waits ADD COLUMN models TEXT;
