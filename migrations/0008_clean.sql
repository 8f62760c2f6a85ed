-- What reminders are planned for: mails that ask for something, by their time.
CREATE INDEX message_asking ON message (id) WHERE kind IN ('invitation', 'access_request', 'new_account');

-- Reminders are looked for in lanes, each with its share of the mailboxes.
CREATE TABLE reminder_lane (
    lane   int  PRIMARY KEY,
    cursor uuid                                          -- the newest mail that was planned for
);
INSERT INTO reminder_lane SELECT 0, (SELECT cursor FROM sweep WHERE name = 'send_reminders');
INSERT INTO reminder_lane SELECT 1, (SELECT cursor FROM sweep WHERE name = 'send_reminders');
ALTER TABLE sweep DROP COLUMN cursor;
DROP INDEX reminder_plan_due;
CREATE INDEX reminder_plan_due ON reminder_plan (abs(hashtext(email_key) % 2), planned_at, subject_id) WHERE planned_at IS NOT NULL;

-- Accounts that were made for clients and that nobody took.
ALTER TABLE access_request ADD COLUMN looked_after boolean NOT NULL DEFAULT false; -- the clock saw to the account that was made for it
CREATE INDEX access_request_over ON access_request (app_id, option, decided_at) WHERE NOT looked_after
    AND (option = 'new_account' OR option = 'request_with_temporary' AND state IN ('denied', 'expired', 'cancelled'));

-- What retention looks for.
CREATE INDEX access_request_forget ON access_request (decided_at) WHERE state IN ('denied', 'expired', 'cancelled') AND email <> '';
