ALTER TABLE agent_wishes RENAME TO agent_clean_sync_requests;
ALTER TABLE agent_clean_sync_requests RENAME COLUMN wish TO request;

-- The last commits that received or deleted rules. `digest` covers all columns
-- of the rules in stored order; `complete` says whether agent_rule_changes has
-- all changes of this commit.
CREATE TABLE agent_generations (
    number INTEGER PRIMARY KEY,
    sync TEXT,
    source TEXT NOT NULL,
    sync_type TEXT,
    committed INTEGER NOT NULL,
    hash TEXT NOT NULL,
    digest TEXT NOT NULL,
    counts TEXT NOT NULL,
    added INTEGER NOT NULL,
    replaced INTEGER NOT NULL,
    reworded INTEGER NOT NULL,
    sent_again INTEGER NOT NULL,
    removed INTEGER NOT NULL,
    missed INTEGER NOT NULL,
    complete INTEGER NOT NULL,
    changes INTEGER NOT NULL,
    bytes INTEGER NOT NULL
);

-- What these commits did to single rules, `before` and `after` as states.
CREATE TABLE agent_rule_changes (
    generation INTEGER NOT NULL,
    place INTEGER NOT NULL,
    change TEXT NOT NULL,
    identifier TEXT NOT NULL,
    type INTEGER NOT NULL,
    before INTEGER,
    after INTEGER,
    PRIMARY KEY (generation, place)
) WITHOUT ROWID;
