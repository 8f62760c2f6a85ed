-- The schema that the migrations build, River's tables included.
-- Written by 'make schema'; do not edit.

CREATE TYPE river_job_state AS ENUM (
    'available',
    'cancelled',
    'completed',
    'discarded',
    'pending',
    'retryable',
    'running',
    'scheduled'
);

CREATE OR REPLACE FUNCTION public.fold(value text)
 RETURNS text
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
AS $function$
    SELECT regexp_replace(translate(normalize(lower(value), NFD), 'øłđıæœß', 'oldiaos'), '[\u0300-\u036f]', '', 'g')
$function$;

CREATE OR REPLACE FUNCTION public.river_job_state_in_bitmask(bitmask bit, state river_job_state)
 RETURNS boolean
 LANGUAGE sql
 IMMUTABLE
AS $function$
    SELECT CASE state
        WHEN 'available' THEN get_bit(bitmask, 7)
        WHEN 'cancelled' THEN get_bit(bitmask, 6)
        WHEN 'completed' THEN get_bit(bitmask, 5)
        WHEN 'discarded' THEN get_bit(bitmask, 4)
        WHEN 'pending'   THEN get_bit(bitmask, 3)
        WHEN 'retryable' THEN get_bit(bitmask, 2)
        WHEN 'running'   THEN get_bit(bitmask, 1)
        WHEN 'scheduled' THEN get_bit(bitmask, 0)
        ELSE 0
    END = 1;
$function$;

CREATE OR REPLACE FUNCTION public.search_keys(full_name text, email_key text)
 RETURNS SETOF text
 LANGUAGE sql
 IMMUTABLE
AS $function$
    WITH word AS (SELECT w, n FROM regexp_split_to_table(fold(full_name), '[\s''’.,-]+') WITH ORDINALITY AS s (w, n) WHERE w <> '')
    SELECT DISTINCT key FROM (
        SELECT (SELECT string_agg(w, ' ' ORDER BY n < first.n, n) FROM word) AS key FROM word AS first WHERE first.n <= 8
        UNION ALL SELECT fold(email_key)) AS keys
    WHERE key <> ''
$function$;

CREATE TABLE access_request (
    id uuid NOT NULL,
    app_id uuid NOT NULL,
    company_id uuid NOT NULL,
    requester_id uuid NOT NULL,
    option text NOT NULL,
    target_id uuid,
    made_id uuid,
    email text NOT NULL,
    email_key text NOT NULL,
    full_name text NOT NULL,
    locale text NOT NULL,
    note text NOT NULL,
    state text NOT NULL,
    version integer NOT NULL DEFAULT 1,
    sends integer NOT NULL DEFAULT 1,
    message_id uuid,
    queued_at timestamp with time zone,
    visibility text,
    reported boolean NOT NULL DEFAULT false,
    evidence jsonb,
    expires_at timestamp with time zone NOT NULL,
    decided_at timestamp with time zone,
    decided_by uuid,
    created_at timestamp with time zone NOT NULL,
    looked_after boolean NOT NULL DEFAULT false,
    CONSTRAINT access_request_app_id_company_id_fkey FOREIGN KEY (app_id, company_id) REFERENCES company(app_id, id),
    CONSTRAINT access_request_app_id_made_id_fkey FOREIGN KEY (app_id, made_id) REFERENCES account(app_id, id),
    CONSTRAINT access_request_app_id_requester_id_fkey FOREIGN KEY (app_id, requester_id) REFERENCES account(app_id, id),
    CONSTRAINT access_request_app_id_target_id_fkey FOREIGN KEY (app_id, target_id) REFERENCES account(app_id, id),
    CONSTRAINT access_request_option_check CHECK ((option = ANY (ARRAY['request'::text, 'new_account'::text, 'request_with_temporary'::text]))),
    CONSTRAINT access_request_pkey PRIMARY KEY (id),
    CONSTRAINT access_request_state_check CHECK ((state = ANY (ARRAY['pending'::text, 'on_hold'::text, 'approved'::text, 'granted'::text, 'denied'::text, 'expired'::text, 'cancelled'::text, 'revoked'::text]))),
    CONSTRAINT access_request_visibility_check CHECK ((visibility = ANY (ARRAY['basic'::text, 'standard'::text, 'full'::text])))
);
CREATE INDEX access_request_address ON public.access_request USING btree (app_id, email_key, id);
CREATE INDEX access_request_app ON public.access_request USING btree (app_id, state, id);
CREATE INDEX access_request_company ON public.access_request USING btree (company_id, state, id);
CREATE INDEX access_request_due ON public.access_request USING btree (expires_at, id) WHERE (state = ANY (ARRAY['pending'::text, 'on_hold'::text, 'approved'::text]));
CREATE INDEX access_request_forget ON public.access_request USING btree (decided_at) WHERE ((state = ANY (ARRAY['denied'::text, 'expired'::text, 'cancelled'::text])) AND (email <> ''::text));
CREATE INDEX access_request_made ON public.access_request USING btree (made_id);
CREATE UNIQUE INDEX access_request_open ON public.access_request USING btree (company_id, email_key) WHERE (state = ANY (ARRAY['pending'::text, 'on_hold'::text, 'approved'::text]));
CREATE UNIQUE INDEX access_request_open_target ON public.access_request USING btree (company_id, target_id) WHERE ((state = ANY (ARRAY['pending'::text, 'on_hold'::text, 'approved'::text])) AND (target_id IS NOT NULL));
CREATE INDEX access_request_over ON public.access_request USING btree (app_id, option, decided_at) WHERE ((NOT looked_after) AND ((option = 'new_account'::text) OR ((option = 'request_with_temporary'::text) AND (state = ANY (ARRAY['denied'::text, 'expired'::text, 'cancelled'::text])))));
CREATE INDEX access_request_target ON public.access_request USING btree (target_id) WHERE (target_id IS NOT NULL);

