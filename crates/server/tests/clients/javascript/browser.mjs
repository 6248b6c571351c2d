// node browser.mjs CLIENT URL: a client that lives in a page, in Debian's Chromium.

import { mkdtempSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";

const PAGE = `<!doctype html><meta charset="utf-8">
<script src="/trial/modules/event-source-polyfill/src/eventsource.js"></script>
<script src="/trial/modules/htmx.org/dist/htmx.min.js"></script>
<script src="/trial/modules/htmx-ext-sse/sse.js"></script>
<script type="module" src="/trial/javascript/page.js"></script>`;

const [name, url] = process.argv.slice(2);
const { origin } = new URL(url);
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
// The page has the origin of the server on trial, which knows nothing of it.
await page.route(`${origin}/trial/**`, (route) => {
  const path = new URL(route.request().url()).pathname.replace("/trial/", "");
  if (path === "") return route.fulfill({ contentType: "text/html", body: PAGE });
  const folder = new URL(path.startsWith("modules/") ? "../node_modules/" : "../", import.meta.url);
  const file = path.replace(/^modules\//, "").replace(/(\.js)?$/, ".js");
  return route.fulfill({ contentType: "text/javascript", body: readFileSync(new URL(file, folder), "utf8") });
});
await page.goto(`${origin}/trial/`);
await page.waitForFunction(() => window.begin);
await page.evaluate(([name, url]) => window.begin(name, url), [name, url]);
process.on("SIGTERM", async () => {
  await context.close();
  process.exit(0);
});
