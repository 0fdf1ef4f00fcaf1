// What the browser checks share: a server as a child process, headless Chromium, files for its pages, and the end of all of them.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import path from "node:path";

const PATIENCE_MS = 30_000;
const root = path.resolve(import.meta.dirname, "../..");
const target = path.resolve(root, process.env.CARGO_TARGET_DIR ?? "target");
export const built = path.join(target, "debug");
// Where `cargo xtask browser` installs it: node looks for packages beside this file only.
const { chromium } = createRequire(path.join(target, "tools/browser/"))("playwright-core");

/** Where a program that cargo built is. */
export function program(name) {
  return path.join(built, name);
}

/** Starts a program and waits until what it says matches all of `patterns`; gives the first group of each match. */
export async function start(program, args, patterns) {
  const child = spawn(program, args, { stdio: ["ignore", "pipe", "pipe"] });
  let said = "";
  const groups = await new Promise((resolve, reject) => {
    const fail = (why) => {
      child.kill("SIGKILL");
      reject(new Error(`${program} ${why}:\n${said}`));
    };
    const timer = setTimeout(() => fail("did not start"), PATIENCE_MS);
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
    child.on("exit", (code) => fail(`ended with ${code}`));
  });
  // The pipes are read on, so that the program never waits for a full one.
  child.removeAllListeners("exit");
  let stopped;
  const stop = () => {
    stopped ??= new Promise((resolve) => {
      child.on("exit", resolve);
      child.kill("SIGTERM");
      setTimeout(() => child.kill("SIGKILL"), 5_000).unref();
    });
    return stopped;
  };
  return { groups, stop };
}

/** A broker with data of its own: where it listens, its certificate's fingerprint, and its admin API. */
export async function broker(opened, configuration = "") {
  const data = await mkdtemp(path.join(tmpdir(), "waspmq-browser-"));
  opened({ stop: () => rm(data, { recursive: true, force: true }) });
  const file = path.join(data, "waspmq.toml");
  await writeFile(file, configuration);
  const args = ["serve", "--config", file, "--data-dir", data, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
  const patterns = [/ws:\/\/([^\s/]+)\/ws/, /quic:\/\/(\S+)/, /sha-256\s+(\S+)/, /http:\/\/([^\s/]+)\//];
  const { groups, stop } = opened(await start(program("waspmq"), args, patterns));
  const [address, quic, fingerprint, admin] = groups;
  const token = (await readFile(path.join(data, "admin-token"), "utf8")).trim();
  const call = (method, path, { body, type = "application/json" } = {}) => {
    const headers = { authorization: `Bearer ${token}`, ...(body === undefined ? {} : { "content-type": type }) };
    return fetch(`http://${admin}${path}`, { method, headers, body });
  };
  return { address, admin, token, webSocket: `ws://${address}/ws`, webTransport: `https://${quic}/wt`, events: `http://${address}/sse`, fingerprint, call, stop };
}

/** The number that the broker's metrics have for a name with its labels. */
export async function metric({ call }, name) {
  const metrics = await (await call("GET", "/metrics")).text();
  return Number(metrics.split("\n").find((line) => line.startsWith(`${name} `))?.split(" ")[1]);
}

/** Serves the files of a folder to pages; gives the origin that they have. */
export async function files(opened, folder) {
  const types = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css" };
  const server = createServer(async ({ url }, response) => {
    const name = path.basename(new URL(url, "http://localhost").pathname) || "index.html";
    try {
      const bytes = await readFile(path.join(root, folder, name));
      response.writeHead(200, { "content-type": `${types[path.extname(name)]}; charset=utf-8` }).end(bytes);
    } catch {
      response.writeHead(404).end();
    }
  });
  await once(server.listen(0, "localhost"), "listening");
  opened({
    stop: () => {
      server.closeAllConnections();
      server.close();
    },
  });
  return `http://localhost:${server.address().port}`;
}

/** Headless Chromium: the one that CHROMIUM names, a path or a command, else the system's. */
export function browser() {
  const command = process.env.CHROMIUM || "chromium";
  const folders = command.includes("/") ? [""] : (process.env.PATH ?? "").split(path.delimiter);
  const executablePath = folders.map((folder) => path.resolve(folder, command)).find(existsSync);
  if (!executablePath) throw new Error(`there is no ${command}`);
  // Without QUIC there is no WebTransport.
  return chromium.launch({ executablePath, ignoreDefaultArgs: ["--disable-quic"] });
}

/** A page of a server, whatever it answers to a plain request. What scripts throw there and do not catch is collected. */
export async function pageOf(chrome, origin) {
  const page = await chrome.newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  page.thrown = [];
  page.on("pageerror", (error) => page.thrown.push(error.stack));
  await page.goto(`${origin}/`);
  return page;
}

/** Fails where something takes longer than anything here should. */
export async function soon(what, promise, patienceMs = PATIENCE_MS) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: still not so after ${patienceMs} ms`)), patienceMs);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** Runs checks in order, stops everything, and ends the process with what became of them. Those of many steps say how long all may take. */
export async function run(checks, patienceMs = PATIENCE_MS) {
  const open = [];
  const opened = (what) => (open.push(what), what);
  let failed = 0;
  try {
    const { chrome } = opened({ chrome: await browser() });
    console.log(`Chromium ${chrome.version()}`);
    for (const [name, check] of Object.entries(checks)) {
      try {
        console.log(`ok      ${name}: ${await soon(name, check(chrome, opened), patienceMs)}`);
      } catch (error) {
        failed += 1;
        console.log(`FAILED  ${name}: ${error.stack}`);
      }
    }
  } finally {
    for (const what of open.reverse()) {
      await (what.stop?.() ?? what.chrome?.close());
    }
  }
  const passed = Object.keys(checks).length - failed;
  console.log(`${passed} passed, ${failed} failed`);
  process.exitCode = failed === 0 && passed > 0 ? 0 : 1;
}
