-- Access to people who have an account already.

ALTER TABLE account ALTER COLUMN email_key DROP NOT NULL; -- null: no address of their own; they log in by username
ALTER TABLE account ADD CONSTRAINT account_email_check CHECK ((email = '') = (email_key IS NULL));
ALTER TABLE account ADD COLUMN unclaimed boolean NOT NULL DEFAULT false; -- made for a person who has not set a password yet

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

ALTER TABLE notification DROP CONSTRAINT notification_kind_check;
ALTER TABLE notification ADD CONSTRAINT notification_kind_check CHECK (kind IN ('invitation', 'workspaces', 'access_request'));