CREATE TABLE account (
    id uuid NOT NULL,
    app_id uuid NOT NULL,
    kind text NOT NULL,
    status text NOT NULL,
    full_name text NOT NULL,
    email text NOT NULL,
    email_key text,
    locale text NOT NULL DEFAULT ''::text,
    time_zone text NOT NULL DEFAULT ''::text,
    password_hash text NOT NULL DEFAULT ''::text,
    failed_logins integer NOT NULL DEFAULT 0,
    locked_until timestamp with time zone,
    created_at timestamp with time zone NOT NULL,
    username text NOT NULL DEFAULT ''::text,
    password_version integer NOT NULL DEFAULT 0,
    password_asked_at timestamp with time zone,
    unclaimed boolean NOT NULL DEFAULT false,
    birth_date date,
    merged_into uuid,
    CONSTRAINT account_app_id_fkey FOREIGN KEY (app_id) REFERENCES app(id),
    CONSTRAINT account_email_check CHECK (((email = ''::text) = (email_key IS NULL))),
    CONSTRAINT account_id_app_id_key UNIQUE (id, app_id),
    CONSTRAINT account_kind_check CHECK ((kind = ANY (ARRAY['professional'::text, 'client'::text]))),
    CONSTRAINT account_pkey PRIMARY KEY (id),
    CONSTRAINT account_status_check CHECK ((status = ANY (ARRAY['invited'::text, 'active'::text, 'temporary'::text, 'merged'::text, 'archived'::text])))
);
CREATE UNIQUE INDEX account_email ON public.account USING btree (app_id, email_key) WHERE (status <> ALL (ARRAY['merged'::text, 'archived'::text]));
CREATE INDEX account_list ON public.account USING btree (app_id, kind, id) WHERE (status <> ALL (ARRAY['merged'::text, 'archived'::text]));
CREATE INDEX account_merged ON public.account USING btree (merged_into) WHERE (merged_into IS NOT NULL);
CREATE UNIQUE INDEX account_username ON public.account USING btree (app_id, username) WHERE (username <> ''::text);

CREATE TABLE account_search (
    app_id uuid NOT NULL,
    kind text NOT NULL,
    key text NOT NULL,
    account_id uuid NOT NULL,
    CONSTRAINT account_search_app_id_account_id_fkey FOREIGN KEY (app_id, account_id) REFERENCES account(app_id, id),
    CONSTRAINT account_search_pkey PRIMARY KEY (app_id, kind, key, account_id)
);
CREATE INDEX account_search_account ON public.account_search USING btree (account_id);

CREATE TABLE address (
    app_id uuid NOT NULL,
    email_key text NOT NULL,
    block text NOT NULL DEFAULT ''::text,
    detail text NOT NULL DEFAULT ''::text,
    blocked_at timestamp with time zone,
    lifted_at timestamp with time zone,
    soft_bounces integer NOT NULL DEFAULT 0,
    soft_at timestamp with time zone,
    unsubscribed_at timestamp with time zone,
    CONSTRAINT address_app_id_fkey FOREIGN KEY (app_id) REFERENCES app(id),
    CONSTRAINT address_block_check CHECK ((block = ANY (ARRAY[''::text, 'hard'::text, 'provider'::text, 'complaint'::text]))),
    CONSTRAINT address_pkey PRIMARY KEY (app_id, email_key)
);
CREATE INDEX address_blocked ON public.address USING btree (app_id, email_key) WHERE (block <> ''::text);

CREATE TABLE api_key (
    id uuid NOT NULL,
    app_id uuid NOT NULL,
    name text NOT NULL,
    prefix text NOT NULL,
    hash bytea NOT NULL,
    created_at timestamp with time zone NOT NULL,
    revoked_at timestamp with time zone,
    CONSTRAINT api_key_app_id_fkey FOREIGN KEY (app_id) REFERENCES app(id),
    CONSTRAINT api_key_hash_key UNIQUE (hash),
    CONSTRAINT api_key_pkey PRIMARY KEY (id)
);
CREATE INDEX api_key_app ON public.api_key USING btree (app_id, id);

CREATE TABLE app (
    id uuid NOT NULL,
    name text NOT NULL,
    url text NOT NULL DEFAULT ''::text,
    locale text NOT NULL DEFAULT 'en'::text,
    time_zone text NOT NULL DEFAULT 'UTC'::text,
    brand_color text NOT NULL DEFAULT ''::text,
    logo_url text NOT NULL DEFAULT ''::text,
    support_email text NOT NULL DEFAULT ''::text,
    mail_from text NOT NULL DEFAULT ''::text,
    created_at timestamp with time zone NOT NULL,
    mail_stopped_until timestamp with time zone,
    mail_stopped_reason text NOT NULL DEFAULT ''::text,
    CONSTRAINT app_pkey PRIMARY KEY (id)
);

