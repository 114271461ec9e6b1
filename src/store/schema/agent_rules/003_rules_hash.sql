-- States of the rules hash: after the row `last_row` and all rows before it.
-- With them the hash goes on from there instead of from the first row.
CREATE TABLE agent_rules_hash (
    last_row INTEGER PRIMARY KEY,
    state BLOB NOT NULL
);

-- Other programs may write to the rules too. This one's connections run no
-- triggers, so the mark means that hash and counts must be reckoned anew.
CREATE TRIGGER agent_rules_inserted AFTER INSERT ON execution_rules BEGIN
    INSERT OR REPLACE INTO agent_meta (key, value) VALUES ('rules_touched', 1);
END;
CREATE TRIGGER agent_rules_updated AFTER UPDATE ON execution_rules BEGIN
    INSERT OR REPLACE INTO agent_meta (key, value) VALUES ('rules_touched', 1);
END;
CREATE TRIGGER agent_rules_deleted AFTER DELETE ON execution_rules BEGIN
    INSERT OR REPLACE INTO agent_meta (key, value) VALUES ('rules_touched', 1);
END;
