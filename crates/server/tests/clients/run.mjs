// Tries client libraries against a scripted server and prints what docs/CLIENTS.md says of them.
//
//     node crates/server/tests/clients/run.mjs [--only PART_OF_A_NAME] [--silence SECONDS]
//
// It installs what it needs: see README.md beside it.

import { execFileSync, spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { Server } from "./server.mjs";

const HERE = fileURLToPath(new URL(".", import.meta.url));
// How long a client may take to come back, its start included.
const RETURN_MS = 60_000;
// What it dispatches after it has come back.
const SETTLE_MS = 800;

const PYTHON = ["python/.venv/bin/python", "python/client.py"];
const browser = (name) => ["node", "javascript/browser.mjs", name];
const java = (name) => ["java", "-cp", `java:${classPath()}`, "Client", name];
// The name in the table, its toolchain, and the command, to which the URL is appended.
const CLIENTS = [
  ["EventSource in Chromium", "node", browser("native")],
  ["htmx-ext-sse", "node", browser("htmx")],
  ["npm eventsource 5", "node", ["node", "javascript/node.mjs", "5"]],
  ["npm eventsource 4", "node", ["node", "javascript/node.mjs", "4"]],
  ["npm eventsource 3", "node", ["node", "javascript/node.mjs", "3"]],
  ["event-source-polyfill", "node", browser("polyfill")],
  ["sse.js", "node", browser("sse.js")],
  ["fetch-event-source", "node", browser("fetch-event-source")],
  ["httpx-sse", "python", [...PYTHON, "httpx-sse"]],
  ["requests-sse", "python", [...PYTHON, "requests-sse"]],
  ["sseclient-py", "python", [...PYTHON, "sseclient-py"]],
  ["aiohttp-sse-client", "python", [...PYTHON, "aiohttp-sse-client"]],
  ["aiohttp-sse-client2", "python", [...PYTHON, "aiohttp-sse-client2"]],
  ["r3labs/sse", "go", ["go/trial", "r3labs"]],
  ["launchdarkly/eventsource", "go", ["go/trial", "launchdarkly"]],
  ["okhttp-eventsource", "java", () => java("launchdarkly")],
  ["okhttp-sse", "java", () => java("okhttp-sse")],
  ["reqwest-eventsource", "rust", ["../../../../target/debug/fanfare-client-trial", "reqwest"]],
];

const INSTALL = {
  node: [["npm", "ci", "--no-audit", "--no-fund"]],
  python: [
    ["python3", "-m", "venv", "python/.venv"],
    ["python/.venv/bin/pip", "install", "--quiet", "-r", "python/requirements.txt"],
  ],
  go: [["go", "build", "-C", "go", "-o", "trial", "."]],
  java: [
    ["mvn", "-q", "-f", "java/pom.xml", "dependency:build-classpath", "-Dmdep.outputFile=class-path.txt"],
    () => ["javac", "-cp", classPath(), "java/Client.java"],
  ],
  rust: [["cargo", "build", "--quiet", "--package", "fanfare-client-trial"]],
};

const HEAD = [
  "client",
  "empty message",
  "id back",
  "as an event",
  "later",
  "id last",
  "cut in the data",
  "cut before the blank line",
];

const { values } = parseArgs({ options: { only: { type: "string" }, silence: { type: "string" } } });
const chosen = CLIENTS.filter(([name]) => name.includes(values.only ?? ""));
for (const tool of new Set(chosen.map(([, tool]) => tool))) {
  console.error(`installing for ${tool}`);
  for (const step of INSTALL[tool]) {
    const [program, ...args] = typeof step === "function" ? step() : step;
    execFileSync(program, args, { cwd: HERE, stdio: ["ignore", "inherit", "inherit"] });
  }
}

const children = new Set();
process.once("exit", () => children.forEach((child) => child.kill()));
const server = new Server();
await server.start();
if (values.silence) await trySilence(Number(values.silence) * 1000);
else await tryCases();
server.stop();

function printRow(cells) {
  console.log(`| ${cells.join(" | ")} |`);
}

async function tryCases() {
  printRow(HEAD);
  printRow(HEAD.map(() => "---"));
  for (const [name, , command] of chosen) {
    const trials = ["block", "event", "later", "order", "cut", "edge"];
    const runs = trials.map((trial) => run(command, `/${trial}/${encodeURIComponent(name)}`));
    const results = await Promise.all(runs);
    const found = Object.fromEntries(trials.map((trial, at) => [trial, results[at]]));
    const data = (trial) => found[trial].events.map((event) => event.data);
    const back = (trial, id) => (found[trial].id === id ? "yes" : `no: ${found[trial].id ?? "none"}`);
    const row = [
      name,
      data("block").includes("") || data("later").includes("") ? "yes" : "no",
      back("block", "c-1"),
      back("event", "c-1"),
      back("later", "c-5"),
      data("order").join() === "one,two,real" ? back("order", "e-2") : data("order").join(),
      data("cut").join() === "one,two" && found.cut.id === "e-1" ? "whole" : data("cut").join(),
      // The case goes on behind the event that was cut: a client that asks for it has lost nothing.
      found.edge.id === "e-1" || data("edge").includes("two") ? "kept" : "lost",
    ];
    printRow(row);
  }
}

// After how much silence each client gives up, all of them at once.
async function trySilence(patience) {
  const clients = chosen.map(([name, , command]) => {
    const path = `/silence/${encodeURIComponent(name)}`;
    return { name, path, child: begin(command, path).child };
  });
  await sleep(patience);
  const lengths = clients.map(({ path }) => server.visits(path)[0]?.silentFor);
  for (const { child } of clients) child.kill();
  printRow(["client", "gives up after"]);
  printRow(["---", "---"]);
  clients.forEach(({ name }, at) => {
    const seconds = (lengths[at] ?? patience) / 1000;
    printRow([name, lengths[at] == null ? `not within ${seconds} s` : `${seconds.toFixed(1)} s`]);
  });
}

function begin(command, path) {
  const [program, ...args] = typeof command === "function" ? command() : command;
  const resolved = program.includes("/") ? HERE + program : program;
  const options = { cwd: HERE, stdio: ["ignore", "pipe", "ignore"] };
  const child = spawn(resolved, [...args, server.url + path], options);
  children.add(child);
  child.once("exit", () => children.delete(child));
  let output = "";
  child.stdout.setEncoding("utf8").on("data", (text) => (output += text));
  return { child, output: () => output };
}

// Runs one client until it has come back and read on: what it dispatched, and the id that it came back with.
async function run(command, path) {
  const { child, output } = begin(command, path);
  const visits = server.visits(path);
  for (const deadline = Date.now() + RETURN_MS; visits.length < 2 && Date.now() < deadline; ) await sleep(50);
  await sleep(SETTLE_MS);
  const ended = new Promise((resolve) => child.once("exit", resolve));
  if (child.exitCode === null) {
    child.kill();
    await ended;
  }
  const events = output().split("\n").filter(Boolean).map((line) => JSON.parse(line));
  return { events, id: visits[1]?.id ?? null };
}

function classPath() {
  return readFileSync(`${HERE}java/class-path.txt`, "utf8").trim();
}
