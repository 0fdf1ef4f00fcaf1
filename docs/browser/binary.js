// The binary profile: frames to bytes and back, and messages on a stream of bytes.
//
// A frame is the object that the JSON profile would send. Two things differ: a payload of bytes is a Uint8Array in `payload` instead
// of base64 in `payload_b64`, and what this file does not know is an error to write and `null` to read.
// docs/PROTOCOL.md has the layouts, docs/QUIC.md the lengths in front of messages.

const VERSION = 1;
const PREFIX_BYTES = 6;
const LEVELS = ["none", "accepted", "stored", "delivered"];

const FLAG = {
  ref: 1,
  exclude_self: 2,
  dedup: 4,
  key: 8,
  reply_to: 16,
  headers: 32,
  ttl_ms: 64,
  delay_ms: 128,
  queue: 256,
  attempt: 512,
  from: 1024,
  ack: 2048,
  packed: 4096,
};

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** What is wrong with bytes from the broker. */
export class InvalidFrame extends Error {}

// ---------------------------------------------------------------------------------------------------------------------------------
// Writing

/** The bytes of a frame. */
export function encode(frame) {
  const [number, body] = WRITERS[frame.type] ?? [];
  if (!number) throw new TypeError(`a frame of type ${frame.type} cannot be written`);
  const out = new Writer();
  body(out, frame);
  const bytes = new Uint8Array(PREFIX_BYTES + out.length);
  bytes.set([number, VERSION]);
  new DataView(bytes.buffer).setUint32(2, out.length, true);
  out.copyTo(bytes, PREFIX_BYTES);
  return bytes;
}

/** A frame as a message on a stream: its length, then its bytes. */
export function encodeMessage(frame) {
  const bytes = encode(frame);
  const prefix = encodeLength(bytes.length);
  const message = new Uint8Array(prefix.length + bytes.length);
  message.set(prefix);
  message.set(bytes, prefix.length);
  return message;
}

/** A length as RFC 9000, section 16, writes it, in as few bytes as it takes. Messages are below 2^30 bytes. */
export function encodeLength(length) {
  if (length < 2 ** 6) return Uint8Array.of(length);
  if (length < 2 ** 14) return Uint8Array.of(0x40 | (length >> 8), length & 0xff);
  if (length >= 2 ** 30) throw new RangeError(`a message of ${length} bytes`);
  return Uint8Array.of(0x80 | (length >> 24), (length >> 16) & 0xff, (length >> 8) & 0xff, length & 0xff);
}

const WRITERS = {
  connect: [0x01, writeConnect],
  publish: [0x02, writePublish],
  subscribe: [0x03, (out, { ref, to, queue, from }) => {
    out.option(ref, "varint", "ref").text(to).option(queue, "text").option(from, "text");
  }],
  unsubscribe: [0x04, (out, { ref, to, queue }) => {
    out.option(ref, "varint", "ref").text(to).option(queue, "text");
  }],
  ack: [0x07, (out, { ref, ids = [], to, upto, queue }) => {
    out.option(ref, "varint", "ref").varint(ids.length);
    for (const id of ids) out.bytes(Uint8Array.from(id.match(/../g), (pair) => parseInt(pair, 16)));
    out.option(to, "text").option(upto, "text").option(queue, "text");
  }],
  ping: [0x0e, () => {}],
  disconnect: [0x0f, () => {}],
};

function writeConnect(out, { user, device, token, codecs = [], batch = false, resume, datagrams, streams }) {
  out.option(user, "text").option(device, "text").option(token, "text");
  out.texts(codecs).u8(batch ? 1 : 0).u8(resume ? 1 : 0);
  if (resume) out.text(resume.token).texts(resume.positions);
  out.u8(datagrams ? 1 : 0).u8(streams ? 1 : 0);
}

function writePublish(out, frame) {
  const isBytes = frame.payload instanceof Uint8Array;
  const headers = Object.entries(frame.headers ?? {});
  let flags = frame.exclude_self ? FLAG.exclude_self : 0;
  for (const name of ["ref", "dedup", "key", "reply_to", "ttl_ms", "delay_ms"]) {
    if (frame[name] !== undefined) flags |= FLAG[name];
  }
  if (headers.length > 0) flags |= FLAG.headers;
  const to = encoder.encode(frame.to);
  const ack = frame.ack ?? (frame.ref === undefined ? "none" : "accepted");
  if (!LEVELS.includes(ack)) throw new RangeError(`ack is one of ${LEVELS.join(", ")}, not ${ack}`);
  out.u16(flags).u8(isBytes ? 0 : 1).u8(LEVELS.indexOf(ack)).u8(frame.priority ?? 0, "priority").u8(0);
  out.u16(to.length, "the length of `to`");
  for (const name of ["ref", "ttl_ms", "delay_ms"]) {
    if (frame[name] !== undefined) out.u64(frame[name], name);
  }
  out.bytes(to);
  for (const name of ["dedup", "key", "reply_to"]) {
    if (frame[name] !== undefined) out.shortText(frame[name]);
  }
  if (headers.length > 0) {
    out.u16(headers.length, "the number of headers");
    for (const [name, value] of headers) out.shortText(name).shortText(value);
  }
  out.bytes(isBytes ? frame.payload : encoder.encode(JSON.stringify(frame.payload)));
}

