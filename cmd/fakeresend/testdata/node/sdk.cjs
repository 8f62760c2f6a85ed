// Runs the official SDK against the stand-in and prints what it saw as JSON.
// Arguments: the folder the SDK is installed in, the stand-in's URL, API key.
const { createRequire } = require("node:module");
const [folder, baseUrl, key] = process.argv.slice(2);
const { Resend } = createRequire(folder + "/")("resend");

const resend = new Resend(key, { baseUrl });
const mail = (to, more) => ({ from: "Acme <mail@acme.dev>", to, subject: "Hello", html: "<p>Hi</p>", text: "Hi", ...more });

(async () => {
  const seen = {};
  const tags = [{ name: "message_id", value: "m1" }];
  seen.sent = await resend.emails.send(mail("ann@b.dev", { replyTo: "help@acme.dev", tags }), { idempotencyKey: "k1" });
  seen.again = await resend.emails.send(mail("ann@b.dev", { replyTo: "help@acme.dev", tags }), { idempotencyKey: "k1" });
  seen.other = await resend.emails.send(mail("bob@b.dev"), { idempotencyKey: "k1" });
  seen.got = await resend.emails.get(seen.sent.data.id);
  seen.batch = await resend.batch.send([mail("one@b.dev"), mail("two@b.dev")], { idempotencyKey: "k2" });
  seen.strict = await resend.batch.send([mail("one@b.dev"), mail("nobody")]);
  seen.permissive = await resend.batch.send([mail("one@b.dev"), mail("nobody")], { batchValidation: "permissive" });
  seen.list = await resend.emails.list({ limit: 2 });
  seen.suppressed = await resend.suppressions.add({ email: "gone@b.dev" });
  seen.suppression = await resend.suppressions.get("gone@b.dev");
  seen.removed = await resend.suppressions.remove("gone@b.dev");
  seen.limited = await Promise.all(Array.from({ length: 40 }, () => resend.emails.send(mail("ann@b.dev"))));
  console.log(JSON.stringify(seen));
})();
