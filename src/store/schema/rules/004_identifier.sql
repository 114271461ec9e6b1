ALTER TABLE rules RENAME COLUMN shasum TO identifier;
