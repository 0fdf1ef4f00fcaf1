// Sends messages on by the value of one header, and drops those that are too large.

import { counter, header } from 'waspmq:policy/host@0.1.0';

/** The header that is looked at, what its value is put behind, bytes of the largest payload. */
let policy = { header: '', to: '', bytes_max: 65536 };

/** Throws what is wrong with the configuration. */
export function configure(text) {
  const config = { ...policy, header: undefined, to: undefined, ...JSON.parse(text) };
  if (typeof config.header !== 'string') throw '`header` must be a text';
  if (typeof config.to !== 'string') throw '`to` must be a text';
  const isNumber = Number.isInteger(config.bytes_max) && config.bytes_max >= 0 && config.bytes_max <= 4294967295;
  if (!isNumber) throw '`bytes_max` must be a number';
  policy = config;
}

export function selfTest() {}

export function route(message) {
  if (message.size > policy.bytes_max) return verdict({ tag: 'drop', val: `more than ${policy.bytes_max} bytes` });
  const value = header(policy.header);
  if (value) {
    counter('sent_on', 1n);
    return verdict({ tag: 'redirect', val: policy.to + value });
  }
  return verdict({ tag: 'continue' }, [['checked', 'yes']]);
}

/** This policy chooses no member of a queue. */
export function membersChanged(members) {}

function verdict(route, setHeaders = []) {
  return { route, setHeaders, cache: 'never' };
}
