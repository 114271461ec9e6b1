-- Two rows that differ in case alone become one: the later.
UPDATE OR REPLACE rules SET identifier = lower(identifier)
 WHERE type IN (1000, 3000) AND identifier != lower(identifier);
UPDATE OR REPLACE rules SET identifier = upper(identifier)
 WHERE type = 4000 AND identifier != upper(identifier);
