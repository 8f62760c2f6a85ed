-- The mail engine. A message is one e-mail, asked for in the transaction of the
-- action it follows from. A dispatch is one request to the provider, its bytes
-- frozen, carrying 1 to 100 messages. An address remembers whether it can be
-- written to.

ALTER TABLE message RENAME TO message_before;
ALTER TABLE message_before RENAME CONSTRAINT message_pkey TO message_before_pkey;
DROP INDEX message_subject;

CREATE TABLE message (
    id          uuid        PRIMARY KEY,                 -- travels with the mail as its tag message_id
    app_id      uuid        NOT NULL REFERENCES app (id),
    kind        text        NOT NULL,                    -- which letter: 'invitation', 'reminder', 'news'
    subject_id  uuid        NOT NULL,                    -- what it is about: the invitation's id
    purpose     text        NOT NULL,                    -- at most one message of a subject ever has it: 'v1:send:1'
    args        jsonb       NOT NULL DEFAULT '{}',       -- what the late check compares: {"version":1,"send":1}
    lane        text        NOT NULL CHECK (lane IN ('interactive', 'bulk')),
    email_key   text        NOT NULL,                    -- to whom, as compared
    state       text        NOT NULL CHECK (state IN ('queued', 'held', 'sending', 'accepted', 'delayed', 'delivered',
                                'bounced', 'complained', 'suppressed', 'failed', 'cancelled', 'uncertain')),
    reason      text        NOT NULL DEFAULT '',         -- why it is held or ended so, for the operator
    due_at      timestamptz,                             -- waits to be composed, not before this; null: does not wait
    dispatch_id uuid,                                    -- the newest dispatch it was frozen into
    sender      text        NOT NULL DEFAULT '',         -- these three as frozen
    recipient   text        NOT NULL DEFAULT '',
    subject     text        NOT NULL DEFAULT '',
    provider_id text        NOT NULL DEFAULT '',
    created_at  timestamptz NOT NULL,
    settled_at  timestamptz,                             -- when the provider's answer, or the end before one, was recorded
    fact_at     timestamptz,                             -- the provider's time of the newest fact that counted
    UNIQUE (subject_id, purpose)
) WITH (fillfactor = 70); -- its state changes a few times, in place: no index mentions it
-- The composer reads what is due from the front of this one.
CREATE INDEX message_due ON message (lane, due_at, id) WHERE due_at IS NOT NULL;
-- Everything a person was written, newest first.
CREATE INDEX message_person ON message (app_id, email_key, id);
CREATE INDEX message_app ON message (app_id, id);

CREATE TABLE dispatch (
    id               uuid        PRIMARY KEY,            -- the Idempotency-Key
    lane             text        NOT NULL CHECK (lane IN ('interactive', 'bulk')),
    endpoint         text        NOT NULL CHECK (endpoint IN ('/emails', '/emails/batch')),
    message_ids      uuid[]      NOT NULL,               -- in the order of the body
    body             bytea,                              -- what is sent, to the byte; null once nothing will be sent again
    state            text        NOT NULL CHECK (state IN ('ready', 'sending', 'settled', 'dissolved', 'uncertain')),
    attempts         int         NOT NULL DEFAULT 0,
    unknown          int         NOT NULL DEFAULT 0,     -- attempts whose outcome nobody knows; 0: a new key is safe
    first_attempt_at timestamptz,                        -- replays end 23 h after it: the provider forgets keys after 24 h
    last_attempt_at  timestamptz,                        -- what it sent, it sent between the two
    outcome          text        NOT NULL DEFAULT '',    -- of the newest attempt, for the operator
    created_at       timestamptz NOT NULL,
    settled_at       timestamptz
);
ALTER TABLE dispatch ALTER COLUMN body SET STORAGE EXTERNAL; -- it comes compressed
CREATE INDEX dispatch_open ON dispatch (lane, id) WHERE state IN ('ready', 'sending');
CREATE INDEX dispatch_uncertain ON dispatch (id) WHERE state = 'uncertain'; -- the way to uncertain messages, too