CREATE TABLE company (
    id uuid NOT NULL,
    app_id uuid NOT NULL,
    name text NOT NULL,
    time_zone text NOT NULL DEFAULT ''::text,
    created_at timestamp with time zone NOT NULL,
    CONSTRAINT company_app_id_fkey FOREIGN KEY (app_id) REFERENCES app(id),
    CONSTRAINT company_id_app_id_key UNIQUE (id, app_id),
    CONSTRAINT company_pkey PRIMARY KEY (id)
);
CREATE INDEX company_list ON public.company USING btree (app_id, id);

CREATE TABLE company_member (
    app_id uuid NOT NULL,
    company_id uuid NOT NULL,
    account_id uuid NOT NULL,
    role text NOT NULL,
    created_at timestamp with time zone NOT NULL,
    CONSTRAINT company_member_app_id_account_id_fkey FOREIGN KEY (app_id, account_id) REFERENCES account(app_id, id),
    CONSTRAINT company_member_app_id_company_id_fkey FOREIGN KEY (app_id, company_id) REFERENCES company(app_id, id),
    CONSTRAINT company_member_pkey PRIMARY KEY (company_id, account_id),
    CONSTRAINT company_member_role_check CHECK ((role = ANY (ARRAY['admin'::text, 'member'::text])))
);
CREATE INDEX company_member_account ON public.company_member USING btree (account_id);

CREATE TABLE dev_mail (
    id uuid NOT NULL,
    recipient text NOT NULL,
    email_key text NOT NULL,
    sender text NOT NULL,
    subject text NOT NULL,
    text text NOT NULL,
    html text NOT NULL,
    created_at timestamp with time zone NOT NULL,
    CONSTRAINT dev_mail_pkey PRIMARY KEY (id)
);
CREATE INDEX dev_mail_recipient ON public.dev_mail USING btree (email_key, id);

CREATE TABLE dispatch (
    id uuid NOT NULL,
    lane text NOT NULL,
    endpoint text NOT NULL,
    message_ids uuid[] NOT NULL,
    body bytea,
    state text NOT NULL,
    attempts integer NOT NULL DEFAULT 0,
    unknown integer NOT NULL DEFAULT 0,
    first_attempt_at timestamp with time zone,
    last_attempt_at timestamp with time zone,
    outcome text NOT NULL DEFAULT ''::text,
    created_at timestamp with time zone NOT NULL,
    settled_at timestamp with time zone,
    CONSTRAINT dispatch_endpoint_check CHECK ((endpoint = ANY (ARRAY['/emails'::text, '/emails/batch'::text]))),
    CONSTRAINT dispatch_lane_check CHECK ((lane = ANY (ARRAY['interactive'::text, 'bulk'::text]))),
    CONSTRAINT dispatch_pkey PRIMARY KEY (id),
    CONSTRAINT dispatch_state_check CHECK ((state = ANY (ARRAY['ready'::text, 'sending'::text, 'settled'::text, 'dissolved'::text, 'uncertain'::text])))
);
CREATE INDEX dispatch_open ON public.dispatch USING btree (lane, id) WHERE (state = ANY (ARRAY['ready'::text, 'sending'::text]));
CREATE INDEX dispatch_uncertain ON public.dispatch USING btree (id) WHERE (state = 'uncertain'::text);

CREATE TABLE event (
    id uuid NOT NULL,
    app_id uuid NOT NULL,
    type text NOT NULL,
    subject_id uuid NOT NULL,
    actor_id uuid,
    data jsonb NOT NULL DEFAULT '{}'::jsonb,
    at timestamp with time zone NOT NULL,
    CONSTRAINT event_app_id_fkey FOREIGN KEY (app_id) REFERENCES app(id),
    CONSTRAINT event_pkey PRIMARY KEY (id)
);
CREATE INDEX event_app ON public.event USING btree (app_id, at, id);
CREATE INDEX event_subject ON public.event USING btree (app_id, subject_id, id);

CREATE TABLE idempotency_key (
    app_id uuid NOT NULL,
    route text NOT NULL,
    key text NOT NULL,
    body_hash bytea NOT NULL,
    answer jsonb NOT NULL,
    created_at timestamp with time zone NOT NULL,
    CONSTRAINT idempotency_key_app_id_fkey FOREIGN KEY (app_id) REFERENCES app(id),
    CONSTRAINT idempotency_key_pkey PRIMARY KEY (app_id, route, key)
);
CREATE INDEX idempotency_key_age ON public.idempotency_key USING btree (created_at);

