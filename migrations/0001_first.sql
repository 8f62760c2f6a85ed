-- Every row belongs to an app, and foreign keys carry the app's id with them:
-- a row that pointed into another app could not be stored. The keys they point
-- to begin with the id, so that no query for an app's rows is tempted by them.

CREATE TABLE app (
    id            uuid        PRIMARY KEY,
    name          text        NOT NULL,
    url           text        NOT NULL DEFAULT '',       -- where people go after they accepted
    locale        text        NOT NULL DEFAULT 'en',
    time_zone     text        NOT NULL DEFAULT 'UTC',
    brand_color   text        NOT NULL DEFAULT '',       -- #rrggbb
    logo_url      text        NOT NULL DEFAULT '',
    support_email text        NOT NULL DEFAULT '',
    mail_from     text        NOT NULL DEFAULT '',       -- empty: the installation's sender
    created_at    timestamptz NOT NULL
);

CREATE TABLE api_key (
    id         uuid        PRIMARY KEY,
    app_id     uuid        NOT NULL REFERENCES app (id),
    name       text        NOT NULL,
    prefix     text        NOT NULL,                     -- the first characters, to tell keys apart
    hash       bytea       NOT NULL UNIQUE,              -- SHA-256 of the whole key
    created_at timestamptz NOT NULL,
    revoked_at timestamptz
);
CREATE INDEX api_key_app ON api_key (app_id, id);

CREATE TABLE account (
    id            uuid        PRIMARY KEY,
    app_id        uuid        NOT NULL REFERENCES app (id),
    kind          text        NOT NULL CHECK (kind IN ('professional', 'client')),
    status        text        NOT NULL CHECK (status IN ('invited', 'active', 'temporary', 'merged', 'archived')),
    full_name     text        NOT NULL,
    email         text        NOT NULL,                  -- as typed
    email_key     text        NOT NULL,                  -- as compared
    locale        text        NOT NULL DEFAULT '',       -- empty: the app's
    time_zone     text        NOT NULL DEFAULT '',       -- empty: the company's, then the app's
    password_hash text        NOT NULL DEFAULT '',       -- argon2id, PHC string; empty: none yet
    failed_logins int         NOT NULL DEFAULT 0,
    locked_until  timestamptz,
    created_at    timestamptz NOT NULL,
    UNIQUE (id, app_id)
);
CREATE UNIQUE INDEX account_email ON account (app_id, email_key) WHERE status NOT IN ('merged', 'archived');

CREATE TABLE company (
    id         uuid        PRIMARY KEY,
    app_id     uuid        NOT NULL REFERENCES app (id),
    name       text        NOT NULL,
    time_zone  text        NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL,
    UNIQUE (id, app_id)
);

CREATE TABLE company_member (
    app_id     uuid        NOT NULL,
    company_id uuid        NOT NULL,
    account_id uuid        NOT NULL,
    role       text        NOT NULL CHECK (role IN ('admin', 'member')),
    created_at timestamptz NOT NULL,
    PRIMARY KEY (company_id, account_id),
    FOREIGN KEY (app_id, company_id) REFERENCES company (app_id, id),
    FOREIGN KEY (app_id, account_id) REFERENCES account (app_id, id)
);

CREATE TABLE workspace (
    id         uuid        PRIMARY KEY,
    app_id     uuid        NOT NULL,
    company_id uuid        NOT NULL,
    name       text        NOT NULL,
    state      text        NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'archived')),
    created_at timestamptz NOT NULL,
    UNIQUE (id, app_id),
    FOREIGN KEY (app_id, company_id) REFERENCES company (app_id, id)
);

CREATE TABLE membership (
    app_id       uuid        NOT NULL,
    workspace_id uuid        NOT NULL,
    account_id   uuid        NOT NULL,
    role         text        NOT NULL CHECK (role IN ('stakeholder', 'client_user')),
    state        text        NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'archived')),
    created_at   timestamptz NOT NULL,
    PRIMARY KEY (workspace_id, account_id),
    FOREIGN KEY (app_id, workspace_id) REFERENCES workspace (app_id, id),
    FOREIGN KEY (app_id, account_id) REFERENCES account (app_id, id)
);

