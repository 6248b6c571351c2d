// Pages of other origins: a small web server, and a page of it in the browser with clients of streams.

import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { once } from "node:events";
import { unusedPort } from "./server.mjs";
import { WAIT_MS } from "./watched_page.mjs";

const PAGE = `<!doctype html>
<title>A page of another origin</title>
<script type="module">
  import * as client from "/client.mjs";
  window.client = client;
  window.seen = {};
</script>`;

// Serves the same page under every name of this machine.
export class PageServer {
  static async open() {
    const server = new PageServer();
    const client = await readFile(new URL("./client.mjs", import.meta.url));
    server.port = await unusedPort();
    server.listener = createServer((request, response) => {
      const url = new URL(request.url, "http://page.test");
      if (url.pathname === "/client.mjs") {
        response.writeHead(200, { "Content-Type": "text/javascript" }).end(client);
      } else if (url.pathname === "/login") {
        // What an application does: the cookie of one port of a host is sent to its other ports, too.
        response.writeHead(204, { "Set-Cookie": url.searchParams.get("cookie") }).end();
      } else {
        response.writeHead(200, { "Content-Type": "text/html" }).end(PAGE);
      }
    });
    server.listener.listen(server.port, "127.0.0.1");
    await once(server.listener, "listening");
    return server;
  }

  origin(host) {
    return `http://${host}:${this.port}`;
  }

  kill() {
    this.listener.closeAllConnections();
    this.listener.close();
  }
}

// A page of an origin, in a tab of its own.
export class OriginPage {
  constructor(page, origin) {
    this.page = page;
    this.origin = origin;
  }

  static async open(context, origin) {
    const page = await context.newPage();
    page.setDefaultTimeout(WAIT_MS);
    await page.goto(`${origin}/`);
    await page.waitForFunction(() => window.client !== undefined);
    return new OriginPage(page, origin);
  }

  // The demo page of the server itself, which has no clients of streams.
  static async openOwn(context, origin) {
    const page = await context.newPage();
    page.setDefaultTimeout(WAIT_MS);
    await page.goto(`${origin}/`);
    return new OriginPage(page, origin);
  }

  // Sets a cookie of this page's host, by an answer of its server.
  async login(cookie) {
    await this.page.evaluate((cookie) => fetch(`/login?cookie=${encodeURIComponent(cookie)}`), cookie);
  }

  // Starts an EventSource of this name.
  async listen(name, url, withCredentials) {
    await this.page.evaluate(
      ([name, url, withCredentials]) => void (window.seen[name] = window.client.listen(url, withCredentials)),
      [name, url, withCredentials],
    );
  }

  // Starts a client made of fetch.
  async read(name, url, options) {
    await this.page.evaluate(
      ([name, url, options]) => void (window.seen[name] = window.client.read(url, options)),
      [name, url, options],
    );
  }

  // What a stream has come to so far.
  state(name) {
    return this.page.evaluate((name) => {
      const { events, opened, lost, closed, status, headers } = window.seen[name];
      return { events, opened, lost, closed, status, headers };
    }, name);
  }

  // Waits until its answer was good so many times.
  async opened(name, count = 1) {
    await this.page.waitForFunction(([name, count]) => window.seen[name].opened >= count, [name, count]);
  }

  // Waits until it has given up.
  async closed(name) {
    await this.page.waitForFunction((name) => window.seen[name].closed, name);
  }

  // Waits for the event with these data, and gives all data so far.
  async dataUntil(name, last) {
    await this.page.waitForFunction(
      ([name, last]) => window.seen[name].events.some(({ data }) => data === last),
      [name, last],
    );
    const { events } = await this.state(name);
    return events.map(({ data }) => data);
  }

  // Publishes with fetch: the status and the problem's text, or "unreadable".
  post(url, options) {
    return this.page.evaluate(
      async ([url, options]) => {
        try {
          const answer = await fetch(url, { method: "POST", ...options });
          return { status: answer.status, type: answer.type, body: await answer.text() };
        } catch {
          return "unreadable";
        }
      },
      [url, options],
    );
  }

  close() {
    return this.page.close();
  }
}
