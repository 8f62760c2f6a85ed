-- What the clock does: reminders, and a ledger of all sweeps.

-- When to look next at the reminders of an invitation or an access request. It is
-- a table of its own since each look writes it, and those have many indexes.
CREATE TABLE reminder_plan (
    subject_id uuid        PRIMARY KEY,
    app_id     uuid        NOT NULL,
    email_key  text        NOT NULL,
    message_id uuid        NOT NULL,                     -- the mail that it follows; one that was mailed anew is planned anew
    planned_at timestamptz,                              -- null: never
    done       int         NOT NULL                      -- times of the plan that are behind it
);
CREATE INDEX reminder_plan_due ON reminder_plan (planned_at, subject_id) WHERE planned_at IS NOT NULL;
CREATE INDEX reminder_plan_over ON reminder_plan (message_id) WHERE planned_at IS NULL;

-- A sweep is work that the clock starts and that looks for what is due.
CREATE TABLE sweep (
    name         text        PRIMARY KEY,
    last_tick    timestamptz,                            -- of the newest run
    paused_until timestamptz,                            -- nothing is begun before this
    cursor       uuid                                    -- send_reminders: the newest mail that was planned for
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
CREATE INDEX webhook_delivery_event ON webhook_delivery (event_id); -- of an event that is forgotten
CREATE INDEX invitation_forget ON invitation (decided_at) WHERE state IN ('declined', 'revoked', 'superseded', 'expired') AND email <> '';
