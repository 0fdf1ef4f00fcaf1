// Keeps what is urgent in the store for a recipient that does not keep up, and of topics the newest of each key.

import { counter } from 'waspmq:policy/host@0.1.0';

/** The least priority that is urgent. */
let urgent = 7;

/** Throws what is wrong with the configuration. */
export function configure(text) {
  const config = { urgent, ...JSON.parse(text) };
  if (!Number.isInteger(config.urgent) || config.urgent < 0 || config.urgent > 255) {
    throw '`urgent` must be a number from 0 to 255';
  }
  urgent = config.urgent;
}

export function selfTest() {}

export function overflow(what) {
  if (what.priority >= urgent) {
    counter('spilled', 1n);
    return 'spill';
  }
  return what.kind === 'topic' ? 'conflate' : 'continue';
}
