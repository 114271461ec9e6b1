-- Rows of the first form have no id and cannot get one; the next download
-- brings them again.
DROP TABLE IF EXISTS network_flow_rules;
CREATE TABLE network_flow_rules (
    name TEXT NOT NULL PRIMARY KEY,
    rule_id INTEGER NOT NULL UNIQUE,
    rule_blob BLOB NOT NULL
);