CREATE TABLE invitation (
    id uuid NOT NULL,
    app_id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    inviter_id uuid NOT NULL,
    kind text NOT NULL,
    email text NOT NULL,
    email_key text NOT NULL,
    full_name text NOT NULL,
    locale text NOT NULL,
    note text NOT NULL,
    state text NOT NULL,
    version integer NOT NULL DEFAULT 1,
    sends integer NOT NULL,
    reopens integer NOT NULL DEFAULT 0,
    queued_at timestamp with time zone,
    expires_at timestamp with time zone NOT NULL,
    decided_at timestamp with time zone,
    account_id uuid,
    renewal_asked_at timestamp with time zone,
    created_at timestamp with time zone NOT NULL,
    message_id uuid,
    visibility text NOT NULL DEFAULT 'full'::text,
    warning_id uuid,
    origin_workspace_id uuid,
    held_for text NOT NULL DEFAULT ''::text,
    CONSTRAINT invitation_app_id_account_id_fkey FOREIGN KEY (app_id, account_id) REFERENCES account(app_id, id),
    CONSTRAINT invitation_app_id_inviter_id_fkey FOREIGN KEY (app_id, inviter_id) REFERENCES account(app_id, id),
    CONSTRAINT invitation_app_id_workspace_id_fkey FOREIGN KEY (app_id, workspace_id) REFERENCES workspace(app_id, id),
    CONSTRAINT invitation_held_for_check CHECK ((held_for = ANY (ARRAY[''::text, 'inviter'::text]))),
    CONSTRAINT invitation_kind_check CHECK ((kind = ANY (ARRAY['new_user'::text, 'external_professional'::text, 'colleague'::text, 'existing_user'::text]))),
    CONSTRAINT invitation_pkey PRIMARY KEY (id),
    CONSTRAINT invitation_state_check CHECK ((state = ANY (ARRAY['pending'::text, 'on_hold'::text, 'accepted'::text, 'declined'::text, 'revoked'::text, 'superseded'::text, 'expired'::text]))),
    CONSTRAINT invitation_visibility_check CHECK ((visibility = ANY (ARRAY['basic'::text, 'standard'::text, 'full'::text]))),
    CONSTRAINT invitation_warning_id_fkey FOREIGN KEY (warning_id) REFERENCES warning(id)
);
CREATE INDEX invitation_account ON public.invitation USING btree (account_id) WHERE (account_id IS NOT NULL);
CREATE INDEX invitation_app ON public.invitation USING btree (app_id, state, id);
CREATE INDEX invitation_due ON public.invitation USING btree (expires_at) WHERE (state = ANY (ARRAY['pending'::text, 'on_hold'::text]));
CREATE INDEX invitation_forget ON public.invitation USING btree (decided_at) WHERE ((state = ANY (ARRAY['declined'::text, 'revoked'::text, 'superseded'::text, 'expired'::text])) AND (email <> ''::text));
CREATE INDEX invitation_inviter ON public.invitation USING btree (inviter_id) WHERE (state = ANY (ARRAY['pending'::text, 'on_hold'::text]));
CREATE UNIQUE INDEX invitation_open ON public.invitation USING btree (workspace_id, email_key) WHERE (state = ANY (ARRAY['pending'::text, 'on_hold'::text]));
CREATE INDEX invitation_person ON public.invitation USING btree (email_key, app_id);
CREATE INDEX invitation_workspace ON public.invitation USING btree (app_id, workspace_id, state, id);

CREATE TABLE membership (
    app_id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    account_id uuid NOT NULL,
    role text NOT NULL,
    state text NOT NULL DEFAULT 'active'::text,
    created_at timestamp with time zone NOT NULL,
    visibility text NOT NULL DEFAULT 'full'::text,
    origin_workspace_id uuid,
    added_by uuid,
    archived_at timestamp with time zone,
    seen_at timestamp with time zone,
    notice_due boolean NOT NULL DEFAULT false,
    CONSTRAINT membership_app_id_account_id_fkey FOREIGN KEY (app_id, account_id) REFERENCES account(app_id, id),
    CONSTRAINT membership_app_id_workspace_id_fkey FOREIGN KEY (app_id, workspace_id) REFERENCES workspace(app_id, id),
    CONSTRAINT membership_pkey PRIMARY KEY (workspace_id, account_id),
    CONSTRAINT membership_role_check CHECK ((role = ANY (ARRAY['stakeholder'::text, 'client_user'::text]))),
    CONSTRAINT membership_state_check CHECK ((state = ANY (ARRAY['active'::text, 'archived'::text]))),
    CONSTRAINT membership_visibility_check CHECK ((visibility = ANY (ARRAY['basic'::text, 'standard'::text, 'full'::text])))
);
CREATE INDEX membership_account ON public.membership USING btree (account_id, workspace_id);
CREATE INDEX membership_notice ON public.membership USING btree (account_id) WHERE notice_due;

