// A scripted server: each case says, for each connection of a client, which bytes come when. It notes with
// which id a client comes back. Everything is written by hand, so that a cut can fall between any two bytes.

import { createServer } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";

const PRELUDE = ":\nretry: 300\n";
const event = (data, id, type) => (type ? `event: ${type}\n` : "") + `data: ${data}\nid: ${id}\n\n`;
// Ends the connection in the middle of the response.
const CUT = Symbol("cut");
const HOLD = Symbol("hold");

// A connection is a list of texts, a chunk each, and of waits in milliseconds. The last connection repeats.
export const CASES = {
  // A checkpoint as an id alone, and a cut before the first event.
  block: [
    [PRELUDE + "id: c-1\n\n", 300, CUT],
    [PRELUDE, 200, event("real", "e-3"), HOLD],
  ],
  // The same as an event.
  event: [
    [PRELUDE + event("{}", "c-1", "fanfare.checkpoint"), 300, CUT],
    [PRELUDE, 200, event("real", "e-3"), HOLD],
  ],
  // The id alone, behind an event and heartbeats.
  later: [
    [PRELUDE, 100, event("one", "e-1"), 200, ":\n", 200, "id: c-5\n\n", 200, ":\n", 200, CUT],
    [PRELUDE, 200, event("real", "e-6"), HOLD],
  ],
  // Whole events whose last line is the id.
  order: [
    [PRELUDE, 100, event("one", "e-1") + event("two", "e-2", "paid"), 300, CUT],
    [PRELUDE, 200, event("real", "e-3"), HOLD],
  ],
  // A cut within the data.
  cut: [
    [PRELUDE, 100, event("one", "e-1"), "data: tw", 300, CUT],
    [PRELUDE, 200, event("two", "e-2"), HOLD],
  ],
  // A cut between the line feed of the id and the blank line.
  edge: [
    [PRELUDE, 100, event("one", "e-1"), "data: two\nid: e-2\n", 300, CUT],
    [PRELUDE, 200, event("real", "e-3"), HOLD],
  ],
  silence: [[PRELUDE, HOLD]],
};

export class Server {
  // The requests, by the path that names case and client: the ids that came, and when a client left.
  #visits = new Map();
  #server = createServer((socket) => this.#serve(socket).catch(() => socket.destroy()));

  async start() {
    await new Promise((resolve) => this.#server.listen(0, "127.0.0.1", resolve));
    this.url = `http://127.0.0.1:${this.#server.address().port}`;
  }

  stop() {
    this.#server.close();
  }

  visits(path) {
    if (!this.#visits.has(path)) this.#visits.set(path, []);
    return this.#visits.get(path);
  }

  async #serve(socket) {
    socket.setNoDelay().on("error", () => {});
    let head = "";
    for await (const bytes of socket.iterator({ destroyOnReturn: false })) {
      head += bytes.toString("latin1");
      if (head.includes("\r\n\r\n")) break;
    }
    const target = new URL(head.split(" ")[1], this.url);
    const script = CASES[target.pathname.split("/")[1]];
    return script ? this.#play(socket, target, head, script) : socket.end("HTTP/1.1 404 Not Found\r\n\r\n");
  }

  async #play(socket, target, head, script) {
    const visits = this.visits(target.pathname);
    const id = head.match(/^last-event-id: *(.*?)\r$/im)?.[1] ?? target.searchParams.get("lastEventId");
    const visit = { id: id || null, at: Date.now(), silentFor: null };
    visits.push(visit);
    socket.on("data", () => {}).on("close", () => (visit.silentFor ??= Date.now() - visit.at));
    socket.write("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
    for (const step of script[Math.min(visits.length, script.length) - 1]) {
      if (step === CUT) return socket.end();
      if (step === HOLD) return;
      if (typeof step === "number") await sleep(step);
      else socket.write(`${Buffer.byteLength(step).toString(16)}\r\n${step}\r\n`);
    }
  }
}
