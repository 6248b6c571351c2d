// A gate between a browser and a server: it notes the requests, can cut connections, and can lead to another
// server, as a name does that resolves to another address.

import { once } from "node:events";
import { connect, createServer } from "node:net";
import { unusedPort } from "./server.mjs";

export class Gate {
  // The requests that have passed: method, target, and header fields by their names in lower case.
  requests = [];
  #sockets = new Set();
  #listener;

  static async open(upstream) {
    const gate = new Gate();
    gate.upstream = upstream;
    gate.port = await unusedPort();
    gate.#listener = createServer((socket) => gate.#pass(socket));
    gate.#listener.listen(gate.port, "127.0.0.1");
    await once(gate.#listener, "listening");
    return gate;
  }

  // The requests with this method.
  of(method) {
    return this.requests.filter((request) => request.method === method);
  }

  // Ends every connection without a word.
  cut() {
    for (const socket of this.#sockets) socket.resetAndDestroy();
  }

  kill() {
    this.cut();
    this.#listener.close();
  }

  #pass(inner) {
    const outer = connect(this.upstream, "127.0.0.1");
    const heads = new Heads((request) => this.requests.push(request));
    inner.on("data", (bytes) => heads.add(bytes));
    for (const [from, to] of [[inner, outer], [outer, inner]]) {
      this.#sockets.add(from);
      from.setNoDelay(true);
      from.pipe(to);
      from.on("error", () => to.destroy());
      from.on("close", () => {
        this.#sockets.delete(from);
        to.destroySoon();
      });
    }
  }
}

// Finds the request heads in what a browser sends.
class Heads {
  #rest = "";
  #body = 0;

  constructor(found) {
    this.found = found;
  }

  add(bytes) {
    this.#rest += bytes.toString("latin1");
    for (;;) {
      const skipped = Math.min(this.#body, this.#rest.length);
      this.#rest = this.#rest.slice(skipped);
      this.#body -= skipped;
      const end = this.#rest.indexOf("\r\n\r\n");
      if (this.#body > 0 || end < 0) return;
      const [first, ...fields] = this.#rest.slice(0, end).split("\r\n");
      const [method, target] = first.split(" ");
      const pair = (field) => [field.split(":", 1)[0].toLowerCase(), field.slice(field.indexOf(":") + 1).trim()];
      const headers = Object.fromEntries(fields.map(pair));
      this.#rest = this.#rest.slice(end + 4);
      this.#body = Number(headers["content-length"] ?? 0);
      this.found({ method, target, headers });
    }
  }
}
