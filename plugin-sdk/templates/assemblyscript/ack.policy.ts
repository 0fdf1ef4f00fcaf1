/** Has urgent messages delivered in several attempts, and waits for who is offline. */

import { Flat } from "./json";
import { Message, host } from "./waspmq";
import { AckPlan, Cause, Decision, Failure, Level } from "./types";

/** How long somebody who is offline is waited for until the broker looks again. */
const OFFLINE_MS: u32 = 60000;

/** The least priority that is urgent. */
let urgent: i64 = 7;
let attempts: i64 = 5;
let timeoutMs: i64 = 2000;

/** `null`, or what is wrong. */
export function configure(text: string): string | null {
  const config = new Flat(text);
  if (config.has("urgent")) urgent = config.number("urgent", 255);
  if (urgent < 0) return "`urgent` must be a number from 0 to 255";
  if (config.has("attempts")) attempts = config.number("attempts", 1000);
  if (attempts < 1) return "`attempts` must be a number from 1 to 1000";
  if (config.has("timeout_ms")) timeoutMs = config.number("timeout_ms", 86400000);
  if (timeoutMs < 1) return "`timeout_ms` must be a number from 1 to 86400000";
  return null;
}

/** `null` leaves it to the next policy. */
export function plan(message: Message, configured: AckPlan): AckPlan | null {
  if (<i64>message.priority < urgent) return null;
  host.counter("urgent", 1);
  configured.level = Level.Delivered;
  configured.attempts = <u16>attempts;
  configured.timeoutMs = <u32>timeoutMs;
  return configured;
}

export function failed(failure: Failure): Decision {
  if (failure.cause == Cause.Offline) return Decision.wait(OFFLINE_MS);
  if (failure.cause == Cause.Nack && failure.hasRetry) return Decision.retry(failure.retryMs);
  return Decision.pass();
}
