-- Events that the authorizer of this host uploaded lately, so that one that it
-- sends again is known though it has left the queue. taken: in milliseconds
-- since 1970.
CREATE TABLE agent_relayed (
    id INTEGER PRIMARY KEY,
    digest BLOB NOT NULL,
    taken INTEGER NOT NULL
);
CREATE UNIQUE INDEX agent_relayed_digest ON agent_relayed (digest);

-- Bundles of which the authorizer uploaded executables. arrived: when the first
-- one came, in milliseconds since 1970. members: how many are known. held: how
-- many of them lie here until the upstream server requests the bundle, and bytes:
-- the size of their payloads.
CREATE TABLE agent_bundles (
    id INTEGER PRIMARY KEY,
    hash TEXT NOT NULL UNIQUE,
    arrived INTEGER NOT NULL,
    members INTEGER NOT NULL,
    held INTEGER NOT NULL,
    bytes INTEGER NOT NULL
);

-- Executables of bundles. eventdata: the payload while it is held, NULL once it
-- has been queued. request: the time of the request for which it was queued, and
-- queued: when that was.
CREATE TABLE agent_bundle_members (
    id INTEGER PRIMARY KEY,
    bundle INTEGER NOT NULL,
    digest BLOB NOT NULL,
    eventdata BLOB,
    request INTEGER,
    queued INTEGER
);
CREATE UNIQUE INDEX agent_bundle_members_digest ON agent_bundle_members (bundle, digest);
