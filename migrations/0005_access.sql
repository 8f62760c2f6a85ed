-- Access to people who have an account already, and merges of the accounts that
-- were made meanwhile.

ALTER TABLE account ALTER COLUMN email_key DROP NOT NULL; -- null: no address of their own; they log in by username
ALTER TABLE account ADD CONSTRAINT account_email_check CHECK ((email = '') = (email_key IS NULL));
ALTER TABLE account ADD COLUMN birth_date date;           -- null: not told
ALTER TABLE account ADD COLUMN merged_into uuid;          -- of a merged one: the account that lives on, never itself a merged one
ALTER TABLE account ADD COLUMN unclaimed boolean NOT NULL DEFAULT false; -- made for a person who has not set a password yet
CREATE INDEX account_merged ON account (merged_into) WHERE merged_into IS NOT NULL;

-- A company asks the holder of an address for access to the account they have.
-- Approved is one whose holder said yes by the mail but has yet to log in, which
-- grants it.
CREATE TABLE access_request (
    id           uuid        PRIMARY KEY,
    app_id       uuid        NOT NULL,
    company_id   uuid        NOT NULL,                   -- who is to have access
    requester_id uuid        NOT NULL,                   -- the professional who asked
    option       text        NOT NULL CHECK (option IN ('request', 'new_account', 'request_with_temporary')),
    target_id    uuid,                                   -- the account asked for; null: several have the address, and its holder says which, or option new_account
    made_id      uuid,                                   -- the account made meanwhile
    email        text        NOT NULL,                   -- as typed
    email_key    text        NOT NULL,                   -- as compared
    full_name    text        NOT NULL,                   -- as typed by the requester
    locale       text        NOT NULL,                   -- empty: the person's, then the app's
    note         text        NOT NULL,
    state        text        NOT NULL CHECK (state IN ('pending', 'on_hold', 'approved', 'granted', 'denied', 'expired', 'cancelled', 'revoked')),
    version      int         NOT NULL DEFAULT 1,         -- links carry it
    sends        int         NOT NULL DEFAULT 1,
    message_id   uuid,                                   -- its newest mail
    queued_at    timestamptz,                            -- when that was asked for
    visibility   text        CHECK (visibility IN ('basic', 'standard', 'full')), -- what the client chose
    reported     boolean     NOT NULL DEFAULT false,     -- the client said that it was not them
    evidence     jsonb,                                  -- of an authorization by hand: operator, statement, reference
    expires_at   timestamptz NOT NULL,
    decided_at   timestamptz,
    decided_by   uuid,                                   -- the account that did; null: nobody who logged in
    created_at   timestamptz NOT NULL,
    FOREIGN KEY (app_id, company_id) REFERENCES company (app_id, id),
    FOREIGN KEY (app_id, requester_id) REFERENCES account (app_id, id),
    FOREIGN KEY (app_id, target_id) REFERENCES account (app_id, id),
    FOREIGN KEY (app_id, made_id) REFERENCES account (app_id, id)
);
-- At most one open request of a company for an address, and for an account.
CREATE UNIQUE INDEX access_request_open ON access_request (company_id, email_key) WHERE state IN ('pending', 'on_hold', 'approved');
CREATE UNIQUE INDEX access_request_open_target ON access_request (company_id, target_id) WHERE state IN ('pending', 'on_hold', 'approved') AND target_id IS NOT NULL;
CREATE INDEX access_request_due ON access_request (expires_at, id) WHERE state IN ('pending', 'on_hold', 'approved');
CREATE INDEX access_request_app ON access_request (app_id, state, id);
CREATE INDEX access_request_company ON access_request (company_id, state, id);
CREATE INDEX access_request_address ON access_request (app_id, email_key, id);
CREATE INDEX access_request_target ON access_request (target_id, id);
CREATE INDEX access_request_made ON access_request (made_id);