CREATE TABLE merge (
    id uuid NOT NULL,
    app_id uuid NOT NULL,
    company_id uuid NOT NULL,
    request_id uuid NOT NULL,
    survivor_id uuid NOT NULL,
    absorbed_id uuid NOT NULL,
    actor_id uuid,
    state text NOT NULL,
    step text NOT NULL DEFAULT ''::text,
    preview jsonb NOT NULL,
    hash bytea NOT NULL,
    same_person bytea,
    keep jsonb,
    failure text NOT NULL DEFAULT ''::text,
    created_at timestamp with time zone NOT NULL,
    confirmed_at timestamp with time zone,
    moved_at timestamp with time zone,
    merged_at timestamp with time zone,
    undo_until timestamp with time zone,
    ended_at timestamp with time zone,
    CONSTRAINT merge_app_id_absorbed_id_fkey FOREIGN KEY (app_id, absorbed_id) REFERENCES account(app_id, id),
    CONSTRAINT merge_app_id_company_id_fkey FOREIGN KEY (app_id, company_id) REFERENCES company(app_id, id),
    CONSTRAINT merge_app_id_survivor_id_fkey FOREIGN KEY (app_id, survivor_id) REFERENCES account(app_id, id),
    CONSTRAINT merge_pkey PRIMARY KEY (id),
    CONSTRAINT merge_request_id_fkey FOREIGN KEY (request_id) REFERENCES access_request(id),
    CONSTRAINT merge_state_check CHECK ((state = ANY (ARRAY['previewed'::text, 'needs_resolution'::text, 'confirmed'::text, 'running'::text, 'merged'::text, 'finalized'::text, 'failed'::text, 'cancelled'::text, 'undoing'::text, 'undone'::text]))),
    CONSTRAINT merge_step_check CHECK ((step = ANY (ARRAY[''::text, 'preparing'::text, 'moved'::text, 'restored'::text, 'released'::text])))
);
CREATE UNIQUE INDEX merge_absorbed ON public.merge USING btree (absorbed_id) WHERE (state <> ALL (ARRAY['failed'::text, 'cancelled'::text, 'undone'::text]));
CREATE INDEX merge_app ON public.merge USING btree (app_id, state, id);
CREATE INDEX merge_due ON public.merge USING btree (undo_until, id) WHERE (state = 'merged'::text);
CREATE INDEX merge_request ON public.merge USING btree (request_id);
CREATE UNIQUE INDEX merge_running ON public.merge USING btree (survivor_id) WHERE (state = ANY (ARRAY['confirmed'::text, 'running'::text, 'undoing'::text]));
CREATE INDEX merge_survivor ON public.merge USING btree (survivor_id, id);
CREATE INDEX merge_telling ON public.merge USING btree (id) WHERE (step = 'preparing'::text);

CREATE TABLE merge_change (
    merge_id uuid NOT NULL,
    n bigint NOT NULL,
    what text NOT NULL,
    before jsonb,
    after jsonb NOT NULL,
    CONSTRAINT merge_change_merge_id_fkey FOREIGN KEY (merge_id) REFERENCES merge(id),
    CONSTRAINT merge_change_pkey PRIMARY KEY (merge_id, n)
);

CREATE TABLE message (
    id uuid NOT NULL,
    app_id uuid NOT NULL,
    kind text NOT NULL,
    subject_id uuid NOT NULL,
    purpose text NOT NULL,
    args jsonb NOT NULL DEFAULT '{}'::jsonb,
    lane text NOT NULL,
    email_key text NOT NULL,
    state text NOT NULL,
    reason text NOT NULL DEFAULT ''::text,
    due_at timestamp with time zone,
    dispatch_id uuid,
    sender text NOT NULL DEFAULT ''::text,
    recipient text NOT NULL DEFAULT ''::text,
    subject text NOT NULL DEFAULT ''::text,
    provider_id text NOT NULL DEFAULT ''::text,
    created_at timestamp with time zone NOT NULL,
    settled_at timestamp with time zone,
    fact_at timestamp with time zone,
    CONSTRAINT message_app_id_fkey1 FOREIGN KEY (app_id) REFERENCES app(id),
    CONSTRAINT message_lane_check CHECK ((lane = ANY (ARRAY['interactive'::text, 'bulk'::text]))),
    CONSTRAINT message_pkey PRIMARY KEY (id),
    CONSTRAINT message_state_check1 CHECK ((state = ANY (ARRAY['queued'::text, 'held'::text, 'sending'::text, 'accepted'::text, 'delayed'::text, 'delivered'::text, 'bounced'::text, 'complained'::text, 'suppressed'::text, 'failed'::text, 'cancelled'::text, 'uncertain'::text]))),
    CONSTRAINT message_subject_id_purpose_key UNIQUE (subject_id, purpose)
);
CREATE INDEX message_app ON public.message USING btree (app_id, id);
CREATE INDEX message_asking ON public.message USING btree (id) WHERE (kind = ANY (ARRAY['invitation'::text, 'access_request'::text, 'new_account'::text]));
CREATE INDEX message_due ON public.message USING btree (lane, due_at, id) WHERE (due_at IS NOT NULL);
CREATE INDEX message_person ON public.message USING btree (app_id, email_key, id);

CREATE TABLE notification (
    id uuid NOT NULL,
    app_id uuid NOT NULL,
    account_id uuid NOT NULL,
    kind text NOT NULL,
    subject_id uuid NOT NULL,
    data jsonb NOT NULL DEFAULT '{}'::jsonb,
    view text NOT NULL DEFAULT 'unread'::text,
    created_at timestamp with time zone NOT NULL,
    read_at timestamp with time zone,
    archived_at timestamp with time zone,
    CONSTRAINT notification_app_id_account_id_fkey FOREIGN KEY (app_id, account_id) REFERENCES account(app_id, id),
    CONSTRAINT notification_kind_check CHECK ((kind = ANY (ARRAY['invitation'::text, 'workspaces'::text, 'access_request'::text]))),
    CONSTRAINT notification_pkey PRIMARY KEY (id),
    CONSTRAINT notification_subject_id_account_id_key UNIQUE (subject_id, account_id),
    CONSTRAINT notification_view_check CHECK ((view = ANY (ARRAY['unread'::text, 'read'::text, 'archived'::text])))
);
CREATE INDEX notification_inbox ON public.notification USING btree (account_id, id);
CREATE INDEX notification_unread ON public.notification USING btree (account_id, id) WHERE (view = 'unread'::text);

