/** What the broker calls of an ack policy; a dash in its names is an underscore here. */

import { Kind, Message, cabi_realloc, callIsOver, storeResult, textAt } from "./waspmq";
import { AckPlan, Cause, Failure } from "./types";
import * as policy from "./policy";

export { cabi_realloc };

const said = memory.data(40, 8);

export function configure(ptr: usize, len: u32): usize {
  return storeResult(said, policy.configure(textAt(ptr, len)));
}
export function self_test(): usize {
  return storeResult(said, null);
}
/** A message and the plan that is configured, in memory: they are too many for parameters. */
export function plan(at: usize): usize {
  const message = new Message(
    textAt(load<usize>(at), load<u32>(at, 4)), textAt(load<usize>(at, 8), load<u32>(at, 12)), <Kind>load<u8>(at, 16),
    textAt(load<usize>(at, 20), load<u32>(at, 24)), load<u32>(at, 28), load<u8>(at, 32), load<u64>(at, 40),
  );
  const plan = policy.plan(message, AckPlan.at(at + 48));
  store<u8>(said, plan === null ? 0 : 1);
  if (plan !== null) plan.store(said + 4);
  return said;
}
export function failed(
  address: usize, addressLen: u32, sender: usize, senderLen: u32, recipient: usize, recipientLen: u32, cause: u32,
  attempt: u32, messages: u32, waitedMs: u64, hasRetry: u32, retryMs: u32, attempts: u32, random: u64,
): usize {
  const decision = policy.failed(new Failure(
    textAt(address, addressLen), textAt(sender, senderLen), textAt(recipient, recipientLen), <Cause>cause,
    <u16>attempt, <u16>messages, waitedMs, hasRetry != 0, retryMs, <u16>attempts, random,
  ));
  store<u8>(said, <u8>decision.what);
  store<u32>(said, decision.ms, 4);
  return said;
}
export function cabi_post_configure(at: usize): void {
  callIsOver();
}
export function cabi_post_self_test(at: usize): void {
  callIsOver();
}
export function cabi_post_plan(at: usize): void {
  callIsOver();
}
export function cabi_post_failed(at: usize): void {
  callIsOver();
}
