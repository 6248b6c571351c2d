// The demo page as a person uses it: every action is typing, a choice or a click, every wait is bounded.

import { WAIT_MS, WatchedPage } from "./watched_page.mjs";

export class DemoPage extends WatchedPage {
  constructor(page, url) {
    // Refusals of the server are errors in the console, too. The scenarios provoke them.
    super(page, url, (_, text) => /Content Security Policy|Content-Security-Policy/.test(text));
  }

  // With this behind the address, such as `#token=...`.
  async open(more = "") {
    const answer = await this.page.goto(`${this.url}/${more}`);
    // No answer: only the part behind # has changed.
    if (answer !== null && !answer.ok()) throw new Error(`the demo page was answered ${answer.status()}`);
  }

  // Connects and waits for OPEN.
  async connect({ start, origin, withCredentials } = {}) {
    if (start !== undefined) await this.page.locator(`label[for="start-${start}"]`).click();
    if (origin !== undefined) await this.page.locator("#origin").selectOption(origin);
    if (withCredentials !== undefined) await this.page.locator("#with-credentials").setChecked(withCredentials);
    await this.page.locator("#connect").click();
    await this.readyState(1);
  }

  async close() {
    await this.page.locator("#close").click();
    await this.readyState(2);
  }

  async readyState(value) {
    await this.page.locator(`#state[data-ready-state="${value}"]`).waitFor();
  }

  // Connects where the server refuses it, and gives the page's note.
  async refused() {
    await this.clearLog();
    await this.page.locator("#connect").click();
    await this.readyState(2);
    return (await this.row({ kind: "error" })).data;
  }

  // Types an access token, or the query of a signed URL, for the stream or for publishes.
  async giveToken(text) {
    await this.page.locator("#token").fill(text);
  }

  async givePublishToken(text) {
    await this.page.locator("#publish-token").fill(text);
  }

  // What the page says of the stream's token.
  tokenSays() {
    return this.page.locator("#token-says").textContent();
  }

  async publish({ type, data, isPrivate }) {
    await this.#type("#publish-type", type);
    await this.#type("#publish-data", data);
    if (isPrivate !== undefined) await this.page.locator("#publish-private").setChecked(isPrivate);
    await this.page.locator("#publish").click();
  }

  // The answer of the last publish, once it has this outcome.
  async answer(outcome) {
    const answer = this.page.locator(`#publish-answer[data-outcome="${outcome}"]`);
    await answer.waitFor();
    return answer.textContent();
  }

  lastEventId() {
    return this.page.locator("#last-event-id").textContent();
  }

  streamUrl() {
    return this.page.locator("#stream-url").textContent();
  }

  // There may be nothing to clear.
  async clearLog() {
    const button = this.page.locator("#clear-log");
    if (await button.isEnabled()) await button.click();
  }

  // Waits for a row of this kind (and exactly these data, if given).
  async row({ kind, data }) {
    const found = await this.page.waitForFunction(
      ([kind, data]) => {
        const text = (row, name) => row.querySelector(name).textContent;
        const row = [...document.querySelectorAll("#log tr")].find(
          (row) => row.dataset.kind === kind && (data === undefined || text(row, ".data") === data),
        );
        return row && { kind, id: text(row, ".id"), data: text(row, ".data") };
      },
      [kind, data],
      { timeout: WAIT_MS },
    );
    return found.jsonValue();
  }

  // The events in the log, oldest first, without the notes about the connection itself.
  events() {
    return this.page.locator("#log tr:not(.note)").evaluateAll((rows) =>
      rows.reverse().map((row) => ({
        kind: row.dataset.kind,
        id: row.querySelector(".id").textContent,
        data: row.querySelector(".data").textContent,
      })),
    );
  }

  async logAsText() {
    const rows = await this.page.locator("#log tr").allInnerTexts();
    return rows.join("\n");
  }

  // Types key by key into an emptied field, as a person would.
  async #type(selector, text) {
    await this.page.locator(selector).fill("");
    await this.page.locator(selector).pressSequentially(text);
  }
}
