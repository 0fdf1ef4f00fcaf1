/** What the broker calls of an overflow policy; a dash in its names is an underscore here. */

import { Kind, cabi_realloc, callIsOver, storeResult, textAt } from "./waspmq";
import { Action, Overflowing } from "./types";
import * as policy from "./policy";

export { cabi_realloc };

const said = memory.data(16, 4);

export function configure(ptr: usize, len: u32): usize {
  return storeResult(said, policy.configure(textAt(ptr, len)));
}
export function self_test(): usize {
  return storeResult(said, null);
}
export function overflow(
  address: usize, addressLen: u32, recipient: usize, recipientLen: u32, kind: u32, priority: u32, size: u32,
  queuedBytes: u32, queuedBytesMax: u32, configured: u32,
): u32 {
  const action = policy.overflow(new Overflowing(
    textAt(address, addressLen), textAt(recipient, recipientLen), <Kind>kind, <u8>priority, size, queuedBytes,
    queuedBytesMax, <Action>configured,
  ));
  callIsOver();
  return action;
}
export function cabi_post_configure(at: usize): void {
  callIsOver();
}
export function cabi_post_self_test(at: usize): void {
  callIsOver();
}
