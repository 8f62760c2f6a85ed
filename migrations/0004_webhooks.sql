-- Webhooks: where an app hears of its events, and what became of each.

-- An endpoint's secret is recomputed from the installation's key that
-- secret_key names, the endpoint's id and the version, and stored nowhere.
CREATE TABLE webhook_endpoint (
    id               uuid        PRIMARY KEY,
    app_id           uuid        NOT NULL REFERENCES app (id),
    url              text        NOT NULL,
    description      text        NOT NULL,
    types            text[]      NOT NULL,               -- which events it wants; empty: all
    state            text        NOT NULL DEFAULT 'enabled' CHECK (state IN ('enabled', 'disabled', 'deleted')),
    reason           text        NOT NULL DEFAULT '' CHECK (reason IN ('', 'asked', 'failing', 'gone')), -- why it is disabled
    disabled_at      timestamptz,
    secret_version   int         NOT NULL DEFAULT 1,
    secret_key       bytea       NOT NULL,               -- names the installation's key
    old_secret_key   bytea,                              -- of the version before, which also signs
    old_secret_until timestamptz,                        -- and until when; null: it does not
    failures         int         NOT NULL DEFAULT 0,     -- attempts that failed since the last success
    failing_since    timestamptz,                        -- when the first of them was
    paused_until     timestamptz,                        -- nothing is sent before this: it failed too often, or asked for a rest
    created_at       timestamptz NOT NULL,
    UNIQUE (app_id, id)
);
-- Every event asks which endpoints want it; most apps have none.
CREATE INDEX webhook_endpoint_enabled ON webhook_endpoint (app_id) WHERE state = 'enabled';

-- One event on its way to one endpoint.
CREATE TABLE webhook_delivery (
    endpoint_id uuid        NOT NULL,
    event_id    uuid        NOT NULL REFERENCES event (id),
    app_id      uuid        NOT NULL,
    state       text        NOT NULL CHECK (state IN ('waiting', 'delivered', 'failed', 'cancelled')),
    attempts    int         NOT NULL DEFAULT 0,          -- ever claimed: an outcome counts only for the newest
    tries       int         NOT NULL DEFAULT 0,          -- of them, since it was queued or replayed: the next wait follows from it
    due_at      timestamptz,                             -- waits for this, or for the end of the attempt under way; null: does not wait
    status      int,                                     -- of the newest answer; null: there was none
    error       text        NOT NULL DEFAULT '',         -- why the newest attempt failed
    log         jsonb       NOT NULL DEFAULT '[]',       -- the newest attempts, oldest first: [{"at","status","ms","error","body"}]
    created_at  timestamptz NOT NULL,
    settled_at  timestamptz,                             -- when it stopped waiting
    PRIMARY KEY (endpoint_id, event_id),
    FOREIGN KEY (app_id, endpoint_id) REFERENCES webhook_endpoint (app_id, id)
);
-- What is due at an endpoint is at the front of this one.
CREATE INDEX webhook_delivery_due ON webhook_delivery (endpoint_id, due_at) WHERE state = 'waiting';

-- An app's events in their order.
CREATE INDEX event_app ON event (app_id, at, id);
