// node browser.mjs CLIENT URL: a client that lives in a page, in Debian's Chromium.

import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";

const [name, url] = process.argv.slice(2);
const context = await chromium.launchPersistentContext(mkdtempSync(join(tmpdir(), "fanfare-clients-")), {
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
  ],
});
const page = await context.newPage();
await page.exposeFunction("told", (event) => console.log(JSON.stringify(event)));
await page.goto(new URL("/", url).href);
await page.waitForFunction(() => window.begin);
await page.evaluate(([name, url]) => window.begin(name, url), [name, url]);
process.on("SIGTERM", async () => {
  await context.close();
  process.exit(0);
});
