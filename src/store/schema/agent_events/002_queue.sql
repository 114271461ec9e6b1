-- The order of the events of table events, whose keys are random numbers.
-- idx: the key there. Ours lie past 32 bits and follow id; those of other
-- producers lie below and are entered here when they are first seen.
-- arrived: when it was entered, in milliseconds since 1970.
-- allowed: 1 if the queue may drop it first, being a record of something that
-- was allowed.
CREATE TABLE agent_queue (
    id INTEGER PRIMARY KEY,
    idx INTEGER NOT NULL,
    arrived INTEGER NOT NULL,
    allowed INTEGER NOT NULL
);
CREATE UNIQUE INDEX agent_queue_others ON agent_queue (idx) WHERE idx < 4294967296;
CREATE INDEX agent_queue_allowed ON agent_queue (id) WHERE allowed = 1;

-- One row. last_id: the greatest id ever given. settled_through: what lies up
-- to this id has left the queue, though its rows may still be there.
-- pending: how many rows of agent_queue lie past it.
CREATE TABLE agent_queue_state (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    last_id INTEGER NOT NULL,
    settled_through INTEGER NOT NULL,
    pending INTEGER NOT NULL
);
INSERT INTO agent_queue_state VALUES (1, 0, 0, 0);

-- Events of batches that the server refused for good. batch_limit: the largest
-- batch they may be sent in. alone: in how many syncs the event was refused by
-- itself.
CREATE TABLE agent_refusals (
    id INTEGER PRIMARY KEY,
    batch_limit INTEGER NOT NULL,
    alone INTEGER NOT NULL
);

-- How many events left the queue unsent, by cause and kind.
CREATE TABLE agent_drops (
    cause TEXT NOT NULL,
    kind TEXT NOT NULL,
    events INTEGER NOT NULL,
    last INTEGER NOT NULL,
    PRIMARY KEY (cause, kind)
) WITHOUT ROWID;

-- Bundles whose executables the server asked for and has not got yet.
-- executables: how many there are, 0 if not known yet. delivered: how many of
-- them the server took.
CREATE TABLE agent_bundle_requests (
    hash TEXT NOT NULL PRIMARY KEY,
    requested INTEGER NOT NULL,
    executables INTEGER NOT NULL,
    delivered INTEGER NOT NULL
) WITHOUT ROWID;

-- Events that were set aside, as they lay in table events.
CREATE TABLE rejected_events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    uniqueid TEXT NOT NULL,
    eventdata BLOB,
    allowed INTEGER NOT NULL,
    cause TEXT NOT NULL,
    reason TEXT NOT NULL,
    rejected INTEGER NOT NULL
);
