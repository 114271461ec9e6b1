CREATE TABLE network_flow_rules (
    name TEXT NOT NULL PRIMARY KEY,
    rule_blob BLOB NOT NULL
);
