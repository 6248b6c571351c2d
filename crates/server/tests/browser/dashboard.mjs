// The dashboard: its figures move, it survives a restart, it takes what clients chose for text, and it is
// readable on a phone, light and dark, and without a mouse.

import assert from "node:assert/strict";
import { DashboardPage } from "./dashboard_page.mjs";
import { unusedPort } from "./server.mjs";

// Longer names are refused by the server.
const HOSTILE = [
  `<img src=x onerror="document.title='owned'">`,
  `</span></th><script>document.title='owned'</script>`,
  "\u202etxet desrever",
  "__proto__",
  `{{7*7}}&lt;b&gt;"'\``,
  "x".repeat(256),
];

export async function scenario(world) {
  const admin = `127.0.0.1:${await unusedPort()}`;
  const server = await world.startServer(["--admin", admin, "--drain", "4s", "--shards", "2"]);
  const page = new DashboardPage(world.context.pages()[0], `http://${admin}`);
  const streams = new Streams(server);
  world.own(streams);
  try {
    await steps(page, server, streams, world);
    await world.screenshot(page, "passed");
  } catch (error) {
    await world.screenshot(page, "failed");
    throw error;
  }
  world.step("during the drain it says so, and then it is disconnected");
  await streams.open("topic=demo", 20);
  await page.says("connections", /^20$/);
  const end = server.terminate();
  await page.says("state", /Not ready: draining/);
  await end;
  await page.state("lost");
  assert.deepEqual(page.complaints, [], "no error, no violated policy, nothing from elsewhere");
}

async function steps(page, server, streams, world) {
  const step = (text) => world.step(text);

  step("the page opens, by a strict policy, and is ready");
  const answer = await page.open();
  const policy = answer.headers()["content-security-policy"];
  assert.match(policy, /default-src 'none'; script-src 'self'; style-src 'self';/);
  assert.doesNotMatch(policy, /unsafe|\*|https?:/);
  assert.equal(await page.state("ready"), "Ready");
  await page.says("about", /^Version [\d.]+ on (epoll|io-uring), for \d+ s\.$/);
  await page.says("deliveries", /^0$/);

  step("figures move when subscribers come and events are published");
  await streams.open("topic=demo", 20);
  await page.says("connections", /^20$/);
  streams.publishEvery(50, { topic: "demo", data: "x".repeat(100) });
  await page.says("deliveries", /^[1-9]/);
  await page.says("publishes", /^[1-9]/);
  await page.says("lag-p50", /(µs|ms|s)$/);
  await page.says("lag-p99", /(µs|ms|s)$/);
  const shards = await page.rows("shards");
  assert.deepEqual(shards.map(([shard]) => shard), ["0", "1"]);
  assert.equal(shards.reduce((sum, row) => sum + Number(row[2]), 0), 20, "connections of all shards");
  await page.row("topics", "demo");
  assert.equal((await page.row("topics", "demo"))[1], "20");

  step("where there is no list of topics, the page says why");
  await page.withFigures((figures) => ({ ...figures, topics: 5, top_topics: null }));
  await page.says("topics-empty", /^Not known yet\.$/);
  await page.withFigures((figures) => ({ ...figures, topics: 1001, top_topics: null }));
  await page.says("topics-empty", /^There are 1,001 topics, which are too many for this list \(1,000\)\./);
  await page.withFigures(null);

  step("ends and refusals have their reasons");
  await streams.close(5);
  await page.row("ends", "peer_left");
  await server.refusal({ topic: "demo", type: "open", data: "x" });
  await streams.refused("evil.example");
  assert.deepEqual((await page.row("refusals", "host"))[2], "1");

  step("names that clients chose are text");
  for (const topic of HOSTILE) await streams.open(`topic=${encodeURIComponent(topic)}`, 1);
  for (const topic of HOSTILE) await page.row("topics", topic.replace(/[\u202e]/gu, "\\u{202e}"));
  assert.equal(await page.page.title(), "Fanfare dashboard");
  assert.equal(await page.page.locator("#topics :is(img, script, b)").count(), 0);

  step("charts have a point each second, and a table beside them");
  await page.hasPoints(5);
  const chart = page.page.locator(".chart", { hasText: "Deliveries a second" });
  await chart.locator("summary").click();
  await chart.locator("tbody tr").nth(3).waitFor();
  assert((await page.colours("Deliveries a second")).includes(await page.colour("--plain")), "the line is drawn");
  await world.screenshot(page, "light");

  step("dark");
  const light = await page.colour("--plain");
  await page.page.emulateMedia({ colorScheme: "dark" });
  const dark = await page.colour("--plain");
  assert.notEqual(dark, light);
  await page.page.waitForTimeout(200);
  const colours = await page.colours("Deliveries a second");
  assert(colours.includes(dark) && !colours.includes(light), "the lines follow the colours");
  await world.screenshot(page, "dark");

  step("on a phone nothing is wider than the screen");
  for (const width of [390, 320]) {
    await page.page.setViewportSize({ width, height: 844 });
    await page.page.waitForTimeout(300);
    assert.equal(await page.overflow(), 0, `at ${width} pixels`);
  }
  await world.screenshot(page, "phone-dark");
  await page.page.emulateMedia({ colorScheme: "light" });
  await world.screenshot(page, "phone");
  await page.page.setViewportSize({ width: 1280, height: 1000 });

  step("without a mouse: every table of a chart opens by the keyboard");
  for (const summary of await page.page.locator("summary").all()) {
    await summary.focus();
    const details = summary.locator("xpath=..");
    const isOpen = () => details.evaluate((details) => details.open);
    const before = await isOpen();
    await page.page.keyboard.press("Enter");
    assert.notEqual(await isOpen(), before);
  }

  step("for a screen reader: headings, names, and few live regions");
  await checkAccessibility(page);

  step("the server dies: the page says since when it has no figures");
  streams.stopPublishing();
  await server.die();
  await page.state("lost");
  await page.says("notice", /^No figures since \d\d:\d\d:\d\d\. The figures below are of that time\./);
  await world.screenshot(page, "lost");

  step("a new server on the same port: the page is back by itself, and no rate jumps");
  await page.page.evaluate(() => {
    window.seen = [];
    const watch = new MutationObserver(() => window.seen.push(document.getElementById("deliveries").textContent));
    watch.observe(document.getElementById("deliveries"), { childList: true, characterData: true, subtree: true });
  });
  await server.start();
  assert.equal(await page.state("ready"), "Ready");
  await page.says("notice", /^The server was restarted at \d\d:\d\d:\d\d\./);
  await page.says("connections", /^0$/);
  await page.says("deliveries", /^0$/);
  const seen = await page.page.evaluate(() => window.seen);
  assert(seen.every((text) => ["–", "0"].includes(text)), `deliveries a second after the restart: ${seen}`);
  await page.says("ends", /^$/);

  step("an hour of figures, with a clock that goes back: no chart has more than its points");
  await manyFigures(page);

  step("the path is mute: the page says so, and connects again");
  await page.page.route("**/dashboard/events", (route) => route.abort());
  await page.open();
  await page.state("lost");
  await page.page.unroute("**/dashboard/events");
  await page.state("ready");

  assert.deepEqual(page.complaints, [], "no error, no violated policy, nothing from elsewhere");
}

