// Has urgent messages delivered in several attempts, and waits for who is offline.

import { counter } from 'waspmq:policy/host@0.1.0';

/** How long somebody who is offline is waited for until the broker looks again. */
const OFFLINE_MS = 60000;

/** The least priority that is urgent, the attempts, and what one may take. */
let policy = { urgent: 7, attempts: 5, timeout_ms: 2000 };

/** Throws what is wrong with the configuration. */
export function configure(text) {
  const config = { ...policy, ...JSON.parse(text) };
  const isWithin = (number, least, most) => Number.isInteger(number) && number >= least && number <= most;
  if (!isWithin(config.urgent, 0, 255)) throw '`urgent` must be a number from 0 to 255';
  if (!isWithin(config.attempts, 1, 1000)) throw '`attempts` must be a number from 1 to 1000';
  if (!isWithin(config.timeout_ms, 1, 86400000)) throw '`timeout_ms` must be a number from 1 to 86400000';
  policy = config;
}

export function selfTest() {}

/** Nothing leaves it to the next policy. */
export function plan(message, configured) {
  if (message.priority < policy.urgent) return undefined;
  counter('urgent', 1n);
  return { ...configured, level: 'delivered', attempts: policy.attempts, timeoutMs: policy.timeout_ms };
}

export function failed(failure) {
  if (failure.cause === 'offline') return { tag: 'wait', val: OFFLINE_MS };
  if (failure.cause === 'nack' && failure.retryMs !== undefined) return { tag: 'retry', val: failure.retryMs };
  return { tag: 'continue' };
}