CREATE TABLE invitation (
    id               uuid        PRIMARY KEY,
    app_id           uuid        NOT NULL,
    workspace_id     uuid        NOT NULL,
    inviter_id       uuid        NOT NULL,
    kind             text        NOT NULL CHECK (kind IN ('new_user')),
    email            text        NOT NULL,               -- as typed
    email_key        text        NOT NULL,               -- as compared
    full_name        text        NOT NULL,
    locale           text        NOT NULL,               -- as asked for; empty: the app's
    note             text        NOT NULL,               -- the inviter's own words
    state            text        NOT NULL CHECK (state IN ('pending', 'on_hold', 'accepted', 'declined', 'revoked', 'superseded', 'expired')),
    delivery         text        NOT NULL CHECK (delivery IN ('none', 'queued', 'sending', 'accepted', 'failed')),
    version          int         NOT NULL DEFAULT 1,     -- links carry it: raising it kills every older link
    sends            int         NOT NULL,               -- mails asked for within this version's life
    reopens          int         NOT NULL DEFAULT 0,
    queued_at        timestamptz,                        -- when the newest mail was asked for
    expires_at       timestamptz NOT NULL,
    decided_at       timestamptz,                        -- when it left the open states
    account_id       uuid,                               -- who accepted
    renewal_asked_at timestamptz,
    created_at       timestamptz NOT NULL,
    UNIQUE (app_id, id),
    FOREIGN KEY (app_id, workspace_id) REFERENCES workspace (app_id, id),
    FOREIGN KEY (app_id, inviter_id) REFERENCES account (app_id, id),
    FOREIGN KEY (app_id, account_id) REFERENCES account (app_id, id)
);
-- At most one open invitation per workspace and address. The app is left out on
-- purpose: a workspace belongs to one app, and an index that begins like
-- invitation_workspace looks no better than that one to a planner that has no
-- statistics yet.
CREATE UNIQUE INDEX invitation_open ON invitation (workspace_id, email_key) WHERE state IN ('pending', 'on_hold');
-- The expiry sweep reads what is due from the front of this one.
CREATE INDEX invitation_due ON invitation (expires_at) WHERE state IN ('pending', 'on_hold');
-- Listing a workspace's invitations, newest first: ids grow with time.
CREATE INDEX invitation_workspace ON invitation (app_id, workspace_id, id);

CREATE TABLE event (
    id           uuid        PRIMARY KEY,
    app_id       uuid        NOT NULL REFERENCES app (id),
    type         text        NOT NULL,                   -- 'invitation.accepted'
    subject_id   uuid        NOT NULL,                   -- the invitation's id
    actor_id     uuid,                                   -- the account that acted; null: the system or a person without an account
    data         jsonb       NOT NULL DEFAULT '{}',
    at           timestamptz NOT NULL
);
CREATE INDEX event_subject ON event (app_id, subject_id, id);

CREATE TABLE idempotency_key (
    app_id     uuid        NOT NULL REFERENCES app (id),
    route      text        NOT NULL,
    key        text        NOT NULL,
    body_hash  bytea       NOT NULL,                     -- SHA-256 of who asked for what
    answer     jsonb       NOT NULL,                     -- the first answer, without links: they are recomputed
    created_at timestamptz NOT NULL,
    PRIMARY KEY (app_id, route, key)
);

-- One e-mail, frozen: what is sent again after an unknown outcome is these
-- bytes under this id, never a new rendering.
CREATE TABLE message (
    id          uuid        PRIMARY KEY,
    app_id      uuid        NOT NULL REFERENCES app (id),
    dedupe_key  text        NOT NULL UNIQUE,             -- 'invitation:<id>:v1:send:1'
    subject_id  uuid        NOT NULL,                    -- what it is about: the invitation's id
    sender      text        NOT NULL,
    recipient   text        NOT NULL,
    subject     text        NOT NULL,
    text        text        NOT NULL,
    html        text        NOT NULL,
    state       text        NOT NULL CHECK (state IN ('sending', 'accepted', 'failed', 'uncertain')),
    provider_id text        NOT NULL DEFAULT '',
    error       text        NOT NULL DEFAULT '',
    first_attempt_at timestamptz,                        -- replays end 23 h after it: the provider forgets keys after 24 h
    attempts    int         NOT NULL DEFAULT 0,
    created_at  timestamptz NOT NULL,
    settled_at  timestamptz
);
CREATE INDEX message_subject ON message (app_id, subject_id, id);

-- The development mailbox: mail that was sent to nobody, to be read at
-- /dev/mailbox.
CREATE TABLE dev_mail (
    id         uuid        PRIMARY KEY,                  -- the message's id: sending twice stores once
    recipient  text        NOT NULL,
    email_key  text        NOT NULL,
    sender     text        NOT NULL,
    subject    text        NOT NULL,
    text       text        NOT NULL,
    html       text        NOT NULL,
    created_at timestamptz NOT NULL
);
CREATE INDEX dev_mail_recipient ON dev_mail (email_key, id);

CREATE TABLE session (
    hash       bytea       PRIMARY KEY,                  -- SHA-256 of the cookie's value
    app_id     uuid        NOT NULL,
    account_id uuid        NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    FOREIGN KEY (app_id, account_id) REFERENCES account (app_id, id)
);
CREATE INDEX session_expiry ON session (expires_at);
