/** What the broker calls of an admission policy; a dash in its names is an underscore here. */

import { Kind, Message, cabi_realloc, callIsOver, storeResult, storeText, textAt } from "./waspmq";
import * as policy from "./policy";

export { cabi_realloc };

const said = memory.data(16, 4);

export function configure(ptr: usize, len: u32): usize {
  return storeResult(said, policy.configure(textAt(ptr, len)));
}
export function self_test(): usize {
  return storeResult(said, null);
}
export function admit(
  sender: usize, senderLen: u32, address: usize, addressLen: u32, kind: u32, key: usize, keyLen: u32, size: u32,
  priority: u32, ts: u64,
): usize {
  const admission = policy.admit(new Message(
    textAt(sender, senderLen), textAt(address, addressLen), <Kind>kind, textAt(key, keyLen), size, <u8>priority, ts,
  ));
  store<u8>(said, <u8>admission.answer);
  storeText(said + 4, admission.reason);
  store<u32>(said, admission.retryMs, 12);
  return said;
}
export function cabi_post_configure(at: usize): void {
  callIsOver();
}
export function cabi_post_self_test(at: usize): void {
  callIsOver();
}
export function cabi_post_admit(at: usize): void {
  callIsOver();
}
