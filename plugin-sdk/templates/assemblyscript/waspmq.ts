/**
 * The contract with the broker, wit/policy.wit, for AssemblyScript: what policies are told, what they may ask, and how texts
 * cross. `exports.ts` calls `policy.ts` with it. Not here: what is decided.
 *
 * Texts cross as UTF-16, which is what AssemblyScript has. Garbage is collected every 256 calls and when the broker has passed
 * 1 MiB, behind a call, when its answer has been read and nothing runs.
 */

export enum Kind { User, Group, Topic, All }
export enum LogLevel { Debug, Info, Warn, Error }

export class Message {
  constructor(
    public sender: string,
    public address: string,
    public kind: Kind,
    /** Empty: there is none. */
    public key: string,
    /** Bytes of the payload. */
    public size: u32,
    public priority: u8,
    /** Milliseconds since 1970. */
    public ts: u64,
  ) {}
}

export class Header {
  constructor(public name: string, public value: string) {}
}

// ---- memory that the broker writes to ----

const BLOCK: usize = 64 * 1024;
const COLLECT_EVERY: u32 = 256;
const COLLECT_BYTES: usize = 1 << 20;
let block: usize = 0;
let used: usize = 0;
const large: usize[] = [];
let calls: u32 = 0;
/** Bytes of texts and values that were made since the last collection. */
let made: usize = 0;

/** Room for what the broker passes, until the call is over. */
export function cabi_realloc(old: usize, oldBytes: usize, align: usize, bytes: usize): usize {
  if (bytes <= oldBytes) return old;
  if (block == 0) block = heap.alloc(BLOCK);
  let start = (used + align - 1) & ~(align - 1);
  let room: usize;
  if (bytes > BLOCK || start + bytes > BLOCK) {
    room = heap.alloc(bytes);
    large.push(room);
  } else {
    room = block + start;
    used = start + bytes;
  }
  memory.copy(room, old, oldBytes);
  return room;
}

/** Behind each call, when its answer has been read. */
export function callIsOver(): void {
  used = 0;
  while (large.length > 0) heap.free(large.pop());
  if (++calls % COLLECT_EVERY != 0 && made < COLLECT_BYTES) return;
  made = 0;
  __collect();
}

export function textAt(ptr: usize, len: u32): string {
  made += <usize>len << 1;
  return String.UTF16.decodeUnsafe(ptr, <usize>len << 1);
}

export function storeText(at: usize, text: string): void {
  store<usize>(at, changetype<usize>(text));
  store<u32>(at, text.length, 4);
}

/** A list of headers as the contract lays it out. */
export function storeHeaders(at: usize, headers: Header[]): void {
  const list = cabi_realloc(0, 0, 4, 16 * <usize>headers.length);
  for (let i = 0; i < headers.length; i++) {
    storeText(list + 16 * <usize>i, headers[i].name);
    storeText(list + 16 * <usize>i + 8, headers[i].value);
  }
  store<usize>(at, list);
  store<u32>(at, headers.length, 4);
}

export function storeTexts(at: usize, texts: string[]): void {
  const list = cabi_realloc(0, 0, 4, 8 * <usize>texts.length);
  for (let i = 0; i < texts.length; i++) storeText(list + 8 * <usize>i, texts[i]);
  store<usize>(at, list);
  store<u32>(at, texts.length, 4);
}

/** `null`, or what is wrong with the configuration. */
export function storeResult(at: usize, error: string | null): usize {
  store<u8>(at, error === null ? 0 : 1);
  if (error !== null) storeText(at + 4, error);
  return at;
}

// ---- what may be asked of the broker ----

@external("waspmq:policy/host@0.1.0", "log")
declare function importLog(level: u32, ptr: usize, len: u32): void;
@external("waspmq:policy/host@0.1.0", "counter")
declare function importCounter(ptr: usize, len: u32, delta: u64): void;
@external("waspmq:policy/host@0.1.0", "histogram")
declare function importHistogram(ptr: usize, len: u32, value: u64): void;
@external("waspmq:policy/host@0.1.0", "header")
declare function importHeader(ptr: usize, len: u32, to: usize): void;
@external("waspmq:policy/host@0.1.0", "headers")
declare function importHeaders(to: usize): void;
@external("waspmq:policy/host@0.1.0", "payload")
declare function importPayload(to: usize): void;
@external("waspmq:policy/host@0.1.0", "kv-get")
declare function importKvGet(ptr: usize, len: u32, to: usize): void;
@external("waspmq:policy/host@0.1.0", "kv-set")
declare function importKvSet(ptr: usize, len: u32, value: usize, bytes: u32, ttlMs: u64): u32;
@external("waspmq:policy/host@0.1.0", "kv-delete")
declare function importKvDelete(ptr: usize, len: u32): void;
@external("waspmq:policy/host@0.1.0", "kv-compare-and-set")
declare function importKvCompareAndSet(
  ptr: usize, len: u32, isSome: u32, expected: usize, expectedBytes: u32, value: usize, bytes: u32, ttlMs: u64,
): u32;
@external("waspmq:policy/host@0.1.0", "kv-add")
declare function importKvAdd(ptr: usize, len: u32, delta: i64, ttlMs: u64, to: usize): void;
@external("waspmq:policy/host@0.1.0", "take")
declare function importTake(ptr: usize, len: u32, amount: u32, perSecond: u32, burst: u32): u32;
@external("waspmq:policy/host@0.1.0", "in-flight")
declare function importInFlight(version: u64, to: usize): void;
@external("waspmq:policy/host@0.1.0", "now")
declare function importNow(): u64;
@external("waspmq:policy/host@0.1.0", "random")
declare function importRandom(): u64;
@external("waspmq:policy/host@0.1.0", "is-online")
declare function importIsOnline(ptr: usize, len: u32): u32;
@external("waspmq:policy/host@0.1.0", "group-size")
declare function importGroupSize(ptr: usize, len: u32): u32;

