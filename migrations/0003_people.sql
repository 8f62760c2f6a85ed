-- People, what they share, and what awaits them.

-- How text is compared when people are searched: small letters, no accents. The
-- letters that Unicode does not take apart are listed.
CREATE FUNCTION fold(value text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT regexp_replace(translate(normalize(lower(value), NFD), 'øłđıæœß', 'oldiaos'), '[\u0300-\u036f]', '', 'g')
$$;

-- What an account is found by: its address, and its name once from each of its
-- words on ('maria lindqvist', 'lindqvist maria').
CREATE FUNCTION search_keys(full_name text, email_key text) RETURNS SETOF text LANGUAGE sql IMMUTABLE AS $$
    WITH word AS (SELECT w, n FROM regexp_split_to_table(fold(full_name), '[\s''’.,-]+') WITH ORDINALITY AS s (w, n) WHERE w <> '')
    SELECT DISTINCT key FROM (
        SELECT (SELECT string_agg(w, ' ' ORDER BY n < first.n, n) FROM word) AS key FROM word AS first WHERE first.n <= 8
        UNION ALL SELECT fold(email_key)) AS keys
    WHERE key <> ''
$$;

-- One policy for each app that has its own; others follow the defaults.
CREATE TABLE policy (
    app_id     uuid        PRIMARY KEY REFERENCES app (id),
    version    int         NOT NULL,
    settings   jsonb       NOT NULL,                     -- only what differs from the defaults
    updated_at timestamptz NOT NULL
);

ALTER TABLE account ADD COLUMN username text NOT NULL DEFAULT ''; -- lower-case; empty: none
ALTER TABLE account ADD COLUMN password_version int NOT NULL DEFAULT 0; -- links to set a password carry it
ALTER TABLE account ADD COLUMN password_asked_at timestamptz; -- when the newest mail with such a link was asked for
CREATE UNIQUE INDEX account_username ON account (app_id, username) WHERE username <> '';

-- Further addresses of a person. Nobody logs in by them.
CREATE TABLE secondary_email (
    app_id     uuid        NOT NULL,
    account_id uuid        NOT NULL,
    email      text        NOT NULL,                     -- as typed
    email_key  text        NOT NULL,                     -- as compared
    created_at timestamptz NOT NULL,
    PRIMARY KEY (account_id, email_key),
    FOREIGN KEY (app_id, account_id) REFERENCES account (app_id, id)
);
CREATE INDEX secondary_email_key ON secondary_email (app_id, email_key);

-- The kind stands before the key, so that the few professionals among many
-- clients are found as fast as anybody.
CREATE TABLE account_search (
    app_id     uuid NOT NULL,
    kind       text NOT NULL,                            -- of the account
    key        text COLLATE "C" NOT NULL,                -- of search_keys
    account_id uuid NOT NULL,
    PRIMARY KEY (app_id, kind, key, account_id),
    FOREIGN KEY (app_id, account_id) REFERENCES account (app_id, id)
);
CREATE INDEX account_search_account ON account_search (account_id);
INSERT INTO account_search (app_id, kind, key, account_id)
SELECT app_id, kind, key, id FROM account, search_keys(full_name, email_key) AS key WHERE status NOT IN ('merged', 'archived');
-- Walking through an app's people and companies.
CREATE INDEX account_list ON account (app_id, kind, id) WHERE status NOT IN ('merged', 'archived');
CREATE INDEX company_list ON company (app_id, id);

CREATE INDEX session_account ON session (account_id);

-- A reference to something the app keeps for an account.
CREATE TABLE record (
    id          uuid        PRIMARY KEY,
    app_id      uuid        NOT NULL,
    account_id  uuid        NOT NULL,
    kind        text        NOT NULL,                    -- the app's own word: 'programme'
    external_id text        NOT NULL,                    -- the app's own id
    created_at  timestamptz NOT NULL,
    UNIQUE (app_id, kind, external_id),
    FOREIGN KEY (app_id, account_id) REFERENCES account (app_id, id)
);
CREATE INDEX record_account ON record (account_id, id);

CREATE INDEX company_member_account ON company_member (account_id);

ALTER TABLE workspace ADD COLUMN kind text NOT NULL DEFAULT 'client_file' CHECK (kind IN ('client_file', 'company', 'private'));
ALTER TABLE workspace ADD COLUMN archived_at timestamptz;
CREATE INDEX workspace_company ON workspace (company_id, id);

ALTER TABLE membership ADD COLUMN visibility text NOT NULL DEFAULT 'full' CHECK (visibility IN ('basic', 'standard', 'full'));
ALTER TABLE membership ADD COLUMN origin_workspace_id uuid; -- where somebody was added from
ALTER TABLE membership ADD COLUMN added_by uuid;            -- the account that added them, or invited them
ALTER TABLE membership ADD COLUMN archived_at timestamptz;
ALTER TABLE membership ADD COLUMN seen_at timestamptz;      -- when the person first saw the workspace in their list; null: it is new to them
ALTER TABLE membership ADD COLUMN notice_due boolean NOT NULL DEFAULT false; -- the person is yet to be told
UPDATE membership SET seen_at = created_at; -- nobody is told anew of what they have
CREATE INDEX membership_account ON membership (account_id, workspace_id);
CREATE INDEX membership_notice ON membership (account_id) WHERE notice_due;

-- The texts that people ticked before they invited somebody from outside.
CREATE TABLE warning (
    id         uuid        PRIMARY KEY,
    app_id     uuid        NOT NULL REFERENCES app (id),
    hash       bytea       NOT NULL,                     -- SHA-256 of text
    text       text        NOT NULL,
    created_at timestamptz NOT NULL,
    UNIQUE (app_id, hash)
);

ALTER TABLE invitation DROP CONSTRAINT invitation_kind_check;
ALTER TABLE invitation ADD CONSTRAINT invitation_kind_check CHECK (kind IN ('new_user', 'external_professional', 'colleague', 'existing_user'));
ALTER TABLE invitation ADD COLUMN visibility text NOT NULL DEFAULT 'full' CHECK (visibility IN ('basic', 'standard', 'full'));
ALTER TABLE invitation ADD COLUMN warning_id uuid REFERENCES warning (id); -- what its inviter acknowledged, at created_at
ALTER TABLE invitation ADD COLUMN origin_workspace_id uuid;
ALTER TABLE invitation ADD COLUMN held_for text NOT NULL DEFAULT '' CHECK (held_for IN ('', 'inviter')); -- on_hold: empty for its mail's sake; 'inviter': whoever invited may no longer

-- Lists of invitations, newest first, in a state or in all of them one by one:
-- a state that is rare is found as fast as another. The key that these make
-- superfluous goes.
DROP INDEX invitation_workspace;
CREATE INDEX invitation_workspace ON invitation (app_id, workspace_id, state, id);
CREATE INDEX invitation_app ON invitation (app_id, state, id);
ALTER TABLE invitation DROP CONSTRAINT invitation_app_id_id_key;

-- What is open by whoever invited, for when they may no longer.
CREATE INDEX invitation_inviter ON invitation (inviter_id) WHERE state IN ('pending', 'on_hold');

-- A person's inbox. What became of the item's subject is the subject's own word.
CREATE TABLE notification (
    id          uuid        PRIMARY KEY,
    app_id      uuid        NOT NULL,
    account_id  uuid        NOT NULL,                    -- whose inbox
    kind        text        NOT NULL CHECK (kind IN ('invitation', 'workspaces')),
    subject_id  uuid        NOT NULL,                    -- the invitation; of 'workspaces', the notification itself
    data        jsonb       NOT NULL DEFAULT '{}',       -- of 'workspaces': their ids
    view        text        NOT NULL DEFAULT 'unread' CHECK (view IN ('unread', 'read', 'archived')),
    created_at  timestamptz NOT NULL,
    read_at     timestamptz,
    archived_at timestamptz,
    UNIQUE (subject_id, account_id),
    FOREIGN KEY (app_id, account_id) REFERENCES account (app_id, id)
);
CREATE INDEX notification_inbox ON notification (account_id, id);
CREATE INDEX notification_unread ON notification (account_id, id) WHERE view = 'unread';
