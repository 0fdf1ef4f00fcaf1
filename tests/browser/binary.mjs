// The binary profile of docs/browser against the vectors that all implementations share. No browser.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import path from "node:path";
import test from "node:test";
import { Splitter, decode, decodeLength, encode, encodeLength, encodeMessage } from "../../docs/browser/binary.js";

const WRITTEN = ["connect", "publish", "subscribe", "unsubscribe", "ack", "ping", "disconnect"];
const READ = ["welcome", "message", "receipt", "ok", "error", "overflow", "goaway", "close", "pong"];
const GREATEST = 16 * 1024 * 1024;

/** Name, frame and bytes of each vector of a file; those of compressed payloads have no frame. */
function vectors(name) {
  const file = path.resolve(import.meta.dirname, "../../broker/protocol/tests/vectors", name);
  return readFileSync(file, "utf8").trim().split(/\n\n+/).map((vector) => {
    const [title, ...lines] = vector.split("\n");
    const bytes = Uint8Array.from(Buffer.from(lines.pop(), "hex"));
    return { title, bytes, frame: lines.length > 0 ? plain(JSON.parse(lines[0])) : undefined };
  });
}

/** As the example has frames: payloads of bytes are bytes. */
function plain({ payload_b64, ...frame }) {
  return payload_b64 === undefined ? frame : { ...frame, payload: Uint8Array.from(Buffer.from(payload_b64, "base64")) };
}

function hex(bytes) {
  return Buffer.from(bytes).toString("hex");
}

test("frames of a client have the bytes of the vectors", () => {
  const known = vectors("client.txt").filter(({ frame }) => WRITTEN.includes(frame.type));
  assert.deepEqual([...new Set(known.map(({ frame }) => frame.type))].sort(), [...WRITTEN].sort());
  for (const { title, frame, bytes } of known) assert.equal(hex(encode(frame)), hex(bytes), title);
});

test("bytes of the vectors are read as their frames, what is not known as nothing", () => {
  const all = vectors("server.txt");
  assert.deepEqual(READ.filter((type) => !all.some(({ frame }) => frame.type === type)), []);
  for (const { title, frame, bytes } of all) {
    assert.deepEqual([...decode(bytes)], READ.includes(frame.type) ? [frame] : [], title);
  }
});

test("several frames of one message are read, behind one of a version to come", () => {
  const pong = Uint8Array.of(0x89, 1, 0, 0, 0, 0);
  const later = Uint8Array.of(0x84, 2, 3, 0, 0, 0, 1, 2, 3);
  assert.deepEqual([...decode(Buffer.concat([later, pong, pong]))], [{ type: "pong" }, { type: "pong" }]);
});

test("a frame that is cut anywhere is an error", () => {
  for (const { title, bytes } of vectors("server.txt")) {
    for (let cut = 1; cut < bytes.length; cut += 1) {
      assert.throws(() => [...decode(bytes.subarray(0, cut))], /not whole/, `${title} at ${cut}`);
    }
  }
});

test("a payload that is compressed is an error, for no codec is named", () => {
  const packed = vectors("packed.txt").find(({ title }) => title === "message lz4");
  assert.throws(() => [...decode(packed.bytes)], /compressed/);
});

test("integers of every length are written and read alike", () => {
  for (const ref of [0, 250, 251, 65_535, 65_536, 2 ** 32 - 1, 2 ** 32, Number.MAX_SAFE_INTEGER]) {
    const subscribe = encode({ type: "subscribe", ref, to: "all" });
    // The field of an ok is the first one of a subscribe.
    const field = subscribe.subarray(6, subscribe.length - "_all__".length);
    const ok = Buffer.concat([Uint8Array.of(0x84, 1, field.length, 0, 0, 0), field]);
    assert.deepEqual([...decode(ok)], [{ type: "ok", ref }]);
  }
});

test("what has no place in the profile is refused", () => {
  assert.throws(() => encode({ type: "welcome" }), /welcome/);
  const long = /^the length of .* is a whole number from 0 to 65535, not 655\d\d$/;
  const wrong = [
    [{ key: "k".repeat(65_536) }, long],
    // As many bytes more as another address has.
    [{ to: `topic/a${"x".repeat(65_536)}` }, long],
    [
      { headers: Object.fromEntries(Array.from({ length: 65_537 }, (_, index) => [`h${index}`, ""])) },
      "the number of headers is a whole number from 0 to 65535, not 65537",
    ],
    [{ priority: 256 }, "priority is a whole number from 0 to 255, not 256"],
    [{ priority: -1 }, "priority is a whole number from 0 to 255, not -1"],
    [{ priority: 1.5 }, "priority is a whole number from 0 to 255, not 1.5"],
    [{ ttl_ms: -1 }, "ttl_ms is a whole number from 0 to 18446744073709551615, not -1"],
    [{ ttl_ms: 2 ** 64 }, /^ttl_ms is a whole number/],
    [{ delay_ms: "5" }, /^delay_ms is a whole number/],
    [{ ack: "perhaps" }, "ack is one of none, accepted, stored, delivered, not perhaps"],
    [{ ref: -1 }, /^ref is a whole number/],
  ];
  for (const [fields, message] of wrong) {
    const frame = { type: "publish", to: "all", payload: 1, ...fields };
    assert.throws(() => encode(frame), { name: "RangeError", message });
  }
  for (const ref of [-1, 0.5, 2 ** 64]) {
    const message = `ref is a whole number from 0 to 18446744073709551615, not ${ref}`;
    assert.throws(() => encode({ type: "subscribe", ref, to: "all" }), { name: "RangeError", message });
  }
  encode({ type: "publish", ref: 2n ** 64n - 1n, to: "all", payload: 1, priority: 255, ttl_ms: 2 ** 62 });
});

test("lengths are those of RFC 9000", () => {
  for (const length of [0, 63, 64, 16_383, 16_384, 2 ** 30 - 1]) {
    const bytes = encodeLength(length);
    assert.deepEqual(decodeLength(bytes), { length, taken: bytes.length });
    assert.equal(decodeLength(bytes.subarray(0, bytes.length - 1)), undefined);
  }
  assert.throws(() => encodeLength(2 ** 30), RangeError);
  // Appendix A.1.
  const example = Uint8Array.from(Buffer.from("c2197c5eff14e88c", "hex"));
  assert.deepEqual(decodeLength(example), { length: 151_288_809_941_952_652, taken: 8 });
});

test("a stream in pieces of any size is the same messages", () => {
  const payloads = ["", "a", "Grüße 🐝".repeat(9), "x".repeat(20_000), "last"];
  const stream = Buffer.concat(payloads.map((payload) => encodeMessage({ type: "publish", to: "all", payload })));
  const expected = payloads.map((payload) => hex(encode({ type: "publish", to: "all", payload })));
  for (const size of [1, 2, 3, 7, 1000, 4096, stream.length]) {
    const splitter = new Splitter(GREATEST);
    const found = [];
    for (let at = 0; at < stream.length; at += size) {
      for (const message of splitter.push(stream.subarray(at, at + size))) found.push(hex(message));
    }
    assert.deepEqual(found, expected, `pieces of ${size}`);
  }
});

test("a message that is too long is refused by its length alone", () => {
  const splitter = new Splitter(1000);
  assert.equal([...splitter.push(Buffer.concat([encodeLength(1000), Buffer.alloc(1000)]))].length, 1);
  assert.throws(() => [...splitter.push(encodeLength(1001))], /1001/);
});
