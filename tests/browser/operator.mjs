// A broker with something of everything in it, and the console of its operator.

import { readFile } from "node:fs/promises";
import path from "node:path";
import { broker, built, pageOf, soon } from "./support.mjs";

/** Recipients that say nothing are given up soon, and what goes to topics is stored. */
const CONFIGURATION = `
[[address]]
match = "user/*"
ack_timeout_ms = 100
attempts = 2
backoff_ms = 10
backoff_max_ms = 10

[[address]]
match = "topic/>"
keep = "always"
`;

/** Markup, a script, and characters that turn a line around. */
export const HOSTILE = '<img src="x" onerror="document.title=\'taken\'"><script>document.title="taken"</script>\u202Eevil';

/** Starts a broker; `ask` is the API with documents in and out, and fails where it refuses. */
export async function start(opened) {
  const served = await broker(opened, CONFIGURATION);
  const ask = async (method, path, document) => {
    const answer = await served.call(method, path, document === undefined ? {} : { body: JSON.stringify(document) });
    const text = await answer.text();
    if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${text}`);
    return text === "" ? undefined : JSON.parse(text);
  };
  return { ...served, ask };
}

export function plugin(name) {
  return path.join(built, "../plugins", `${name}.wasm`);
}

/** Sessions of three users, of whom bob acknowledges, groups, a policy with a shadow, messages, and dead letters of a silent user. */
export async function fill(chrome, opened, served) {
  const { ask, call, address, webSocket } = served;
  const clients = await pageOf(chrome, `http://${address}`);
  opened({ stop: () => clients.close() });
  await clients.evaluate(connect, { url: webSocket, users: ["alice", "bob", "silent"] });
  for (const user of ["alice", "bob"]) await ask("PUT", `/v1/groups/eng/members/${user}`);
  for (const name of ["stamp-a", "stamp-b"]) {
    const uploaded = await call("POST", "/v1/plugins/stamp/revisions", { body: await readFile(plugin(name)), type: "application/wasm" });
    if (uploaded.status !== 201) throw new Error(await uploaded.text());
  }
  const document = { hook: "routing", plugin: "stamp@1", match: ["topic/orders.>"], config: { stamp: "seen" }, limits: { deadline_ms: 1000, cpu_share: 1.0 } };
  await ask("PUT", "/v1/policies/orders", document);
  await ask("PUT", "/v1/policies/orders", { ...document, plugin: "stamp@2", mode: "shadow" });
  const bots = [{ when: { sender: "bot-*" }, then: { refuse: { reason: "bots do not publish here" } } }];
  await ask("PUT", "/v1/policies/bots", { hook: "admission", rules: bots, match: ["topic/>"] });
  const published = [];
  for (let n = 0; n < 12; n += 1) {
    const message = { to: "topic/orders.eu", payload: { n, text: n === 3 ? HOSTILE : "x".repeat(n * 300) }, headers: n === 3 ? { "x-hostile": HOSTILE } : {}, ack: "stored" };
    published.push(await ask("POST", "/v1/publish", message));
  }
  const acked = await ask("POST", "/v1/publish", { to: "user/bob", payload: "hello", ack: "delivered" });
  for (const payload of [HOSTILE, { order: 7 }]) {
    const answer = await call("POST", "/v1/publish", { body: JSON.stringify({ to: "user/silent", payload, ack: "delivered" }) });
    if (answer.status !== 504) throw new Error(`a silent user has it: ${answer.status}`);
  }
  return { clients, published, acked };
}

// In the page.
async function connect({ url, users }) {
  globalThis.sockets = await Promise.all(users.map((user) => new Promise((resolve, reject) => {
    const socket = new WebSocket(url, ["waspmq.v1.json"]);
    const say = (frame) => socket.send(JSON.stringify(frame));
    socket.onopen = () => say({ type: "connect", user, device: "laptop" });
    socket.onerror = reject;
    socket.onmessage = ({ data }) => {
      for (const line of data.split("\n")) {
        const frame = JSON.parse(line);
        if (frame.type === "welcome") {
          say({ type: "subscribe", ref: 1, to: "topic/orders.>" });
          resolve(socket);
        }
        if (frame.ack && user !== "silent") say({ type: "ack", ids: [frame.id] });
      }
    };
  })));
}

/**
 * The console in a browser of its own. `page.wrong` collects what scripts throw, what the content policy forbids and what the browser's console calls an
 * error, but for answers of the broker, whose statuses of 400 and above are in `page.refusals`.
 */
export async function open(chrome, opened, { admin, token }, { width = 1280, colorScheme = "light", isIn = true } = {}) {
  const context = await chrome.newContext({ viewport: { width, height: 900 }, colorScheme });
  opened({ stop: () => context.close() });
  const page = await context.newPage();
  [page.wrong, page.refusals] = [[], []];
  page.on("pageerror", (error) => page.wrong.push(error.stack));
  page.on("console", (said) => {
    const isAnswer = said.text().startsWith("Failed to load resource: the server responded with a status of");
    if (said.type() === "error" && !isAnswer) page.wrong.push(said.text());
  });
  page.on("response", (answer) => {
    if (answer.status() >= 400) page.refusals.push(`${answer.status()} ${new URL(answer.url()).pathname}`);
  });
  await page.addInitScript(() => document.addEventListener("securitypolicyviolation", ({ violatedDirective, blockedURI }) => console.error(`forbidden: ${violatedDirective} ${blockedURI}`)));
  const origin = `http://${admin}/`;
  await page.goto(isIn ? `${origin}#token=${token}` : origin);
  return page;
}

/** Goes to a page of the console, and waits for a text on it. */
export async function go(page, hash, text) {
  await page.evaluate((hash) => (location.hash = hash), hash);
  await soon(`${hash} shows ${text}`, page.locator("main").getByText(text).first().waitFor());
}