-- The limiter all processes share, one row for each way out.
CREATE TABLE pace (
    id             text        PRIMARY KEY,
    rate           float8      NOT NULL,                 -- requests a second, as the provider announced
    tat            timestamptz NOT NULL DEFAULT 'epoch', -- when the next request may start
    blocked_until  timestamptz NOT NULL DEFAULT 'epoch', -- nothing is sent before this
    blocked_since  timestamptz,                          -- null: mail flows
    blocked_reason text        NOT NULL DEFAULT ''
);
INSERT INTO pace (id, rate) VALUES ('resend', 2), ('mailbox', 100000);

CREATE TABLE address (
    app_id          uuid        NOT NULL REFERENCES app (id),
    email_key       text        NOT NULL,
    block           text        NOT NULL DEFAULT '' CHECK (block IN ('', 'hard', 'provider', 'complaint')),
    detail          text        NOT NULL DEFAULT '',     -- what the mail server said: '550 5.1.1 …'
    blocked_at      timestamptz,
    lifted_at       timestamptz,                         -- when somebody last said that the mailbox exists
    soft_bounces    int         NOT NULL DEFAULT 0,
    soft_at         timestamptz,                         -- of the newest that counted
    unsubscribed_at timestamptz,                         -- from reminders
    PRIMARY KEY (app_id, email_key)
);
CREATE INDEX address_blocked ON address (app_id, email_key) WHERE block <> '';

-- The provider refused the app's sender: its mail waits, other apps' does not.
ALTER TABLE app ADD COLUMN mail_stopped_until  timestamptz;
ALTER TABLE app ADD COLUMN mail_stopped_reason text NOT NULL DEFAULT '';

-- What the provider told us, once each.
CREATE TABLE provider_event (
    id          text        PRIMARY KEY,                 -- svix-id
    type        text        NOT NULL,                    -- 'email.bounced'
    message_id  uuid,                                    -- from the mail's tag; null: not our mail
    provider_id text        NOT NULL DEFAULT '',
    body        jsonb       NOT NULL,
    at          timestamptz NOT NULL,                    -- the provider's time
    received_at timestamptz NOT NULL,
    applied_at  timestamptz,
    outcome     text        NOT NULL DEFAULT ''          -- what it changed, for the operator
);
CREATE INDEX provider_event_message ON provider_event (message_id, at) WHERE message_id IS NOT NULL;
CREATE INDEX provider_event_received ON provider_event (received_at); -- when it last spoke

INSERT INTO message (id, app_id, kind, subject_id, purpose, lane, email_key, state, reason, sender, recipient, subject, provider_id, created_at, settled_at)
SELECT id, app_id, CASE WHEN dedupe_key LIKE 'news:%' THEN 'news' ELSE 'invitation' END, subject_id, dedupe_key, 'interactive', lower(recipient),
    CASE state WHEN 'sending' THEN 'uncertain' ELSE state END, error, sender, recipient, subject, provider_id, created_at, settled_at
FROM message_before;
DROP TABLE message_before;
-- Each was a request of its own, under its own id.
INSERT INTO dispatch (id, lane, endpoint, message_ids, state, attempts, unknown, first_attempt_at, last_attempt_at, created_at, settled_at)
SELECT id, lane, '/emails', ARRAY[id], 'uncertain', 1, 1, created_at, COALESCE(settled_at, created_at), created_at, now() FROM message WHERE state = 'uncertain';
UPDATE message SET dispatch_id = id WHERE state = 'uncertain';

-- What waited for its job, which no longer exists, waits for the composer.
INSERT INTO message (id, app_id, kind, subject_id, purpose, args, lane, email_key, state, due_at, created_at)
SELECT gen_random_uuid(), app_id, 'invitation', id, 'v' || version || ':send:' || sends, jsonb_build_object('version', version, 'send', sends),
    'interactive', email_key, 'queued', now(), COALESCE(queued_at, created_at)
FROM invitation WHERE delivery = 'queued' AND state = 'pending';

-- How the newest mail fares is the message's own word.
ALTER TABLE invitation ADD COLUMN message_id uuid;       -- the newest mail; null: nobody asked for one
UPDATE invitation SET message_id = (
    SELECT id FROM message WHERE message.subject_id = invitation.id AND kind = 'invitation' ORDER BY id DESC LIMIT 1);
ALTER TABLE invitation DROP COLUMN delivery;
-- Everything a person was invited to, whether by mail or not. The address comes
-- first for the reason given at invitation_open.
CREATE INDEX invitation_person ON invitation (email_key, app_id);
