-- Settings a server gave, as JSON: those in force, and those of a sync under
-- way, which a restart drops.
CREATE TABLE agent_settings (
    slot TEXT NOT NULL PRIMARY KEY CHECK (slot IN ('applied', 'staged')),
    settings TEXT NOT NULL
) WITHOUT ROWID;

-- Wishes for a clean sync, one a reason, as JSON.
CREATE TABLE agent_wishes (
    reason TEXT NOT NULL PRIMARY KEY,
    wish TEXT NOT NULL
) WITHOUT ROWID;

-- What became of the last syncs, as JSON. A sync without a record has not
-- ended: it runs, or its process died.
CREATE TABLE agent_syncs (
    number INTEGER PRIMARY KEY,
    begun TEXT NOT NULL,
    record TEXT
);
