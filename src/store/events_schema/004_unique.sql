-- The reference keeps the first event of each hash. The others are evidence,
-- too: they stay under a name of their own.
DROP INDEX IF EXISTS filesha256;
UPDATE events SET filesha256 = filesha256 || '#' || idx
WHERE EXISTS (
    SELECT 1 FROM events AS earlier
    WHERE earlier.filesha256 = events.filesha256 AND earlier.idx < events.idx
);
CREATE UNIQUE INDEX filesha256 ON events (filesha256);