-- Whose records a company sees. A row ends; it is not deleted.
CREATE TABLE record_access (
    id         uuid        PRIMARY KEY,
    app_id     uuid        NOT NULL,
    account_id uuid        NOT NULL,                     -- whose records
    company_id uuid        NOT NULL,                     -- who sees them
    visibility text        NOT NULL CHECK (visibility IN ('basic', 'standard', 'full')),
    request_id uuid        REFERENCES access_request (id), -- what opened it
    granted_at timestamptz NOT NULL,
    revoked_at timestamptz,
    FOREIGN KEY (app_id, account_id) REFERENCES account (app_id, id),
    FOREIGN KEY (app_id, company_id) REFERENCES company (app_id, id)
);
CREATE UNIQUE INDEX record_access_open ON record_access (account_id, company_id) WHERE revoked_at IS NULL;
CREATE INDEX record_access_company ON record_access (company_id, account_id) WHERE revoked_at IS NULL;
CREATE INDEX record_access_request ON record_access (request_id);

ALTER TABLE notification DROP CONSTRAINT notification_kind_check;
ALTER TABLE notification ADD CONSTRAINT notification_kind_check CHECK (kind IN ('invitation', 'workspaces', 'access_request'));

-- Folds a temporary account, the absorbed one, into the person's own, which
-- lives on: the survivor.
CREATE TABLE merge (
    id           uuid        PRIMARY KEY,
    app_id       uuid        NOT NULL,
    company_id   uuid        NOT NULL,
    request_id   uuid        NOT NULL REFERENCES access_request (id), -- the granted one that allows it
    survivor_id  uuid        NOT NULL,
    absorbed_id  uuid        NOT NULL,
    actor_id     uuid,                                   -- who confirmed it; null: the app's policy did
    state        text        NOT NULL CHECK (state IN ('previewed', 'needs_resolution', 'confirmed', 'running', 'merged', 'finalized', 'failed', 'cancelled', 'undoing', 'undone')),
    step         text        NOT NULL DEFAULT '',        -- the last that was done of the running or the undoing
    hash         bytea       NOT NULL,                   -- of the preview that the confirmation was of
    resolutions  jsonb       NOT NULL DEFAULT '{}',      -- an answer for each conflict that needed one
    failure      text        NOT NULL DEFAULT '',        -- why it failed or was cancelled: a code
    created_at   timestamptz NOT NULL,
    confirmed_at timestamptz,
    merged_at    timestamptz,
    undo_until   timestamptz,
    ended_at     timestamptz,                            -- finalized, failed, cancelled or undone
    FOREIGN KEY (app_id, company_id) REFERENCES company (app_id, id),
    FOREIGN KEY (app_id, survivor_id) REFERENCES account (app_id, id),
    FOREIGN KEY (app_id, absorbed_id) REFERENCES account (app_id, id)
);
-- An account is folded away at most once, and takes in one other at a time.
CREATE UNIQUE INDEX merge_absorbed ON merge (absorbed_id) WHERE state NOT IN ('failed', 'cancelled', 'undone');
CREATE UNIQUE INDEX merge_running ON merge (survivor_id) WHERE state IN ('confirmed', 'running', 'undoing');
CREATE INDEX merge_survivor ON merge (survivor_id, id);
CREATE INDEX merge_request ON merge (request_id);
CREATE INDEX merge_app ON merge (app_id, state, id);
CREATE INDEX merge_due ON merge (undo_until, id) WHERE state = 'merged';

-- Every row that a merge changed, as it was before and as it left it: what an
-- undo goes by.
CREATE TABLE merge_change (
    merge_id   uuid   NOT NULL REFERENCES merge (id),
    n          bigint NOT NULL,                          -- in the order of the changes
    table_name text   NOT NULL,
    row_key    jsonb  NOT NULL,                          -- its primary key
    before     jsonb,                                    -- null: the merge made the row
    after      jsonb,                                    -- null: the merge removed it
    PRIMARY KEY (merge_id, n)
);

-- Where an app is called about its merges; none: Usher merges its own rows only.
ALTER TABLE webhook_endpoint ADD COLUMN merges boolean NOT NULL DEFAULT false;
CREATE UNIQUE INDEX webhook_endpoint_merges ON webhook_endpoint (app_id) WHERE merges AND state <> 'deleted';
