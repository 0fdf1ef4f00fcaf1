// Takes in so many messages a second of each sender.

import { counter, take } from 'waspmq:policy/host@0.1.0';

/** When to try again, for who was refused. */
const RETRY_MS = 1000;

/** As many as `burst` are taken in at once. */
let policy = { per_second: 10, burst: 20 };

/** Throws what is wrong with the configuration. */
export function configure(text) {
  const config = { ...policy, ...JSON.parse(text) };
  for (const key of ['per_second', 'burst']) {
    const isRate = Number.isInteger(config[key]) && config[key] >= 1 && config[key] <= 4294967295;
    if (!isRate) throw `\`${key}\` must be a number, at least 1`;
  }
  policy = config;
}

export function selfTest() {}

export function admit(message) {
  if (take(`from/${message.sender}`, 1, policy.per_second, policy.burst)) return { tag: 'continue' };
  counter('refused', 1n);
  const reason = `more than ${policy.per_second} messages a second`;
  return { tag: 'refuse', val: { reason, retryMs: RETRY_MS } };
}
