// Verifies webhooks with two independent implementations of Standard Webhooks (standardwebhooks and svix, unpacked by
// tests/npm/install): each must be accepted, and each of its forgeries refused.
//
//   node tests/e2e/verify_webhook.mjs <deliveries      one JSON object a line:
//                                                      {"headers": {...}, "body": "...", "secrets": ["whsec_..."]}
//
// Every secret given must verify (two during a rotation). Prints "ok COUNT"; exits 1 at the first fault.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../../build/npm/", import.meta.url));
const load = createRequire(root);
const implementations = {
  standardwebhooks: load("standardwebhooks").Webhook,
  svix: load("svix").Webhook,
};
const stranger = "whsec_" + Buffer.alloc(32, 7).toString("base64");
const realNow = Date.now;

// Both libraries look at Date.now() alone.
function verifies(Webhook, secret, headers, body, nowMs) {
  Date.now = () => nowMs;
  try {
    new Webhook(secret).verify(body, headers);
    return true;
  } catch (e) {
    if (e.name === "TypeError") throw e; // a defect of this script, not a refusal
    return false;
  } finally {
    Date.now = realNow;
  }
}

function flipped(body, at) {
  const bytes = Buffer.from(body, "utf8");
  bytes[at] ^= 1;
  return bytes.toString("latin1");
}

function check(delivery, number) {
  const { headers, body, secrets } = delivery;
  const sent = Number(headers["webhook-timestamp"]) * 1000;
  const size = Buffer.byteLength(body);
  const want = (accepted, what, ...args) => {
    for (const [name, Webhook] of Object.entries(implementations))
      if (verifies(Webhook, ...args) !== accepted) {
        console.error(`delivery ${number}: ${name} ${accepted ? "refuses" : "accepts"} ${what}`);
        process.exit(1);
      }
  };
  for (const secret of secrets) {
    want(true, "the delivery", secret, headers, body, sent);
    for (const s of [-299, 299]) want(true, `it ${s} s later`, secret, headers, body, sent + s * 1000);
    for (const s of [-301, 301]) want(false, `it ${s} s later`, secret, headers, body, sent + s * 1000);
    for (const at of [0, size >> 1, size - 1])
      want(false, `another octet ${at}`, secret, headers, flipped(body, at), sent);
    want(false, "another id", secret, { ...headers, "webhook-id": headers["webhook-id"] + "0" }, body, sent);
    const later = { ...headers, "webhook-timestamp": String(sent / 1000 + 1) };
    want(false, "another timestamp", secret, later, body, sent);
  }
  want(false, "a stranger's secret", stranger, headers, body, sent);
}

let count = 0;
for await (const line of createInterface({ input: process.stdin })) if (line) check(JSON.parse(line), count++);
if (count === 0) {
  console.error("no delivery was given");
  process.exit(1);
}
console.log(`ok ${count}`);