/** Bytes that are appended. Integers are little-endian; `varint`, `text` and `option` are those of bincode. */
class Writer {
  #pieces = [];
  length = 0;

  bytes(bytes) {
    this.#pieces.push(bytes);
    this.length += bytes.length;
    return this;
  }

  /** What does not fit is an error: a length that was cut off would make another frame of the rest. */
  #check(size, value, name) {
    const isInteger = typeof value === "bigint" || Number.isInteger(value);
    if (isInteger && value >= 0 && value < 2 ** (8 * size)) return;
    throw new RangeError(`${name} is a whole number from 0 to ${2n ** BigInt(8 * size) - 1n}, not ${value}`);
  }

  #integer(size, value, name) {
    this.#check(size, value, name);
    const bytes = new Uint8Array(8);
    new DataView(bytes.buffer).setBigUint64(0, BigInt(value), true);
    return this.bytes(bytes.subarray(0, size));
  }

  u8(value, name) {
    return this.#integer(1, value, name);
  }

  u16(value, name) {
    return this.#integer(2, value, name);
  }

  u32(value, name) {
    return this.#integer(4, value, name);
  }

  u64(value, name) {
    return this.#integer(8, value, name);
  }

  varint(value, name) {
    this.#check(8, value, name);
    if (value < 251) return this.u8(value, name);
    if (value < 2 ** 16) return this.u8(251).u16(value, name);
    if (value < 2 ** 32) return this.u8(252).u32(value, name);
    return this.u8(253).u64(value, name);
  }

  text(text) {
    const bytes = encoder.encode(text);
    return this.varint(bytes.length).bytes(bytes);
  }

  texts(texts) {
    this.varint(texts.length);
    for (const text of texts) this.text(text);
    return this;
  }

  option(value, kind, name) {
    return value === undefined ? this.u8(0) : this.u8(1)[kind](value, name);
  }

  shortText(text) {
    const bytes = encoder.encode(text);
    return this.u16(bytes.length, "the length of a text").bytes(bytes);
  }

  copyTo(target, at) {
    for (const piece of this.#pieces) {
      target.set(piece, at);
      at += piece.length;
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------------------
// Reading

/** The frames of one message. */
export function* decode(message) {
  for (let at = 0; at < message.length; ) {
    const prefix = new Reader(message.subarray(at));
    const number = prefix.u8();
    const version = prefix.u8();
    const body = prefix.take(prefix.u32());
    at += PREFIX_BYTES + body.length;
    const [type, read] = (version === VERSION && READERS[number]) || [];
    if (type) yield { type, ...compact(read(new Reader(body))) };
  }
}

const READERS = {
  0x81: ["welcome", readWelcome],
  0x82: ["message", readMessage],
  0x83: ["receipt", (from) => ({
    ref: from.varint(),
    id: from.hex(16),
    level: LEVELS[from.u8()],
    recipients: from.varint(),
  })],
  0x84: ["ok", (from) => ({ ref: from.option("varint") })],
  0x85: ["error", (from) => ({
    ref: from.option("varint"),
    code: from.varint(),
    name: from.text(),
    message: from.text(),
    retry_ms: from.varint(),
  })],
  0x86: ["overflow", (from) => ({
    to: from.text(),
    dropped: from.varint(),
    action: from.isAtEnd ? undefined : from.option("text"),
  })],
  0x88: ["goaway", (from) => ({ reason: from.text(), reconnect_ms: from.varint() })],
  0x8d: ["close", (from) => ({ code: from.varint(), name: from.text(), message: from.text() })],
  0x89: ["pong", () => ({})],
};

function readWelcome(from) {
  return {
    session: from.text(),
    resume_token: from.option("text"),
    node: from.text(),
    resumed: from.u8() === 1,
    recovered: from.u8() === 1,
    heartbeat_ms: from.varint(),
    limits: { max_message_bytes: from.varint() },
  };
}

function readMessage(from) {
  const flags = from.u16();
  const isJson = from.u8() === 1;
  const priority = from.u8();
  const id = from.hex(16);
  const pos = `s${from.u16()}e${from.u32()}:${from.u64()}`;
  const ts = Number(from.u64());
  const toLength = from.u16();
  const fromLength = from.u16();
  const has = (name) => (flags & FLAG[name]) !== 0;
  if (has("packed")) throw new InvalidFrame("a compressed payload, and no codec was named in connect");
  const message = {
    id,
    to: from.utf8(toLength),
    from: from.utf8(fromLength) || undefined,
    pos,
    ts,
    priority: priority || undefined,
    key: has("key") ? from.shortText() : undefined,
    reply_to: has("reply_to") ? from.shortText() : undefined,
    queue: has("queue") ? from.shortText() : undefined,
    attempt: has("attempt") ? from.u16() : undefined,
    headers: has("headers") ? readHeaders(from) : undefined,
    ack: has("ack") || undefined,
  };
  const payload = from.rest();
  return { ...message, payload: isJson ? JSON.parse(decoder.decode(payload)) : payload.slice() };
}

function readHeaders(from) {
  return Object.fromEntries(Array.from({ length: from.u16() }, () => [from.shortText(), from.shortText()]));
}

/** Without fields that are absent. */
function compact(frame) {
  return Object.fromEntries(Object.entries(frame).filter(([, value]) => value !== undefined));
}

/** Bytes that are read from the front. */
class Reader {
  #bytes;
  #view;
  #at = 0;

  constructor(bytes) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  get isAtEnd() {
    return this.#at === this.#bytes.length;
  }

  #advance(count) {
    if (count > this.#bytes.length - this.#at) throw new InvalidFrame("a frame that is not whole");
    this.#at += count;
    return this.#at - count;
  }

  take(count) {
    const start = this.#advance(count);
    return this.#bytes.subarray(start, start + count);
  }

  rest() {
    return this.take(this.#bytes.length - this.#at);
  }

  u8() {
    return this.#view.getUint8(this.#advance(1));
  }

  u16() {
    return this.#view.getUint16(this.#advance(2), true);
  }

  u32() {
    return this.#view.getUint32(this.#advance(4), true);
  }

  u64() {
    return this.#view.getBigUint64(this.#advance(8), true);
  }

  varint() {
    const first = this.u8();
    if (first < 251) return first;
    if (first === 251) return this.u16();
    if (first === 252) return this.u32();
    if (first === 253) return Number(this.u64());
    throw new InvalidFrame("an integer of more than 64 bits");
  }

  utf8(count) {
    return decoder.decode(this.take(count));
  }

  text() {
    return this.utf8(this.varint());
  }

  shortText() {
    return this.utf8(this.u16());
  }

  option(kind) {
    return this.u8() === 0 ? undefined : this[kind]();
  }

  hex(count) {
    return Array.from(this.take(count), (byte) => byte.toString(16).padStart(2, "0")).join("");
  }
}

// ---------------------------------------------------------------------------------------------------------------------------------
// Messages on a stream

/** Cuts a stream, which comes in pieces of any size, into messages. */
export class Splitter {
  #most;
  #buffer = new Uint8Array(4096);
  #start = 0;
  #end = 0;

  /** `most` bounds a message, and with it what is kept here. */
  constructor(most) {
    this.#most = most;
  }

  /** Takes a piece and gives the messages that are whole now. They are good until the next one is asked for. */
  *push(piece) {
    this.#append(piece);
    for (;;) {
      const waiting = this.#buffer.subarray(this.#start, this.#end);
      const { length, taken } = decodeLength(waiting) ?? {};
      if (length > this.#most) throw new InvalidFrame(`a message of ${length} bytes`);
      if (length === undefined || waiting.length < taken + length) return;
      this.#start += taken + length;
      yield waiting.subarray(taken, taken + length);
    }
  }

  #append(piece) {
    const waiting = this.#end - this.#start;
    const needed = waiting + piece.length;
    if (this.#end + piece.length > this.#buffer.length) {
      const room = needed > this.#buffer.length ? new Uint8Array(2 * needed) : this.#buffer;
      room.set(this.#buffer.subarray(this.#start, this.#end));
      this.#buffer = room;
      this.#start = 0;
      this.#end = waiting;
    }
    this.#buffer.set(piece, this.#end);
    this.#end += piece.length;
  }
}

/** The length at the front and how many bytes it takes, if they are all there. */
export function decodeLength(bytes) {
  if (bytes.length === 0) return undefined;
  const taken = 1 << (bytes[0] >> 6);
  if (bytes.length < taken) return undefined;
  let length = bytes[0] & 0x3f;
  // Not by shifting, which is for 32 bits: a length may have 62.
  for (const byte of bytes.subarray(1, taken)) length = length * 256 + byte;
  return { length, taken };
}
