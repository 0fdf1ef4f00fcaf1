// What docs/browser says beside server-sent events, against an EventSource and a fetch that are the test's. No browser.

import assert from "node:assert/strict";
import test from "node:test";

// As in browsers and later versions of Node.js.
Promise.withResolvers ??= () => {
  const made = {};
  made.promise = new Promise((resolve, reject) => Object.assign(made, { resolve, reject }));
  return made;
};
const { Refused, connect } = await import("../../docs/browser/waspmq.js");

/** A session, and what was posted for it. `answer` says what becomes of the frames of a request. */
async function session(answer) {
  const posted = [];
  let source;
  globalThis.EventSource = class {
    constructor() {
      source = this;
      queueMicrotask(() => this.tell({ type: "welcome", session: "s", resume_token: "t" }));
    }

    tell(frame) {
      this.onmessage({ data: JSON.stringify(frame) });
    }

    close() {}
  };
  globalThis.fetch = async (_, { body }) => {
    const frames = body.split("\n").map((line) => JSON.parse(line));
    posted.push(frames.map(({ to }) => to));
    return answer(frames, source);
  };
  return { posted, broker: await connect("http://127.0.0.1:9470/sse") };
}

/** Takes everything, but what goes to `topic/wrong`. */
function refusing(frames, source) {
  const wrong = frames.find(({ to }) => to === "topic/wrong");
  if (wrong) {
    const error = { type: "error", ref: wrong.ref, code: 1403, name: "forbidden", message: "because", retry_ms: 0 };
    return { status: 400, ok: false, json: async () => error };
  }
  for (const { ref } of frames) source.tell({ type: "receipt", ref, id: "", level: "accepted", recipients: 0 });
  return { status: 204, ok: true };
}

test("frames that are sent in one go share a request", async () => {
  const { broker, posted } = await session(refusing);
  await Promise.all([broker.publish("topic/a", 1), broker.publish("topic/b", 2)]);
  await broker.publish("topic/c", 3);
  assert.deepEqual(posted, [["topic/a", "topic/b"], ["topic/c"]]);
});

test("a request right behind a refusal is sent", { timeout: 5_000 }, async () => {
  const { broker, posted } = await session(refusing);
  await assert.rejects(broker.publish("topic/wrong", 1), Refused);
  assert.equal((await broker.publish("topic/a", 2)).level, "accepted");
  assert.deepEqual(posted, [["topic/wrong"], ["topic/a"]]);
});

test("a failure ends the session, and what is asked then is told so", async () => {
  const { broker } = await session(() => ({ status: 401, ok: false, json: async () => ({ message: "gone" }) }));
  await assert.rejects(broker.publish("topic/a", 1), /gone/);
  await assert.rejects(broker.publish("topic/a", 2), /gone/);
});
