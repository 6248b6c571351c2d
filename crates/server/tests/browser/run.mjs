// One scenario in a real browser, against a real server.
//
//     node run.mjs --server PATH --backend epoll|io-uring --scenario demo|origins|token|dashboard
//
// A scenario is a file of this folder. CHROMIUM names the browser (default /usr/bin/chromium). Screenshots go
// to FANFARE_SCREENSHOTS if that is set: one at the end of a good run, one where a run failed.

import assert from "node:assert/strict";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { parseArgs } from "node:util";
import { chromium } from "playwright-core";
import { Server, unusedPort } from "./server.mjs";

const WHOLE_RUN_MS = 150_000;
// A browser that is told to close may hang. What is left of it is killed when this process exits.
const CLOSE_MS = 10_000;
const BROWSER = process.env.CHROMIUM ?? "/usr/bin/chromium";
const BROWSER_FLAGS = [
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  // Names of other sites. Nothing but this machine is reached.
  "--host-resolver-rules=MAP *.test 127.0.0.1",
];

const { values: options } = parseArgs({
  options: { server: { type: "string" }, backend: { type: "string" }, scenario: { type: "string" } },
});
const { server: program, backend } = options;
assert(program && backend && options.scenario, "usage: node run.mjs --server PATH --backend NAME --scenario NAME");
const { scenario } = await import(`./${options.scenario}.mjs`);

const folder = await mkdtemp(join(tmpdir(), "fanfare-browser-"));
// Everything that has a kill(), which is called at the end.
const owned = [];

// What a scenario works with.
const world = {
  program,
  // A folder that is removed at the end.
  folder,
  context: null,
  // Starts a server with these options. It is killed at the end, if it is still there.
  async startServer(more = []) {
    const server = new Server(program, backend, await unusedPort(), more);
    world.own(server);
    await server.start();
    return server;
  },
  // Has this killed at the end.
  own(thing) {
    owned.push(thing);
    return thing;
  },
  step(text) {
    console.log(`[${backend}] ${text}`);
  },
  async screenshot(page, outcome) {
    const screenshots = process.env.FANFARE_SCREENSHOTS;
    if (screenshots) {
      await mkdir(screenshots, { recursive: true });
      await page.screenshot(join(screenshots, `${options.scenario}-${backend}-${outcome}.png`));
    }
  },
};

const watchdog = globalThis.setTimeout(() => abandon(`not over after ${WHOLE_RUN_MS / 1000} s`), WHOLE_RUN_MS);
process.once("SIGTERM", () => abandon("told to stop"));
process.once("SIGINT", () => abandon("told to stop"));

try {
  // This browser blocks the cookies of other sites by default. Browsers that send them are the harder case.
  await mkdir(join(folder, "profile/Default"), { recursive: true });
  const preferences = { profile: { cookie_controls_mode: 0 } };
  await writeFile(join(folder, "profile/Default/Preferences"), JSON.stringify(preferences));
  world.context = await chromium.launchPersistentContext(join(folder, "profile"), {
    executablePath: BROWSER,
    args: BROWSER_FLAGS,
    viewport: { width: 1280, height: 1000 },
    // Signals are handled above, for the servers as well as for the browser.
    handleSIGINT: false,
    handleSIGTERM: false,
  });
  await scenario(world);
} catch (error) {
  console.error(error);
  printOutputs();
  process.exitCode = 1;
} finally {
  clearTimeout(watchdog);
  killAll();
  await closeBrowser();
  await rm(folder, { recursive: true, force: true, maxRetries: 5 }).catch((error) => console.error(error));
  // Nothing that is still open keeps this process.
  process.exit();
}

function killAll() {
  for (const thing of owned) thing.kill();
}

async function closeBrowser() {
  const closed = Promise.resolve(world.context?.close()).catch((error) => console.error(error));
  const isClosed = await Promise.race([closed.then(() => true), setTimeout(CLOSE_MS, false)]);
  if (!isClosed) console.error(`the browser did not close within ${CLOSE_MS / 1000} s, and is killed`);
}

function printOutputs() {
  for (const thing of owned) {
    if (thing.output) console.error(`a server's output:\n${thing.output}`);
  }
}

function abandon(why) {
  console.error(`abandoned: ${why}`);
  printOutputs();
  process.exitCode = 1;
  killAll();
  // Closing the browser fails whatever the scenario waits for, and its `finally` tidies up. What waits for
  // something else ends here, whether or not the browser closes.
  setTimeout(CLOSE_MS + 5_000).then(() => process.exit(1));
  closeBrowser();
}
