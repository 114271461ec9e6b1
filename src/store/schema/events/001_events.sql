CREATE TABLE events (
    idx INTEGER PRIMARY KEY AUTOINCREMENT,
    filesha256 TEXT NOT NULL,
    eventdata BLOB
);
CREATE INDEX filesha256 ON events (filesha256);
