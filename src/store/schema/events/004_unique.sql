-- The reference keeps the first event of each hash. The others are evidence,
-- too: they stay under a name of their own.
DROP INDEX IF EXISTS filesha256;
UPDATE events SET filesha256 = filesha256 || '#' || idx
WHERE idx NOT IN (SELECT min(idx) FROM events GROUP BY filesha256);
CREATE UNIQUE INDEX filesha256 ON events (filesha256);
