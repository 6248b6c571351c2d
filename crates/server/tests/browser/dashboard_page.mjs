// The dashboard as a person sees it. Every wait is bounded.

import { WAIT_MS, WatchedPage } from "./watched_page.mjs";

// A server that is away is no fault of the page, and Chromium reports each attempt.
const IS_LOAD = /^Failed to load resource: net::ERR_/;

export class DashboardPage extends WatchedPage {
  constructor(page, url) {
    super(page, url, (kind, text) => ["error", "warning"].includes(kind) && !IS_LOAD.test(text));
    page.on("request", (request) => {
      const { origin, protocol } = new URL(request.url());
      if (origin !== new URL(url).origin && protocol !== "data:") this.complaints.push(`from elsewhere: ${request.url()}`);
    });
  }

  async open() {
    const answer = await this.page.goto(`${this.url}/dashboard`);
    if (!answer.ok()) throw new Error(`the dashboard was answered ${answer.status()}`);
    return answer;
  }

  // Loads the page again, whose stream now has what `change` makes of the server's newest figures, and then
  // ends. Null: the stream is the server's again.
  async withFigures(change) {
    await this.page.unroute("**/dashboard/events");
    if (change) {
      const data = await this.page.evaluate(async () => {
        const source = new EventSource("dashboard/events");
        const { data } = await new Promise((resolve) => source.addEventListener("figures", resolve));
        source.close();
        return data;
      });
      const events = [change(JSON.parse(data))].flat().map((figures) => `event: figures\ndata: ${JSON.stringify(figures)}\n\n`);
      // The browser does not ask again meanwhile.
      const body = `retry: 60000\n\n${events.join("")}`;
      const headers = { "content-type": "text/event-stream" };
      await this.page.route("**/dashboard/events", (route) => route.fulfill({ headers, body }));
    }
    await this.page.reload();
    if (!change) await this.state("ready");
  }

  async state(state) {
    await this.page.locator(`#state[data-state="${state}"]`).waitFor();
    return this.text("state");
  }

  text(id) {
    return this.page.locator(`#${id}`).textContent();
  }

  // Waits until an element says what fits.
  async says(id, pattern) {
    const found = ([id, source]) => new RegExp(source, "u").test(document.getElementById(id).textContent);
    await this.page.waitForFunction(found, [id, pattern.source], { timeout: WAIT_MS }).catch(async (error) => {
      throw new Error(`#${id} says "${await this.text(id)}", and not ${pattern}`, { cause: error });
    });
    return this.text(id);
  }

  // The cells of each row of a table.
  rows(id) {
    return this.page.locator(`#${id} tr`).evaluateAll((rows) => rows.map((row) => [...row.children].map((cell) => cell.textContent)));
  }

  // Waits for a row that begins with this text.
  async row(id, heading) {
    const find = ([id, heading]) => {
      const rows = [...document.querySelectorAll(`#${id} tr`)].map((row) => [...row.children].map((cell) => cell.textContent));
      return rows.find(([first]) => first === heading);
    };
    const found = await this.page.waitForFunction(find, [id, heading], { timeout: WAIT_MS });
    return found.jsonValue();
  }

  // How many points each chart has.
  points() {
    return this.page.locator(".chart").evaluateAll((all) => all.map((chart) => Number(chart.dataset.points ?? 0)));
  }

  // Waits until each chart has at least so many points.
  async hasPoints(least) {
    const enough = (least) =>
      [...document.querySelectorAll(".chart")].every((chart) => Number(chart.dataset.points) >= least);
    await this.page.waitForFunction(enough, least, { timeout: WAIT_MS });
  }

  // The different colours of a chart's pixels that are not see-through.
  colours(title) {
    return this.page.locator(".chart", { hasText: title }).locator("canvas").evaluate((canvas) => {
      // A copy: Chromium warns where a canvas that is drawn is read.
      const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
      copy.drawImage(canvas, 0, 0);
      const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
      const found = new Set();
      for (let at = 0; at < data.length; at += 4) {
        if (data[at + 3] === 255) found.add([...data.slice(at, at + 3)].join(","));
      }
      return [...found];
    });
  }

  // The computed value of a custom property as the canvas has it, such as "23,105,74".
  colour(name) {
    return this.page.evaluate((name) => {
      const context = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
      context.fillStyle = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
      context.fillRect(0, 0, 1, 1);
      return [...context.getImageData(0, 0, 1, 1).data.slice(0, 3)].join(",");
    }, name);
  }

  // By how many pixels the page is wider than the window.
  overflow() {
    return this.page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  }
}
