-- The first table of rules. An older program left views over it that a later
-- step removes.
CREATE TABLE rules (
    shasum TEXT NOT NULL,
    state INTEGER NOT NULL,
    type INTEGER NOT NULL,
    custommsg TEXT
);
CREATE UNIQUE INDEX rulesunique ON rules (shasum, type);
