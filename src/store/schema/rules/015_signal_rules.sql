CREATE TABLE signal_rules (
    name TEXT NOT NULL PRIMARY KEY,
    rule_data BLOB NOT NULL
);