CREATE TABLE pace (
    id text NOT NULL,
    rate double precision NOT NULL,
    tat timestamp with time zone NOT NULL DEFAULT '1970-01-01 00:00:00+00'::timestamp with time zone,
    blocked_until timestamp with time zone NOT NULL DEFAULT '1970-01-01 00:00:00+00'::timestamp with time zone,
    blocked_since timestamp with time zone,
    blocked_reason text NOT NULL DEFAULT ''::text,
    CONSTRAINT pace_pkey PRIMARY KEY (id)
);

CREATE TABLE policy (
    app_id uuid NOT NULL,
    version integer NOT NULL,
    settings jsonb NOT NULL,
    updated_at timestamp with time zone NOT NULL,
    CONSTRAINT policy_app_id_fkey FOREIGN KEY (app_id) REFERENCES app(id),
    CONSTRAINT policy_pkey PRIMARY KEY (app_id)
);

CREATE TABLE provider_event (
    id text NOT NULL,
    type text NOT NULL,
    message_id uuid,
    provider_id text NOT NULL DEFAULT ''::text,
    body jsonb NOT NULL,
    at timestamp with time zone NOT NULL,
    received_at timestamp with time zone NOT NULL,
    applied_at timestamp with time zone,
    outcome text NOT NULL DEFAULT ''::text,
    CONSTRAINT provider_event_pkey PRIMARY KEY (id)
);
CREATE INDEX provider_event_message ON public.provider_event USING btree (message_id, at) WHERE (message_id IS NOT NULL);
CREATE INDEX provider_event_received ON public.provider_event USING btree (received_at);

CREATE TABLE record (
    id uuid NOT NULL,
    app_id uuid NOT NULL,
    account_id uuid NOT NULL,
    kind text NOT NULL,
    external_id text NOT NULL,
    created_at timestamp with time zone NOT NULL,
    CONSTRAINT record_app_id_account_id_fkey FOREIGN KEY (app_id, account_id) REFERENCES account(app_id, id),
    CONSTRAINT record_app_id_kind_external_id_key UNIQUE (app_id, kind, external_id),
    CONSTRAINT record_pkey PRIMARY KEY (id)
);
CREATE INDEX record_account ON public.record USING btree (account_id, id);

CREATE TABLE record_access (
    id uuid NOT NULL,
    app_id uuid NOT NULL,
    account_id uuid NOT NULL,
    company_id uuid NOT NULL,
    visibility text NOT NULL,
    request_id uuid,
    granted_at timestamp with time zone NOT NULL,
    revoked_at timestamp with time zone,
    CONSTRAINT record_access_app_id_account_id_fkey FOREIGN KEY (app_id, account_id) REFERENCES account(app_id, id),
    CONSTRAINT record_access_app_id_company_id_fkey FOREIGN KEY (app_id, company_id) REFERENCES company(app_id, id),
    CONSTRAINT record_access_pkey PRIMARY KEY (id),
    CONSTRAINT record_access_request_id_fkey FOREIGN KEY (request_id) REFERENCES access_request(id),
    CONSTRAINT record_access_visibility_check CHECK ((visibility = ANY (ARRAY['basic'::text, 'standard'::text, 'full'::text])))
);
CREATE UNIQUE INDEX record_access_open ON public.record_access USING btree (account_id, company_id) WHERE (revoked_at IS NULL);

CREATE TABLE reminder_lane (
    lane integer NOT NULL,
    cursor uuid,
    CONSTRAINT reminder_lane_pkey PRIMARY KEY (lane)
);

CREATE TABLE reminder_plan (
    subject_id uuid NOT NULL,
    app_id uuid NOT NULL,
    email_key text NOT NULL,
    message_id uuid NOT NULL,
    planned_at timestamp with time zone,
    done integer NOT NULL,
    CONSTRAINT reminder_plan_pkey PRIMARY KEY (subject_id)
);
CREATE INDEX reminder_plan_due ON public.reminder_plan USING btree (abs((hashtext(email_key) % 2)), planned_at, subject_id) WHERE (planned_at IS NOT NULL);
CREATE INDEX reminder_plan_over ON public.reminder_plan USING btree (message_id) WHERE (planned_at IS NULL);