// The page gets the figures of an hour at once.
async function manyFigures(page) {
  // In the middle the clock goes back by a day.
  const time = (figures, index) => figures.time + index - (index < 1500 ? 0 : 86_400);
  await page.withFigures((figures) =>
    Array.from({ length: 3000 }, (_, index) => ({ ...figures, time: time(figures, index) })),
  );
  await page.state("lost");
  assert.deepEqual(await page.points(), [300, 300, 300, 300]);
  await page.withFigures(null);
}

async function checkAccessibility(page) {
  const found = await page.page.evaluate(() => {
    const all = (selector) => [...document.querySelectorAll(selector)];
    return {
      headings: all("h1, h2, h3").map((heading) => Number(heading.tagName[1])),
      unnamedSections: all("section:not([aria-labelledby])").length,
      unnamedCharts: all("[role=img]:not([aria-label])").length,
      canvases: all("canvas").length,
      images: all("[role=img] canvas").length,
      tables: all(".chart table").length,
      headless: all("table").filter((table) => !table.querySelector("thead th[scope=col]")).length,
      live: all("[aria-live], [role=status], [role=alert], [role=log], output").map(({ id }) => id),
      meters: all("meter").filter((meter) => meter.labels.length !== 1).length,
    };
  });
  assert.equal(found.headings[0], 1);
  found.headings.slice(1).forEach((level, index) => assert(level <= found.headings[index] + 1, "no level is left out"));
  assert.equal(found.canvases, found.images, "each drawing has a name");
  assert.equal(found.canvases, found.tables, "and a table");
  assert.deepEqual(found.live, ["state", "notice"], "figures that change each second are not read out");
  const none = ["unnamedSections", "unnamedCharts", "headless", "meters"];
  none.forEach((name) => assert.equal(found[name], 0, name));
}

// Subscribers and a publisher of a server.
class Streams {
  #open = [];
  #timer = null;

  constructor(server) {
    this.server = server;
  }

  async open(query, count) {
    for (let number = 0; number < count; number += 1) {
      const abort = new AbortController();
      const answer = await fetch(`${this.server.url}/events?${query}`, { signal: abort.signal });
      assert.equal(answer.status, 200);
      this.#open.push(abort);
      this.#read(answer.body);
    }
  }

  async #read(body) {
    try {
      for await (const _ of body);
    } catch {
      // It was closed, or the server has died.
    }
  }

  async close(count) {
    for (const abort of this.#open.splice(0, count)) abort.abort();
  }

  // A request for another host.
  async refused(host) {
    const { request } = await import("node:http");
    const status = await new Promise((resolve, reject) => {
      const asked = request(`${this.server.url}/topics`, { headers: { host } }, (answer) => resolve(answer.statusCode));
      asked.on("error", reject);
      asked.end();
    });
    assert.equal(status, 421);
  }

  publishEvery(ms, event) {
    this.#timer = setInterval(() => this.server.publish(event).catch(() => {}), ms);
  }

  stopPublishing() {
    clearInterval(this.#timer);
  }

  kill() {
    this.stopPublishing();
    this.close(this.#open.length);
  }
}
