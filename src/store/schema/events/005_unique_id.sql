ALTER TABLE events RENAME COLUMN filesha256 TO uniqueid;
DROP INDEX filesha256;
CREATE UNIQUE INDEX uniqueid ON events (uniqueid);