CREATE TABLE river_job (
    id bigint NOT NULL DEFAULT nextval('river_job_id_seq'::regclass),
    state river_job_state NOT NULL DEFAULT 'available'::river_job_state,
    attempt smallint NOT NULL DEFAULT 0,
    max_attempts smallint NOT NULL DEFAULT 25,
    attempted_at timestamp with time zone,
    created_at timestamp with time zone NOT NULL DEFAULT now(),
    finalized_at timestamp with time zone,
    scheduled_at timestamp with time zone NOT NULL DEFAULT now(),
    priority smallint NOT NULL DEFAULT 1,
    args jsonb NOT NULL,
    attempted_by text[],
    errors jsonb[],
    kind text NOT NULL,
    metadata jsonb NOT NULL DEFAULT '{}'::jsonb,
    queue text NOT NULL DEFAULT 'default'::text,
    tags character varying(255)[] NOT NULL DEFAULT '{}'::character varying[],
    unique_key bytea,
    unique_states bit(8),
    CONSTRAINT finalized_or_finalized_at_null CHECK ((((finalized_at IS NULL) AND (state <> ALL (ARRAY['cancelled'::river_job_state, 'completed'::river_job_state, 'discarded'::river_job_state]))) OR ((finalized_at IS NOT NULL) AND (state = ANY (ARRAY['cancelled'::river_job_state, 'completed'::river_job_state, 'discarded'::river_job_state]))))),
    CONSTRAINT kind_length CHECK (((char_length(kind) > 0) AND (char_length(kind) < 128))),
    CONSTRAINT max_attempts_is_positive CHECK ((max_attempts > 0)),
    CONSTRAINT priority_in_range CHECK (((priority >= 1) AND (priority <= 4))),
    CONSTRAINT queue_length CHECK (((char_length(queue) > 0) AND (char_length(queue) < 128))),
    CONSTRAINT river_job_pkey PRIMARY KEY (id)
);
CREATE INDEX river_job_args_index ON public.river_job USING gin (args);
CREATE INDEX river_job_kind ON public.river_job USING btree (kind);
CREATE INDEX river_job_metadata_index ON public.river_job USING gin (metadata);
CREATE INDEX river_job_prioritized_fetching_index ON public.river_job USING btree (state, queue, priority, scheduled_at, id);
CREATE INDEX river_job_state_and_finalized_at_index ON public.river_job USING btree (state, finalized_at) WHERE (finalized_at IS NOT NULL);
CREATE UNIQUE INDEX river_job_unique_idx ON public.river_job USING btree (unique_key) WHERE ((unique_key IS NOT NULL) AND (unique_states IS NOT NULL) AND river_job_state_in_bitmask(unique_states, state));

CREATE UNLOGGED TABLE river_leader (
    elected_at timestamp with time zone NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    leader_id text NOT NULL,
    name text NOT NULL DEFAULT 'default'::text,
    CONSTRAINT leader_id_length CHECK (((char_length(leader_id) > 0) AND (char_length(leader_id) < 128))),
    CONSTRAINT name_length CHECK ((name = 'default'::text)),
    CONSTRAINT river_leader_pkey PRIMARY KEY (name)
);

CREATE TABLE river_migration (
    line text NOT NULL,
    version bigint NOT NULL,
    created_at timestamp with time zone NOT NULL DEFAULT now(),
    CONSTRAINT line_length CHECK (((char_length(line) > 0) AND (char_length(line) < 128))),
    CONSTRAINT river_migration_pkey1 PRIMARY KEY (line, version),
    CONSTRAINT version_gte_1 CHECK ((version >= 1))
);

CREATE TABLE river_notification (
    id bigint NOT NULL DEFAULT nextval('river_notification_id_seq'::regclass),
    created_at timestamp with time zone NOT NULL DEFAULT now(),
    payload text NOT NULL,
    topic text NOT NULL,
    CONSTRAINT river_notification_pkey PRIMARY KEY (id),
    CONSTRAINT topic_length CHECK (((length(topic) > 0) AND (length(topic) < 128)))
);
CREATE INDEX river_notification_created_at_idx ON public.river_notification USING btree (created_at);
CREATE INDEX river_notification_topic_id_idx ON public.river_notification USING btree (topic, id);

CREATE TABLE river_queue (
    name text NOT NULL,
    created_at timestamp with time zone NOT NULL DEFAULT now(),
    metadata jsonb NOT NULL DEFAULT '{}'::jsonb,
    paused_at timestamp with time zone,
    updated_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP,
    CONSTRAINT river_queue_pkey PRIMARY KEY (name)
);

CREATE TABLE secondary_email (
    app_id uuid NOT NULL,
    account_id uuid NOT NULL,
    email text NOT NULL,
    email_key text NOT NULL,
    created_at timestamp with time zone NOT NULL,
    CONSTRAINT secondary_email_app_id_account_id_fkey FOREIGN KEY (app_id, account_id) REFERENCES account(app_id, id),
    CONSTRAINT secondary_email_pkey PRIMARY KEY (account_id, email_key)
);
CREATE INDEX secondary_email_key ON public.secondary_email USING btree (app_id, email_key);

CREATE TABLE session (
    hash bytea NOT NULL,
    app_id uuid NOT NULL,
    account_id uuid NOT NULL,
    created_at timestamp with time zone NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    CONSTRAINT session_app_id_account_id_fkey FOREIGN KEY (app_id, account_id) REFERENCES account(app_id, id),
    CONSTRAINT session_pkey PRIMARY KEY (hash)
);
CREATE INDEX session_account ON public.session USING btree (account_id);
CREATE INDEX session_expiry ON public.session USING btree (expires_at);

CREATE TABLE sweep (
    name text NOT NULL,
    last_tick timestamp with time zone,
    paused_until timestamp with time zone,
    CONSTRAINT sweep_pkey PRIMARY KEY (name)
);

CREATE TABLE sweep_run (
    name text NOT NULL,
    tick timestamp with time zone NOT NULL,
    since timestamp with time zone,
    missed integer NOT NULL DEFAULT 0,
    by_hand boolean NOT NULL DEFAULT false,
    started_at timestamp with time zone NOT NULL,
    finished_at timestamp with time zone,
    scanned bigint NOT NULL DEFAULT 0,
    acted bigint NOT NULL DEFAULT 0,
    skipped jsonb NOT NULL DEFAULT '{}'::jsonb,
    error text NOT NULL DEFAULT ''::text,
    CONSTRAINT sweep_run_name_fkey FOREIGN KEY (name) REFERENCES sweep(name),
    CONSTRAINT sweep_run_pkey PRIMARY KEY (name, tick)
);
CREATE INDEX sweep_run_open ON public.sweep_run USING btree (name, tick) WHERE (finished_at IS NULL);
CREATE INDEX sweep_run_started ON public.sweep_run USING btree (started_at);

