// The demo page as a person uses it: connect, publish, lose the server, resume, cross origins.

import assert from "node:assert/strict";
import { DemoPage } from "./demo_page.mjs";

export async function scenario(world) {
  const server = await world.startServer();
  const page = new DemoPage(world.context.pages()[0], server.url);
  try {
    await steps(page, server, (text) => world.step(text));
    await world.screenshot(page, "passed");
  } catch (error) {
    await world.screenshot(page, "failed");
    console.error(`the log of the page, newest first:\n${await page.logAsText()}`);
    throw error;
  }
  world.step("the server ends by itself on SIGTERM");
  await server.terminate();
}

async function steps(page, server, step) {
  step("the page opens and connects");
  await page.open();
  await page.connect();

  step("a published event of a custom type arrives");
  await page.publish({ type: "greeting", data: "hello from the form" });
  const greeting = await page.row({ kind: "greeting", data: "hello from the form" });
  assert((await page.answer("published")).endsWith(greeting.id), "the answer names the event's id");
  assert.equal(await page.lastEventId(), greeting.id);

  step("data of several lines, with leading spaces and an empty line, arrives intact");
  const lines = "first\n  second, indented\n\nfourth: ünï→🎺 <b>not bold</b>";
  await page.publish({ type: "tick", data: lines });
  await page.row({ kind: "tick", data: lines });

  step("the server dies: the browser says CONNECTING");
  await server.die();
  await page.readyState(0);
  await page.row({ kind: "error" });

  step("a new server on the same port: the browser is back by itself, and told that its id means nothing now");
  await page.clearLog();
  await server.start();
  await page.readyState(1);
  await page.row({ kind: "fanfare.gap" });
  await page.publish({ type: "greeting", data: "after the restart" });
  const afterRestart = await page.row({ kind: "greeting", data: "after the restart" });
  assert.notEqual(afterRestart.id, greeting.id);

  step("what was published between Close and Connect arrives once and in order");
  await page.close();
  await page.clearLog();
  const missed = [];
  for (const data of ["missed 1", "missed 2", "missed 3"]) {
    missed.push({ kind: "greeting", id: await server.publish({ topic: "demo", type: "greeting", data }), data });
  }
  await page.connect();
  // The marker is published after the replay began: whatever came before it in the log is the whole replay.
  await page.publish({ type: "tick", data: "marker" });
  const marker = await page.row({ kind: "tick", data: "marker" });
  assert.deepEqual(await page.events(), [...missed, marker]);

  step("from the start: everything since the restart");
  await page.close();
  await page.clearLog();
  await page.connect({ start: "earliest" });
  await page.row({ kind: "tick", data: "marker" });
  assert.deepEqual(await page.events(), [afterRestart, ...missed, marker]);

  for (const withCredentials of [false, true]) {
    step(`from the page's own origin to another one, ${withCredentials ? "with" : "without"} credentials`);
    await page.close();
    await page.connect({ start: "now", origin: "alias", withCredentials });
    assert.equal(new URL(await page.streamUrl()).hostname, "localhost");
    const data = `across origins, credentials: ${withCredentials}`;
    await page.publish({ type: "greeting", data });
    await page.row({ kind: "greeting", data });
  }

  step("a publish that the server refuses: the page shows the server's reason");
  const refused = { topic: "demo", type: "open", data: "x" };
  const { detail } = await server.refusal(refused);
  await page.publish(refused);
  assert((await page.answer("refused")).includes(detail), `the page shows "${detail}"`);

  assert.deepEqual(page.complaints, [], "no script error and no violated content security policy");
}
