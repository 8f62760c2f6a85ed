-- Merges: what was done in a temporary account becomes part of the person's own.

ALTER TABLE account ADD COLUMN birth_date date;           -- null: not told
ALTER TABLE account ADD COLUMN merged_into uuid;          -- of a merged one: the account that lives on, never itself a merged one
CREATE INDEX account_merged ON account (merged_into) WHERE merged_into IS NOT NULL;

-- Folds a temporary account, the absorbed one, into the person's own, which
-- lives on: the survivor.
CREATE TABLE merge (
    id           uuid        PRIMARY KEY,
    app_id       uuid        NOT NULL,
    company_id   uuid        NOT NULL,                   -- whose temporary account it is
    request_id   uuid        NOT NULL REFERENCES access_request (id), -- the granted one that allows it
    survivor_id  uuid        NOT NULL,
    absorbed_id  uuid        NOT NULL,
    actor_id     uuid,                                   -- who confirmed it; null: nobody yet, or the app's policy
    state        text        NOT NULL CHECK (state IN ('previewed', 'needs_resolution', 'confirmed', 'running', 'merged', 'finalized', 'failed', 'cancelled', 'undoing', 'undone')),
    step         text        NOT NULL DEFAULT '' CHECK (step IN ('', 'preparing', 'moved', 'restored', 'released')), -- how far the work on the state has come
    preview      jsonb       NOT NULL,                   -- what moves, and the conflicts, as they were shown
    hash         bytea       NOT NULL,                   -- of all that the preview depends on
    same_person  bytea,                                  -- the question that was answered with yes; null: none was
    keep         jsonb,                                  -- of an undo: what to do with rows that were edited since
    failure      text        NOT NULL DEFAULT '',        -- why it failed or was cancelled: a code
    created_at   timestamptz NOT NULL,
    confirmed_at timestamptz,
    moved_at     timestamptz,                            -- when the rows were
    merged_at    timestamptz,                            -- when the app had done its part as well
    undo_until   timestamptz,
    ended_at     timestamptz,                            -- finalized, failed, cancelled or undone
    FOREIGN KEY (app_id, company_id) REFERENCES company (app_id, id),
    FOREIGN KEY (app_id, survivor_id) REFERENCES account (app_id, id),
    FOREIGN KEY (app_id, absorbed_id) REFERENCES account (app_id, id)
);
-- An account is folded away at most once, and takes in one other at a time.
CREATE UNIQUE INDEX merge_absorbed ON merge (absorbed_id) WHERE state NOT IN ('failed', 'cancelled', 'undone');
CREATE UNIQUE INDEX merge_running ON merge (survivor_id) WHERE state IN ('confirmed', 'running', 'undoing');
CREATE INDEX merge_telling ON merge (id) WHERE step = 'preparing';
CREATE INDEX merge_survivor ON merge (survivor_id, id);
CREATE INDEX merge_request ON merge (request_id);
CREATE INDEX merge_app ON merge (app_id, state, id);
CREATE INDEX merge_due ON merge (undo_until, id) WHERE state = 'merged';

-- Every row that a merge changed, as it was before and as the merge left it:
-- what an undo goes by. It goes when the merge is final.
CREATE TABLE merge_change (
    merge_id uuid   NOT NULL REFERENCES merge (id),
    n        bigint GENERATED ALWAYS AS IDENTITY,
    what     text   NOT NULL,                            -- which change: the table, and for accounts the part of it
    before   jsonb,                                      -- null: the merge made the row
    after    jsonb  NOT NULL,
    PRIMARY KEY (merge_id, n)
);

-- Where an app is called about its merges; none: Usher merges its own rows only.
ALTER TABLE webhook_endpoint ADD COLUMN merges boolean NOT NULL DEFAULT false;
CREATE UNIQUE INDEX webhook_endpoint_merges ON webhook_endpoint (app_id) WHERE merges AND state <> 'deleted';

-- What points to an account that is folded away.
CREATE INDEX access_request_target ON access_request (target_id) WHERE target_id IS NOT NULL;
CREATE INDEX invitation_account ON invitation (account_id) WHERE account_id IS NOT NULL;
