// One pass of a real browser over the demo page, against a real server.
//
//     node run.mjs --server PATH --backend epoll|io-uring
//
// CHROMIUM names the browser (default /usr/bin/chromium). Screenshots go to FANFARE_SCREENSHOTS if that is set:
// one at the end of a good run, one where a run failed.

import assert from "node:assert/strict";
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { chromium } from "playwright-core";
import { DemoPage } from "./page.mjs";
import { Server, unusedPort } from "./server.mjs";

const WHOLE_RUN_MS = 150_000;
const BROWSER = process.env.CHROMIUM ?? "/usr/bin/chromium";
const BROWSER_FLAGS = [
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

const { values: options } = parseArgs({ options: { server: { type: "string" }, backend: { type: "string" } } });
assert(options.server && options.backend, "usage: node run.mjs --server PATH --backend NAME");

const profile = await mkdtemp(join(tmpdir(), "fanfare-browser-"));
const server = new Server(options.server, options.backend, await unusedPort());
let context = null;

const watchdog = setTimeout(() => abandon(`not over after ${WHOLE_RUN_MS / 1000} s`), WHOLE_RUN_MS);
process.once("SIGTERM", () => abandon("told to stop"));
process.once("SIGINT", () => abandon("told to stop"));

try {
  await server.start();
  context = await chromium.launchPersistentContext(profile, {
    executablePath: BROWSER,
    args: BROWSER_FLAGS,
    viewport: { width: 1280, height: 1000 },
    // Signals are handled above, for the server as well as for the browser.
    handleSIGINT: false,
    handleSIGTERM: false,
  });
  const page = new DemoPage(context.pages()[0], server.url);
  try {
    await scenario(page);
    await screenshot(page, "passed");
  } catch (error) {
    await screenshot(page, "failed");
    console.error(`the log of the page, newest first:\n${await page.logAsText()}`);
    throw error;
  }
  await context.close();
  step("the server ends by itself on SIGTERM");
  await server.terminate();
} catch (error) {
  console.error(error);
  console.error(`the server's output:\n${server.output}`);
  process.exitCode = 1;
} finally {
  clearTimeout(watchdog);
  server.kill();
  await context?.close();
  await rm(profile, { recursive: true, force: true, maxRetries: 5 });
}

async function scenario(page) {
  step("the page opens and connects");
  await page.open();
  await page.connect();

  step("a published event of a custom type arrives");
  await page.publish({ type: "greeting", data: "hello from the form" });
  const greeting = await page.row({ kind: "greeting", data: "hello from the form" });
  assert((await page.answer("published")).endsWith(greeting.id), "the answer names the event's id");
  assert.equal(await page.lastEventId(), greeting.id);

  step("data of several lines, with leading spaces and an empty line, arrives intact");
  const lines = "first\n  second, indented\n\nfourth: ünï→🎺 <b>not bold</b>";
  await page.publish({ type: "tick", data: lines });
  await page.row({ kind: "tick", data: lines });

  step("the server dies: the browser says CONNECTING");
  await server.die();
  await page.readyState(0);
  await page.row({ kind: "error" });

  step("a new server on the same port: the browser is back by itself, and told that its id means nothing now");
  await page.clearLog();
  await server.start();
  await page.readyState(1);
  await page.row({ kind: "fanfare.gap" });
  await page.publish({ type: "greeting", data: "after the restart" });
  const afterRestart = await page.row({ kind: "greeting", data: "after the restart" });
  assert.notEqual(afterRestart.id, greeting.id);

  step("what was published between Close and Connect arrives once and in order");
  await page.close();
  await page.clearLog();
  const missed = [];
  for (const data of ["missed 1", "missed 2", "missed 3"]) {
    missed.push({ kind: "greeting", id: await server.publish({ topic: "demo", type: "greeting", data }), data });
  }
  await page.connect();
  // The marker is published after the replay began: whatever came before it in the log is the whole replay.
  await page.publish({ type: "tick", data: "marker" });
  const marker = await page.row({ kind: "tick", data: "marker" });
  assert.deepEqual(await page.events(), [...missed, marker]);

  step("from the start: everything since the restart");
  await page.close();
  await page.clearLog();
  await page.connect({ start: "earliest" });
  await page.row({ kind: "tick", data: "marker" });
  assert.deepEqual(await page.events(), [afterRestart, ...missed, marker]);

  for (const withCredentials of [false, true]) {
    step(`from the page's own origin to another one, ${withCredentials ? "with" : "without"} credentials`);
    await page.close();
    await page.connect({ start: "now", origin: "alias", withCredentials });
    assert.equal(new URL(await page.streamUrl()).hostname, "localhost");
    const data = `across origins, credentials: ${withCredentials}`;
    await page.publish({ type: "greeting", data });
    await page.row({ kind: "greeting", data });
  }

  step("a publish that the server refuses: the page shows the server's reason");
  const refused = { topic: "demo", type: "open", data: "x" };
  const { detail } = await server.refusal(refused);
  await page.publish(refused);
  assert((await page.answer("refused")).includes(detail), `the page shows "${detail}"`);

  assert.deepEqual(page.complaints, [], "no script error and no violated content security policy");
}

function step(text) {
  console.log(`[${options.backend}] ${text}`);
}

async function screenshot(page, outcome) {
  const folder = process.env.FANFARE_SCREENSHOTS;
  if (folder) {
    await mkdir(folder, { recursive: true });
    await page.screenshot(join(folder, `${options.backend}-${outcome}.png`));
  }
}

function abandon(why) {
  console.error(`abandoned: ${why}\nthe server's output:\n${server.output}`);
  process.exitCode = 1;
  server.kill();
  // Closing the browser fails whatever the scenario waits for; its `finally` then tidies up.
  Promise.resolve(context?.close()).finally(() => setTimeout(() => process.exit(1), 5_000).unref());
}
