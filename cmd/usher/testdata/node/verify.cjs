// Verifies webhooks by the reference library. Argument: the folder it is
// installed in. Standard input: a list of {secret, headers, body}. Prints, for
// each, the type of the event or what is wrong.
const { createRequire } = require("node:module");
const { Webhook } = createRequire(process.argv[2] + "/")("standardwebhooks");

const requests = JSON.parse(require("node:fs").readFileSync(0, "utf8"));
console.log(JSON.stringify(requests.map(({ secret, headers, body }) => {
  try {
    return new Webhook(secret).verify(body, headers).type;
  } catch (err) {
    return String(err);
  }
})));
