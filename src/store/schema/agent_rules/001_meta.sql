-- What this agent knows of the store besides the rules themselves, a line a
-- fact. The key `schema_version` numbers the agent_ tables.
CREATE TABLE agent_meta (
    key TEXT NOT NULL PRIMARY KEY,
    value
) WITHOUT ROWID;
