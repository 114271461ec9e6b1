-- Events that were handed to us lie in a table of their own, in the order of
-- arrival: deleting those that were delivered then touches few pages, however
-- long the queue is. In table events each of them would touch a page of the unique index.
-- Those that came before this version stay there until they are sent.
CREATE TABLE agent_events (
    id INTEGER PRIMARY KEY,
    uniqueid TEXT NOT NULL,
    eventdata BLOB NOT NULL
);

-- The newest event of each unique id in agent_events, by a hash of the unique
-- id. Entries of events that have left are deleted later, a page at a time;
-- swept: up to which hash.
CREATE TABLE agent_unique (
    hash INTEGER PRIMARY KEY,
    id INTEGER NOT NULL
);
ALTER TABLE agent_queue_state ADD COLUMN swept INTEGER NOT NULL DEFAULT -9223372036854775808;

-- How many bytes the payload of a queued event counts, and all of them
-- together. Those that came before this version count as common ones.
ALTER TABLE agent_queue ADD COLUMN bytes INTEGER NOT NULL DEFAULT 2048;
ALTER TABLE agent_queue_state ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;
UPDATE agent_queue_state SET bytes = 2048 * pending;

-- A program of before this version that has the database open must not go on:
-- it would take an event whose row is not in table events for one that its
-- producer took back.
ALTER TABLE agent_queue_state RENAME COLUMN pending TO queued;

-- What an event that was set aside is known by when it is met again. NULL for
-- those of before this version.
ALTER TABLE rejected_events ADD COLUMN digest INTEGER;
CREATE INDEX agent_rejected_digest ON rejected_events (digest) WHERE digest IS NOT NULL;

-- How many events are set aside, and how many bytes their payloads have.
ALTER TABLE agent_queue_state ADD COLUMN rejected INTEGER NOT NULL DEFAULT 0;
ALTER TABLE agent_queue_state ADD COLUMN rejected_bytes INTEGER NOT NULL DEFAULT 0;
UPDATE agent_queue_state SET (rejected, rejected_bytes) =
    (SELECT count(*), coalesce(sum(octet_length(eventdata)), 0) FROM rejected_events);