const answer = memory.data(16, 8);

export namespace host {
  export function log(level: LogLevel, text: string): void {
    importLog(level, changetype<usize>(text), text.length);
  }
  export function counter(name: string, delta: u64): void {
    importCounter(changetype<usize>(name), name.length, delta);
  }
  export function histogram(name: string, value: u64): void {
    importHistogram(changetype<usize>(name), name.length, value);
  }
  /** The value of one header of the message under decision. */
  export function header(name: string): string | null {
    importHeader(changetype<usize>(name), name.length, answer);
    return load<u8>(answer) == 0 ? null : textAt(load<usize>(answer, 4), load<u32>(answer, 8));
  }
  export function headers(): Header[] {
    importHeaders(answer);
    const list = load<usize>(answer), count = load<u32>(answer, 4);
    const all: Header[] = [];
    for (let at = list; at < list + 16 * count; at += 16) {
      all.push(new Header(textAt(load<usize>(at), load<u32>(at, 4)), textAt(load<usize>(at, 8), load<u32>(at, 12))));
    }
    return all;
  }
  export function payload(): Uint8Array {
    importPayload(answer);
    return bytesAt(load<usize>(answer), load<u32>(answer, 4));
  }
  export function kvGet(key: string): Uint8Array | null {
    importKvGet(changetype<usize>(key), key.length, answer);
    return load<u8>(answer) == 0 ? null : bytesAt(load<usize>(answer, 4), load<u32>(answer, 8));
  }
  export function kvSet(key: string, value: Uint8Array, ttlMs: u64): bool {
    return importKvSet(changetype<usize>(key), key.length, value.dataStart, value.length, ttlMs) != 0;
  }
  export function kvDelete(key: string): void {
    importKvDelete(changetype<usize>(key), key.length);
  }
  export function kvCompareAndSet(key: string, expected: Uint8Array | null, value: Uint8Array, ttlMs: u64): bool {
    const start = expected === null ? 0 : expected.dataStart, bytes = expected === null ? 0 : expected.length;
    return importKvCompareAndSet(
      changetype<usize>(key), key.length, expected === null ? 0 : 1, start, bytes, value.dataStart, value.length, ttlMs,
    ) != 0;
  }
  /** The sum, or `i64.MIN_VALUE` when the value is no number or there is no room. */
  export function kvAdd(key: string, delta: i64, ttlMs: u64): i64 {
    importKvAdd(changetype<usize>(key), key.length, delta, ttlMs, answer);
    return load<u8>(answer) == 0 ? i64.MIN_VALUE : load<i64>(answer, 8);
  }
  export function take(bucket: string, amount: u32, perSecond: u32, burst: u32): bool {
    return importTake(changetype<usize>(bucket), bucket.length, amount, perSecond, burst) != 0;
  }
  /** Milliseconds since 1970. */
  export function now(): u64 {
    return importNow();
  }
  export function random(): u64 {
    return importRandom();
  }
  export function isOnline(user: string): bool {
    return importIsOnline(changetype<usize>(user), user.length) != 0;
  }
  /** What each member of the queue with this version of members has in flight; none when the version is not current. */
  export function inFlight(version: u64): u32[] {
    importInFlight(version, answer);
    const list = load<usize>(answer), count = load<u32>(answer, 4);
    made += 4 * <usize>count;
    const numbers: u32[] = [];
    for (let at = list; at < list + 4 * count; at += 4) numbers.push(load<u32>(at));
    return numbers;
  }
  export function groupSize(group: string): u32 {
    return importGroupSize(changetype<usize>(group), group.length);
  }
}

function bytesAt(ptr: usize, len: u32): Uint8Array {
  made += len;
  const bytes = new Uint8Array(len);
  memory.copy(bytes.dataStart, ptr, len);
  return bytes;
}
