ALTER TABLE rules RENAME TO execution_rules;
DROP INDEX IF EXISTS rulesunique;
CREATE UNIQUE INDEX execution_rules_unique ON execution_rules (identifier, type);
CREATE TABLE file_access_rules (
    name TEXT NOT NULL PRIMARY KEY,
    rule_data BLOB NOT NULL
);
