// What the browser checks share: a server as a child process, headless Chromium, and the end of both.

import { spawn } from "node:child_process";
import { chromium } from "playwright-core";

const PATIENCE_MS = 30_000;

/** Starts a program and waits until what it says matches all of `patterns`; gives the first group of each match. */
export async function start(program, args, patterns) {
  const child = spawn(program, args, { stdio: ["ignore", "pipe", "pipe"] });
  let said = "";
  const groups = await new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`${program} did not start:\n${said}`)), PATIENCE_MS);
    const look = (bytes) => {
      said += bytes;
      const found = patterns.map((pattern) => said.match(pattern)?.[1]);
      if (found.every(Boolean)) {
        clearTimeout(timer);
        resolve(found);
      }
    };
    child.stdout.on("data", look);
    child.stderr.on("data", look);
    child.on("error", reject);
    child.on("exit", (code) => reject(new Error(`${program} ended with ${code}:\n${said}`)));
  });
  // The pipes are read on, so that the program never waits for a full one.
  child.removeAllListeners("exit");
  const stop = () =>
    new Promise((resolve) => {
      child.on("exit", resolve);
      child.kill("SIGTERM");
      setTimeout(() => child.kill("SIGKILL"), 5_000).unref();
    });
  return { groups, stop };
}

/** Headless Chromium: the one that CHROMIUM names, or that of the distribution. */
export function browser() {
  return chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium" });
}

/** A page of the server itself, whatever it answers to a plain request: pages of other origins may not connect. */
export async function pageOf(chrome, address) {
  const page = await chrome.newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  await page.goto(`http://${address}/`);
  return page;
}

/** Runs checks in order, stops everything, and ends the process with what became of them. */
export async function run(checks) {
  const open = [];
  const opened = (what) => (open.push(what), what);
  let failed = 0;
  try {
    const chrome = opened({ chrome: await browser() }).chrome;
    for (const [name, check] of Object.entries(checks)) {
      try {
        console.log(`ok      ${name}: ${await check(chrome, opened)}`);
      } catch (error) {
        failed += 1;
        console.log(`FAILED  ${name}: ${error.stack}`);
      }
    }
  } finally {
    for (const what of open.reverse()) {
      await (what.stop?.() ?? what.chrome.close());
    }
  }
  const passed = Object.keys(checks).length - failed;
  console.log(`${passed} passed, ${failed} failed`);
  process.exitCode = failed === 0 ? 0 : 1;
}
