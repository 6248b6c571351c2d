// The server under test, as a process that may be killed and started again on the same port.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:net";

const READY_MS = 15_000;
const EXIT_MS = 20_000;
const ANSWER_MS = 10_000;

export class Server {
  // Everything that the server has printed, over all its lives.
  output = "";
  #child = null;

  // What a publish has in its Authorization field, where the server demands a token.
  authorization = null;

  constructor(program, backend, port, options = []) {
    this.program = program;
    this.backend = backend;
    this.port = port;
    this.options = options;
    this.url = `http://127.0.0.1:${port}`;
  }

  // Starts the server and waits until it says where it listens.
  async start() {
    const args = ["serve", "--listen", `127.0.0.1:${this.port}`, "--backend", this.backend, ...this.options];
    // The tests have variables of their own, which are no options of the server.
    const own = ([name]) => !name.startsWith("FANFARE_");
    const env = Object.fromEntries(Object.entries(process.env).filter(own));
    const child = spawn(this.program, args, { env, stdio: ["ignore", "pipe", "pipe"] });
    this.#child = child;
    this.output += `$ fanfare ${args.join(" ")}\n`;
    const since = this.output.length;
    await new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`not ready after ${READY_MS / 1000} s`)), READY_MS);
      const heard = (text) => {
        this.output += text;
        if (this.output.slice(since).includes(this.url)) {
          clearTimeout(timer);
          resolve();
        }
      };
      child.stdout.setEncoding("utf8").on("data", heard);
      child.stderr.setEncoding("utf8").on("data", heard);
      child.once("error", reject);
      child.once("exit", (code, signal) => reject(new Error(`the server ended at its start: ${code ?? signal}`)));
    });
  }

  // Ends it without a word, as a crash or a power cut would.
  async die() {
    const gone = once(this.#child, "exit", { signal: AbortSignal.timeout(EXIT_MS) });
    this.#child.kill("SIGKILL");
    await gone;
  }

  // Ends it as an operator would, and expects it to go in good time and without complaint.
  async terminate() {
    const gone = once(this.#child, "exit", { signal: AbortSignal.timeout(EXIT_MS) });
    this.#child.kill("SIGTERM");
    const [code, signal] = await gone;
    assert.equal(code ?? signal, 0, "the server's exit code after SIGTERM");
  }

  // For tidying up: whatever is still there goes.
  kill() {
    this.#child?.kill("SIGKILL");
  }

  // Publishes over HTTP, beside the page. Answers the event's id.
  async publish(event) {
    const answer = await this.#post(event);
    const body = await answer.text();
    assert(answer.ok, `publish was answered ${answer.status}: ${body}`);
    return JSON.parse(body).id;
  }

  // Publishes what must be refused. Answers the problem.
  async refusal(event) {
    const answer = await this.#post(event);
    assert(answer.status >= 400 && answer.status < 500, `a refusal, not ${answer.status}`);
    assert.match(answer.headers.get("content-type"), /^application\/problem\+json/);
    const problem = await answer.json();
    assert(problem.detail, "a problem has a detail to act on");
    return problem;
  }

  // Ends the streams that match, such as `topic=a`.
  async endStreams(query) {
    const answer = await this.#request("DELETE", `/connections?${query}`);
    assert.equal(answer.status, 204, await answer.text());
  }

  #post(event) {
    return this.#request("POST", "/events", JSON.stringify(event));
  }

  #request(method, target, body) {
    const headers = { "content-type": "application/json" };
    if (this.authorization) headers.authorization = this.authorization;
    const signal = AbortSignal.timeout(ANSWER_MS);
    return fetch(`${this.url}${target}`, { method, headers, body, signal });
  }
}

// A port that nothing listens on, below the range that Linux takes for outgoing connections: from that range
// a browser that retries a dead port may be given the very same port as its own, and so connect to itself.
export async function unusedPort() {
  for (;;) {
    const port = 20_000 + Math.floor(Math.random() * 12_000);
    const probe = createServer();
    try {
      probe.listen(port, "127.0.0.1");
      await once(probe, "listening");
      return port;
    } catch (error) {
      if (error.code !== "EADDRINUSE") throw error;
    } finally {
      probe.close();
    }
  }
}