CREATE TABLE usher_migration (
    version integer NOT NULL,
    name text NOT NULL,
    applied_at timestamp with time zone NOT NULL DEFAULT now(),
    CONSTRAINT usher_migration_pkey PRIMARY KEY (version)
);

CREATE TABLE warning (
    id uuid NOT NULL,
    app_id uuid NOT NULL,
    hash bytea NOT NULL,
    text text NOT NULL,
    created_at timestamp with time zone NOT NULL,
    CONSTRAINT warning_app_id_fkey FOREIGN KEY (app_id) REFERENCES app(id),
    CONSTRAINT warning_app_id_hash_key UNIQUE (app_id, hash),
    CONSTRAINT warning_pkey PRIMARY KEY (id)
);

CREATE TABLE webhook_delivery (
    endpoint_id uuid NOT NULL,
    event_id uuid NOT NULL,
    app_id uuid NOT NULL,
    state text NOT NULL,
    attempts integer NOT NULL DEFAULT 0,
    tries integer NOT NULL DEFAULT 0,
    due_at timestamp with time zone,
    status integer,
    error text NOT NULL DEFAULT ''::text,
    log jsonb NOT NULL DEFAULT '[]'::jsonb,
    created_at timestamp with time zone NOT NULL,
    settled_at timestamp with time zone,
    CONSTRAINT webhook_delivery_app_id_endpoint_id_fkey FOREIGN KEY (app_id, endpoint_id) REFERENCES webhook_endpoint(app_id, id),
    CONSTRAINT webhook_delivery_event_id_fkey FOREIGN KEY (event_id) REFERENCES event(id),
    CONSTRAINT webhook_delivery_pkey PRIMARY KEY (endpoint_id, event_id),
    CONSTRAINT webhook_delivery_state_check CHECK ((state = ANY (ARRAY['waiting'::text, 'delivered'::text, 'failed'::text, 'cancelled'::text])))
);
CREATE INDEX webhook_delivery_age ON public.webhook_delivery USING btree (settled_at) WHERE (settled_at IS NOT NULL);
CREATE INDEX webhook_delivery_due ON public.webhook_delivery USING btree (endpoint_id, due_at) WHERE (state = 'waiting'::text);
CREATE INDEX webhook_delivery_event ON public.webhook_delivery USING btree (event_id);

CREATE TABLE webhook_endpoint (
    id uuid NOT NULL,
    app_id uuid NOT NULL,
    url text NOT NULL,
    description text NOT NULL,
    types text[] NOT NULL,
    state text NOT NULL DEFAULT 'enabled'::text,
    reason text NOT NULL DEFAULT ''::text,
    disabled_at timestamp with time zone,
    secret_version integer NOT NULL DEFAULT 1,
    secret_key bytea NOT NULL,
    old_secret_key bytea,
    old_secret_until timestamp with time zone,
    failures integer NOT NULL DEFAULT 0,
    failing_since timestamp with time zone,
    paused_until timestamp with time zone,
    created_at timestamp with time zone NOT NULL,
    merges boolean NOT NULL DEFAULT false,
    CONSTRAINT webhook_endpoint_app_id_fkey FOREIGN KEY (app_id) REFERENCES app(id),
    CONSTRAINT webhook_endpoint_app_id_id_key UNIQUE (app_id, id),
    CONSTRAINT webhook_endpoint_pkey PRIMARY KEY (id),
    CONSTRAINT webhook_endpoint_reason_check CHECK ((reason = ANY (ARRAY[''::text, 'asked'::text, 'failing'::text, 'gone'::text]))),
    CONSTRAINT webhook_endpoint_state_check CHECK ((state = ANY (ARRAY['enabled'::text, 'disabled'::text, 'deleted'::text])))
);
CREATE INDEX webhook_endpoint_enabled ON public.webhook_endpoint USING btree (app_id) WHERE (state = 'enabled'::text);
CREATE UNIQUE INDEX webhook_endpoint_merges ON public.webhook_endpoint USING btree (app_id) WHERE (merges AND (state <> 'deleted'::text));

CREATE TABLE workspace (
    id uuid NOT NULL,
    app_id uuid NOT NULL,
    company_id uuid NOT NULL,
    name text NOT NULL,
    state text NOT NULL DEFAULT 'active'::text,
    created_at timestamp with time zone NOT NULL,
    kind text NOT NULL DEFAULT 'client_file'::text,
    archived_at timestamp with time zone,
    CONSTRAINT workspace_app_id_company_id_fkey FOREIGN KEY (app_id, company_id) REFERENCES company(app_id, id),
    CONSTRAINT workspace_id_app_id_key UNIQUE (id, app_id),
    CONSTRAINT workspace_kind_check CHECK ((kind = ANY (ARRAY['client_file'::text, 'company'::text, 'private'::text]))),
    CONSTRAINT workspace_pkey PRIMARY KEY (id),
    CONSTRAINT workspace_state_check CHECK ((state = ANY (ARRAY['active'::text, 'archived'::text])))
);
CREATE INDEX workspace_company ON public.workspace USING btree (company_id, id);
