// The console that the broker serves at `/` of its admin listener, as an operator uses it: every page on a wide and a narrow screen, what is
// hostile in messages, policies by their buttons, and a broker that is gone.

import assert from "node:assert/strict";
import { HOSTILE, fill, go, open, plugin, start } from "./operator.mjs";
import { run, soon } from "./support.mjs";

/** Each step of a check has its own time; this is for all of them, on a machine that is slow. */
const PATIENCE_MS = 600_000;

/** Where each page is, what has to be on it when the broker is filled, and what the broker refuses meanwhile. */
function places({ published, acked }) {
  return [
    ["#/overview", "CPU"], ["#/sessions", "silent"], ["#/sessions?user=bob", "laptop"], ["#/groups", "eng"], ["#/groups/eng", "alice"],
    ["#/policies", "stamp@2, shadow"], ["#/policies/orders", "Decided differently"], ["#/policies/bots", "rules@"], ["#/policies/none", 'there is no policy "none"'],
    ["#/plugins", "stamp"], ["#/plugins/stamp", "routing"], [`#/messages/${published[3].id}`, "stamp-build"], [`#/messages/${acked.id}`, "laptop"],
    ["#/history/topic%2Forders.eu", "the admin API"], ["#/dead-letters", "user/silent"], ["#/tail", "Not started"], ["#/nowhere", "Latest changes"], ["#/%", "Latest changes"],
  ];
}

async function stage(chrome, opened) {
  const served = await start(opened);
  return { served, filled: await fill(chrome, opened, served) };
}

const button = (page, name) => page.getByRole("button", { name, exact: true });
const heading = (page) => page.locator("main h1").textContent();
const shown = (page, text) => soon(`shown: ${text}`, page.getByText(text).first().waitFor());

function deferred() {
  const made = {};
  made.promise = new Promise((resolve) => (made.resolve = resolve));
  return made;
}

