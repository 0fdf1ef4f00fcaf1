// Asking again and again: not while the page is hidden, and more rarely while the broker does not answer.

const PAUSE_MAX_MS = 30_000;

/** How long to wait before the next try, behind so many failures in a row. */
export function pause(every, failures) {
  return Math.min(every * 2 ** failures, Math.max(every, PAUSE_MAX_MS));
}

/**
 * Runs `work` now and `every` so many milliseconds behind its end, until `signal` aborts. `work` gets a signal and throws where it fails;
 * `tell` gets what it threw and how long until the next try, or nothing when all is well.
 */
export function poll({ every, work, tell, signal, page = document }) {
  let timer;
  let failures = 0;
  let isRunning = false;
  const run = async () => {
    timer = undefined;
    if (signal.aborted || page.hidden || isRunning) return;
    isRunning = true;
    try {
      await work(signal);
      failures = 0;
      if (!signal.aborted) tell();
    } catch (error) {
      failures += 1;
      if (!signal.aborted) tell(error, pause(every, failures));
    }
    isRunning = false;
    if (!signal.aborted) timer = setTimeout(run, pause(every, failures));
  };
  const stop = () => {
    clearTimeout(timer);
    page.removeEventListener("visibilitychange", wake);
  };
  // Whoever comes back sees what holds now.
  const wake = () => {
    clearTimeout(timer);
    if (!page.hidden) run();
  };
  page.addEventListener("visibilitychange", wake);
  signal.addEventListener("abort", stop, { once: true });
  run();
}
