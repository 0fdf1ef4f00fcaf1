/** What the broker calls of a routing policy; a dash in its names is an underscore here. */

import { Kind, Message, cabi_realloc, callIsOver, storeHeaders, storeResult, storeText, storeTexts, textAt } from "./waspmq";
import { QueueMembers, Route } from "./types";
import * as policy from "./policy";

export { cabi_realloc };

const said = memory.data(40, 8);

export function configure(ptr: usize, len: u32): usize {
  return storeResult(said, policy.configure(textAt(ptr, len)));
}
export function self_test(): usize {
  return storeResult(said, null);
}
export function members_changed(
  pattern: usize, patternLen: u32, queue: usize, queueLen: u32, version: u64, members: usize, count: u32,
): void {
  const names: string[] = [];
  for (let at = members; at < members + 8 * count; at += 8) names.push(textAt(load<usize>(at), load<u32>(at, 4)));
  policy.membersChanged(new QueueMembers(textAt(pattern, patternLen), textAt(queue, queueLen), version, names));
  callIsOver();
}
export function route(
  sender: usize, senderLen: u32, address: usize, addressLen: u32, kind: u32, key: usize, keyLen: u32, size: u32,
  priority: u32, ts: u64,
): usize {
  const verdict = policy.route(new Message(
    textAt(sender, senderLen), textAt(address, addressLen), <Kind>kind, textAt(key, keyLen), size, <u8>priority, ts,
  ));
  store<u8>(said, <u8>verdict.route);
  if (verdict.route == Route.Redirect || verdict.route == Route.Drop) storeText(said + 8, verdict.to[0]);
  if (verdict.route == Route.FanOut) storeTexts(said + 8, verdict.to);
  if (verdict.route == Route.Pick) {
    store<u64>(said, verdict.version, 8);
    store<u32>(said, verdict.index, 16);
  }
  storeHeaders(said + 24, verdict.setHeaders);
  store<u8>(said, <u8>verdict.cache, 32);
  return said;
}
export function cabi_post_configure(at: usize): void {
  callIsOver();
}
export function cabi_post_self_test(at: usize): void {
  callIsOver();
}
export function cabi_post_route(at: usize): void {
  callIsOver();
}