await run({
  async "signing in and out"(chrome, opened) {
    const served = await start(opened);
    const page = await open(chrome, opened, served, { isIn: false });
    assert.equal(await heading(page), "Sign in");
    assert.match(await page.locator("main").innerText(), /<data-dir>\/admin-token/);
    await page.getByLabel("Admin token").fill("wrong");
    await page.keyboard.press("Enter");
    await shown(page, "this is not the broker's admin token");
    // What cannot be sent is no token either, and no reason to say that the broker is gone.
    await page.getByLabel("Admin token").fill("tok…");
    await page.keyboard.press("Enter");
    await soon("the first refusal goes", page.locator(".busy").waitFor({ state: "detached" }));
    assert.match(await page.getByRole("alert").innerText(), /this is not the broker's admin token/);
    assert.deepEqual(page.refusals, ["401 /v1/status"]);
    await page.getByLabel("Admin token").fill(` ${served.token}\n`);
    await page.keyboard.press("Enter");
    await shown(page, "Latest changes");
    const kept = () => page.evaluate(() => [Object.values(sessionStorage), Object.values(localStorage), document.cookie]);
    assert.deepEqual(await kept(), [[served.token], [], ""]);
    await page.reload();
    await shown(page, "Latest changes");
    await button(page, "Sign out").click();
    await shown(page, "the token is forgotten");
    assert.deepEqual(await kept(), [[], [], ""]);
    await page.reload();
    assert.equal(await heading(page), "Sign in");
    // A link with the token is taken once, and is not there any more.
    await page.goto(`http://${served.admin}/#token=${served.token}`);
    await shown(page, "Latest changes");
    assert.equal(page.url(), `http://${served.admin}/`);
    // A token that is not taken any more.
    await page.evaluate(() => sessionStorage.setItem("waspmq-admin-token", "old"));
    await shown(page, "sign in again");
    assert.deepEqual(await kept(), [[], [], ""]);
    assert.deepEqual(page.wrong, []);
    return "by hand and by link";
  },

  async "every page, wide and narrow, in both colour schemes"(chrome, opened) {
    const { served, filled } = await stage(chrome, opened);
    const seen = [];
    for (const [width, colorScheme] of [[1280, "light"], [360, "dark"]]) {
      const page = await open(chrome, opened, served, { width, colorScheme });
      for (const [hash, text] of places(filled)) {
        await go(page, hash, text);
        const scrolled = await page.evaluate(() => document.documentElement.scrollWidth);
        assert.ok(scrolled <= width, `${hash} is ${scrolled} wide on ${width}`);
        assert.equal(await page.locator("nav [aria-current=page]").count(), 1);
        seen.push(hash);
      }
      assert.deepEqual(page.wrong, []);
      // Asked for above, and of a message to a user that no policy is bound to.
      const known = ["404 /v1/policies/none", `404 /v1/explain/${filled.acked.id}`];
      assert.deepEqual(page.refusals.filter((one) => !known.includes(one)), []);
      const colours = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
      assert.equal(colours, colorScheme === "light" ? "rgb(247, 247, 245)" : "rgb(22, 21, 19)");
    }
    return `${seen.length} times`;
  },

  async "what is in messages stays text"(chrome, opened) {
    const { served, filled } = await stage(chrome, opened);
    const page = await open(chrome, opened, served);
    const isText = async (where) => {
      const text = await page.locator("main").innerText();
      assert.ok(text.includes('<img src=') && text.includes("\\u202eevil"), `${where}: ${text}`);
      assert.equal(await page.locator("main img, main script").count(), 0, where);
      assert.notEqual(await page.title(), "taken", where);
    };
    await go(page, "#/history/topic%2Forders.eu", "the admin API");
    await page.locator("summary").nth(3).click();
    await shown(page, "x-hostile");
    await isText("history");
    await go(page, "#/dead-letters", "user/silent");
    await page.locator("summary").first().click();
    await shown(page, "not delivered after 2 attempts");
    await isText("dead letters");
    // Numbers keep their digits.
    await go(page, "#/messages", "Publish a test message");
    await page.getByLabel("To", { exact: true }).fill("topic/orders.big");
    await page.getByLabel("Payload", { exact: true }).fill('{"id":12345678901234567890}');
    await page.getByLabel("Level").selectOption("stored");
    await button(page, "Publish").click();
    await shown(page, "stored, recipients");
    await go(page, "#/history/topic%2Forders.big", '{"id":12345678901234567890}');
    const stored = await served.call("GET", "/v1/history/topic/orders.big");
    assert.match(await stored.text(), /"payload":\{"id":12345678901234567890\}/);
    assert.equal(filled.published.length, 12);
    assert.deepEqual(page.wrong, []);
    return JSON.stringify(HOSTILE).slice(0, 40);
  },

  async "a plugin is uploaded, and a policy swapped, tried, promoted and rolled back by its buttons"(chrome, opened) {
    const served = await start(opened);
    const page = await open(chrome, opened, served);
    const version = async () => {
      const { version, candidate, document } = await served.ask("GET", "/v1/policies/orders");
      return [version, candidate?.version ?? null, candidate?.document.canary_percent ?? document.canary_percent ?? null];
    };
    await go(page, "#/plugins", "No plugin was uploaded yet");
    await page.getByLabel("Component").setInputFiles(plugin("stamp-a"));
    await page.getByLabel("Plugin", { exact: true }).fill("stamp");
    await button(page, "Upload").click();
    await shown(page, "stamp@1");
    await go(page, "#/plugins/stamp", "routing");
    await page.getByLabel("Component").setInputFiles(plugin("stamp-b"));
    await button(page, "Upload").click();
    await shown(page, "stamp@2");
    // What is no component is refused, and said.
    await page.getByLabel("Component").setInputFiles({ name: "x.wasm", mimeType: "application/wasm", buffer: Buffer.from("no component") });
    await button(page, "Upload").click();
    await shown(page, "The component cannot be a plugin");

    await go(page, "#/policies", "No policy is in place");
    await button(page, "New policy…").click();
    const document = { hook: "routing", plugin: "stamp@1", match: ["topic/orders.>"], config: { stamp: 1 }, limits: { deadline_ms: 1000, cpu_share: 1 } };
    await page.getByLabel("Name").fill("orders");
    await page.getByLabel("Document (JSON)").fill(JSON.stringify(document));
    await button(page, "Put it in force").click();
    await shown(page, "the plugin does not take this policy");
    await page.getByLabel("Document (JSON)").fill(JSON.stringify({ ...document, config: { stamp: "s" } }));
    await button(page, "Put it in force").click();
    await shown(page, "Timed calls");
    assert.deepEqual(await version(), ["stamp@1", null, null]);

    const swap = async (way, action, then) => {
      await button(page, "Swap…").click();
      await page.getByLabel("Revision").selectOption("stamp@2");
      await page.getByRole("radio", { name: new RegExp(`^${way}`) }).check();
      await then?.();
      await page.getByRole("dialog").getByRole("button", { name: action, exact: true }).click();
      await soon("the dialog closes", page.getByRole("dialog").waitFor({ state: "detached" }));
    };
    const step = async (name) => {
      await button(page, `${name}…`).click();
      await page.getByRole("dialog").getByRole("button", { name, exact: true }).click();
      await soon("the dialog closes", page.getByRole("dialog").waitFor({ state: "detached" }));
    };
    await swap("Active", "Swap");
    assert.deepEqual(await version(), ["stamp@2", null, null]);
    await step("Roll back");
    await shown(page, "Done: stamp@1 decides for everybody instead of stamp@2.");
    assert.deepEqual(await version(), ["stamp@1", null, null]);
    await swap("Shadow", "Start the shadow");
    assert.deepEqual(await version(), ["stamp@1", "stamp@2", null]);
    await step("Roll back");
    assert.deepEqual(await version(), ["stamp@1", null, null]);
    await swap("Canary", "Start the canary", () => page.getByLabel("Share of senders in percent").fill("25"));
    assert.deepEqual(await version(), ["stamp@1", "stamp@2", 25]);
    await step("Promote");
    assert.deepEqual(await version(), ["stamp@2", null, null]);

    // Somebody else changes it while the question is open: what is refused is said, and nothing is done.
    await button(page, "Roll back…").click();
    await served.ask("PUT", "/v1/policies/orders", { ...document, config: { stamp: "other" } });
    await page.getByRole("dialog").getByRole("button", { name: "Roll back", exact: true }).click();
    await soon("the refusal", page.getByRole("dialog").getByRole("alert").waitFor());
    assert.match(await page.getByRole("dialog").getByRole("alert").innerText(), /generation/);
    assert.deepEqual(await version(), ["stamp@1", null, null]);
    await page.keyboard.press("Escape");
    // Rules are swapped as plugins are.
    const refuse = (sender) => [{ when: { sender }, then: { refuse: { reason: "no" } } }];
    const before = await served.ask("PUT", "/v1/policies/bots", { hook: "admission", match: ["topic/>"], rules: refuse("bot-*") });
    await go(page, "#/policies/bots", before.version);
    await button(page, "Swap…").click();
    await page.getByLabel("Rules (JSON)").fill(JSON.stringify(refuse("robot-*")));
    await page.getByRole("radio", { name: /^Active/ }).check();
    await page.getByRole("dialog").getByRole("button", { name: "Swap", exact: true }).click();
    await soon("the dialog closes", page.getByRole("dialog").waitFor({ state: "detached" }));
    const after = await served.ask("GET", "/v1/policies/bots");
    assert.deepEqual([after.document.rules, after.previous.version], [refuse("robot-*"), before.version]);
    assert.deepEqual(page.wrong, []);
    assert.deepEqual(page.refusals, ["422 /v1/plugins/stamp/revisions", "422 /v1/policies/orders", "409 /v1/policies/orders/rollback"]);
    return "swap, rollback, shadow, canary, promotion, a refusal";
  },

  async "what comes late changes nothing, and what is clicked twice is done once"(chrome, opened) {
    const { served } = await stage(chrome, opened);
    const page = await open(chrome, opened, served);
    // Asked for again, a list does not wait for the answer before, which is not shown any more.
    await go(page, "#/sessions", "silent");
    await page.evaluate(() => {
      const { fetch } = globalThis;
      globalThis.signals = [];
      globalThis.fetch = (url, options) => (signals.push(options.signal), fetch(url, options));
    });
    const isAsked = deferred();
    await page.route("**/v1/sessions?*", isAsked.resolve);
    await button(page, "Refresh").click();
    await soon("the list is asked for", isAsked.promise);
    await page.unroute("**/v1/sessions?*");
    await page.route("**/v1/sessions?*", (route) => route.fulfill({ json: { sessions: [], total: 0, limit: 50, offset: 0 } }));
    await button(page, "Refresh").click();
    await shown(page, "There is no such session.");
    assert.deepEqual(await page.evaluate(() => signals.map(({ aborted }) => aborted)), [true, false]);
    await page.unrouteAll();

    await go(page, "#/policies/orders", "Decided differently");
    await button(page, "Swap…").dblclick();
    await page.getByRole("dialog").first().waitFor();
    await button(page, "Cancel").first().click();
    assert.equal(await page.getByRole("dialog").count(), 0);
    // A look that began before a change, and is answered behind it, does not take it back on the screen.
    const before = await served.ask("GET", "/v1/policies/orders");
    const looks = [deferred(), deferred()];
    let begun = 0;
    await page.route("**/v1/policies/orders", (route) => {
      begun += 1;
      // The second is the one behind the change.
      return begun === 2 ? route.continue() : looks[begun === 1 ? 0 : 1].resolve(route);
    });
    const first = await soon("a look", looks[0].promise);
    await button(page, "Roll back…").click();
    await page.getByRole("dialog").getByRole("button", { name: "Roll back", exact: true }).click();
    await soon("the candidate is gone", page.getByText("Decided differently").first().waitFor({ state: "detached" }));
    await first.fulfill({ json: before });
    await soon("the next look", looks[1].promise);
    assert.equal(await page.getByText("Decided differently").count(), 0);
    await page.unrouteAll({ behavior: "ignoreErrors" });

    // Whoever has gone on to another page is not taken away from it when a change is done.
    await go(page, "#/groups/eng", "bob");
    const isRemoved = deferred();
    await page.route("**/v1/groups/eng", isRemoved.resolve);
    await button(page, "Remove the group…").click();
    await button(page, "Remove it").click();
    const removal = await soon("the removal", isRemoved.promise);
    await go(page, "#/tail", "Not started");
    await Promise.all([page.waitForResponse("**/v1/groups/eng"), removal.continue()]);
    // A change of another kind, there and back, is behind what that answer would have done.
    await go(page, "#/sessions", "silent");
    await page.goBack();
    await shown(page, "Not started");
    assert.match(page.url(), /#\/tail$/);

    // What is made anew keeps what was opened in it, and where the keyboard was.
    const kept = await page.evaluate(async () => {
      const { h, region } = await import("/console/dom.js");
      const part = region(document.body);
      const build = (n) => () => [h("details", {}, h("summary", {}, `${n} more`)), ["a", "b"].map((name) => h("button", { "aria-label": name }, "Close"))];
      part.update(1, build(1));
      part.element.querySelector("details").open = true;
      part.element.querySelectorAll("button")[1].focus();
      part.update(2, build(2));
      return [part.element.querySelector("details").open, part.element.querySelector("summary").textContent, document.activeElement.getAttribute("aria-label")];
    });
    assert.deepEqual(kept, [true, "2 more", "b"]);
    assert.deepEqual([page.wrong, page.refusals], [[], []]);
    return "lists, policies, dialogs";
  },

  async "sessions are closed, members taken out, dead letters requeued and purged"(chrome, opened) {
    const { served } = await stage(chrome, opened);
    const page = await open(chrome, opened, served);
    const confirmed = async (name) => {
      await page.getByRole("dialog").getByRole("button", { name, exact: true }).click();
      await soon("the dialog closes", page.getByRole("dialog").waitFor({ state: "detached" }));
    };
    await go(page, "#/sessions?user=alice", "laptop");
    const close = page.getByRole("button", { name: /^Close session .* of alice$/ });
    await close.click();
    await page.keyboard.press("Escape");
    assert.equal((await served.ask("GET", "/v1/sessions")).total, 3);
    await close.click();
    await confirmed("Close it");
    await shown(page, "of alice is closed");
    await go(page, "#/groups/eng", "bob");
    await page.getByLabel("Add a member").fill("carol");
    await page.keyboard.press("Enter");
    await shown(page, "carol is a member");
    await button(page, "Take out alice").click();
    await confirmed("Take out");
    await shown(page, "alice is taken out");
    assert.deepEqual((await served.ask("GET", "/v1/groups/eng")).members, ["bob", "carol"]);
    await go(page, "#/dead-letters", "user/silent");
    await page.locator("summary").first().click();
    await button(page, "Requeue").click();
    await shown(page, "1 requeued, 0 not accepted");
    await page.getByLabel("Recipient").fill("user/nobody");
    await button(page, "Show").click();
    await shown(page, "No letters");
    await page.getByLabel("Recipient").fill("user/silent");
    await button(page, "Show").click();
    await button(page, "Purge all that match…").click();
    await confirmed("Purge");
    await shown(page, /\d removed/);
    assert.deepEqual(page.wrong, []);
    return "with confirmations";
  },

  async "the tail shows what passes, or that there is none"(chrome, opened) {
    const { served, filled } = await stage(chrome, opened);
    const page = await open(chrome, opened, served);
    const { paths } = await served.ask("GET", "/v1/openapi.json");
    const isThere = "/v1/tail" in paths;
    await go(page, "#/tail", "Not started");
    await page.getByLabel("with payloads and headers").check();
    await button(page, "Start").click();
    if (isThere) {
      await shown(page, "Live.");
      await served.ask("POST", "/v1/publish", { to: "topic/orders.eu", payload: HOSTILE });
      await shown(page, "topic/orders.eu");
      assert.equal(await page.locator("main img, main script").count(), 0);
    } else {
      await shown(page, "This broker has no live tail.");
      assert.deepEqual(page.refusals, ["404 /v1/tail"]);
    }
    // What a broker with a tail says, word by word.
    const told = (fields) => `event: message\ndata: ${JSON.stringify({ ts: 1790000000000, to: "topic/a", outcome: "accepted", ...fields })}\n\n`;
    const many = Array.from({ length: 300 }, (_, n) => told({ id: String(n).padStart(32, "0"), payload: n === 299 ? HOSTILE : n }));
    const stream = `: sign of life\n\nevent: ready\ndata: {}\n\n${many.join("")}event: dropped\ndata: {"count":17}\n\n`;
    let asked;
    await page.route("**/v1/tail*", (route) => {
      asked = new URL(route.request().url()).searchParams;
      assert.equal(route.request().headers().authorization, `Bearer ${served.token}`);
      return route.fulfill({ body: stream, contentType: "text/event-stream" });
    });
    await page.getByLabel("Addresses or patterns").fill("topic/> user/*");
    await button(page, "Start").click();
    await shown(page, /300 seen, 17 left out by the broker/);
    assert.deepEqual([asked.getAll("match"), asked.get("payload")], [["topic/>", "user/*"], "true"]);
    await button(page, "Stop").click();
    assert.equal(await page.locator(".list > details").count(), 200);
    assert.match(await page.locator(".list > details").first().innerText(), /<img src=.*\\u202eevil/);
    await page.locator(".list > details a").first().click();
    await shown(page, "Delivery");
    assert.equal(page.url().split("#")[1], `/messages/${"299".padStart(32, "0")}`);
    assert.equal(filled.published.length, 12);
    assert.deepEqual(page.wrong, []);
    return isThere ? "live" : "none here";
  },

  async "a broker that is not ready, or gone, is said, and found again"(chrome, opened) {
    const served = await start(opened);
    const page = await open(chrome, opened, served);
    await go(page, "#/overview", "Latest changes");
    const problem = { type: "urn:waspmq:problem:policy_not_ready", title: "Service Unavailable", status: 503, detail: 'policy "limits": its component is damaged' };
    await page.route("**/readyz", (route) => route.fulfill({ status: 503, contentType: "application/problem+json", body: JSON.stringify(problem) }));
    await shown(page, problem.detail);
    // It is told once to those who listen to the page, not with each look: this one is on the screen when the third begins.
    const told = await page.getByRole("alert").elementHandle();
    for (let look = 0; look < 2; look += 1) await soon("the next look", page.waitForResponse("**/v1/status"));
    assert.ok(await told.evaluate((one) => one.isConnected));
    await page.route("**/*", (route) => route.abort());
    await shown(page, /the broker does not answer; asked again in/);
    await page.unrouteAll();
    await soon("the notice goes", page.locator("#connection").waitFor({ state: "hidden" }));
    await soon("it is ready", page.getByText(problem.detail).waitFor({ state: "detached" }));
    // A page that asks once can be told to ask again.
    await page.route("**/v1/groups?*", (route) => route.abort());
    await go(page, "#/groups", "the broker does not answer");
    await page.unrouteAll();
    await button(page, "Try again").click();
    await shown(page, "There is no group.");
    const failed = page.wrong.filter((text) => !text.startsWith("Failed to load resource"));
    assert.deepEqual(failed, []);
    return "by a notice";
  },
}, PATIENCE_MS);
