DROP INDEX IF EXISTS filesha256;
ALTER TABLE events RENAME TO events_before;
CREATE TABLE events (
    idx INTEGER PRIMARY KEY,
    filesha256 TEXT NOT NULL,
    eventdata BLOB
);
INSERT INTO events (idx, filesha256, eventdata)
SELECT idx, filesha256, eventdata FROM events_before;
DROP TABLE events_before;
