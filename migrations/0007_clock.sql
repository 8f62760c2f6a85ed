-- What the clock does: reminders, and a ledger of all sweeps.

-- planned_at is when to look next at the reminders of what was mailed by
-- planned_for; whatever was mailed anew since is looked at right away.
ALTER TABLE invitation ADD COLUMN planned_for uuid;
ALTER TABLE invitation ADD COLUMN planned_at timestamptz;
ALTER TABLE invitation ADD COLUMN planned_done int NOT NULL DEFAULT 0; -- times of the plan that are behind it
CREATE INDEX invitation_remind ON invitation ((CASE WHEN planned_for = message_id THEN planned_at ELSE queued_at END), id)
    WHERE state = 'pending' AND CASE WHEN planned_for = message_id THEN planned_at ELSE queued_at END IS NOT NULL;

ALTER TABLE access_request ADD COLUMN planned_for uuid;
ALTER TABLE access_request ADD COLUMN planned_at timestamptz;
ALTER TABLE access_request ADD COLUMN planned_done int NOT NULL DEFAULT 0;
CREATE INDEX access_request_remind ON access_request ((CASE WHEN planned_for = message_id THEN planned_at ELSE queued_at END), id)
    WHERE (state = 'pending' OR option = 'new_account' AND state = 'granted') AND CASE WHEN planned_for = message_id THEN planned_at ELSE queued_at END IS NOT NULL;

-- A sweep is work that the clock starts and that looks for what is due.
CREATE TABLE sweep (
    name         text        PRIMARY KEY,
    last_tick    timestamptz,                            -- of the newest run
    paused_until timestamptz                             -- nothing is begun before this
);

-- One row for each run. The windows of a sweep's runs have no holes: what a tick
-- missed is in the next one's.
CREATE TABLE sweep_run (
    name        text        NOT NULL REFERENCES sweep (name),
    tick        timestamptz NOT NULL,                    -- when it was to begin, which ends its window
    since       timestamptz,                             -- after when its window begins; null: it is the first
    missed      int         NOT NULL DEFAULT 0,          -- ticks within the window that had no run
    by_hand     boolean     NOT NULL DEFAULT false,
    started_at  timestamptz NOT NULL,
    finished_at timestamptz,
    scanned     bigint      NOT NULL DEFAULT 0,
    acted       bigint      NOT NULL DEFAULT 0,
    skipped     jsonb       NOT NULL DEFAULT '{}',       -- how many, by the reason
    error       text        NOT NULL DEFAULT '',         -- of the newest attempt
    PRIMARY KEY (name, tick)
);
CREATE INDEX sweep_run_started ON sweep_run (started_at);
CREATE INDEX sweep_run_open ON sweep_run (name, tick) WHERE finished_at IS NULL;

-- What retention looks for.
CREATE INDEX idempotency_key_age ON idempotency_key (created_at);
CREATE INDEX webhook_delivery_age ON webhook_delivery (settled_at) WHERE settled_at IS NOT NULL;
CREATE INDEX invitation_forget ON invitation (decided_at) WHERE state IN ('declined', 'revoked', 'superseded', 'expired') AND email <> '';
