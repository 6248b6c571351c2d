// The demo page where the server has keys: a token from the address, from the field, and a signed URL.

import assert from "node:assert/strict";
import { Keys } from "./keys.mjs";
import { DemoPage } from "./demo_page.mjs";

export async function scenario(world) {
  const keys = new Keys(world);
  const options = ["--token-cookie", "fanfare", "--url-keys", keys.urls, "--host", "push.test", "--drain", "500ms"];
  const server = await world.startServer([...keys.options, ...options]);
  server.authorization = `Bearer ${keys.publisher}`;
  const page = new DemoPage(world.context.pages()[0], server.url);
  try {
    await steps(world, page, server, keys);
    await world.screenshot(page, "passed");
  } catch (error) {
    await world.screenshot(page, "failed");
    console.error(`the log of the page, newest first:\n${await page.logAsText()}`);
    throw error;
  }
  await server.terminate();
}

async function steps({ context, step }, page, server, keys) {
  step("without a token the page says what to do");
  await page.open();
  assert.match(await page.refused(), /401 .*needs a valid token.*fanfare token mint/);
  await page.publish({ type: "greeting", data: "x" });
  assert.match(await page.answer("refused"), /401 .*publisher's valid token.*fanfare token mint --publish/);

  step("a token in the address shows a private event, also in a page that is open already");
  const ada = keys.mint(keys.subscribers, "--subject", "ada", "--subscribe", "demo");
  await page.open(`#token=${ada}`);
  await page.page.waitForFunction(() => location.hash === "");
  assert.match(await page.tokenSays(), /^ada: private events of demo\. Expires /);
  await page.connect();
  await server.publish({ topic: "demo", data: "secret", private: true });
  const secret = await page.row({ kind: "message", data: "secret" });
  assert.match(secret.id, /-\d+$/);

  step("the page publishes a private event with a publisher's token");
  await page.givePublishToken(keys.publisher);
  await page.publish({ type: "greeting", data: "from the page", isPrivate: true });
  await page.row({ kind: "greeting", data: "from the page" });
  await page.answer("published");
  await page.givePublishToken(ada);
  await page.publish({ type: "greeting", data: "not with this one" });
  assert.match(await page.answer("refused"), /^401 /);

  step("a reload keeps the token, and a token for another topic is refused by its name");
  await page.page.reload();
  await page.connect({ start: "earliest" });
  await page.row({ kind: "message", data: "secret" });
  await page.close();
  await page.giveToken(keys.mint(keys.subscribers, "--subscribe", "news"));
  assert.match(await page.refused(), /403 .*does not cover the topic "demo"/);
  await page.giveToken("a.b");
  assert.match(await page.tokenSays(), /neither a token/);
  await page.giveToken("a.b.c");
  assert.match(await page.refused(), /401 .*--token-cookie fanfare/);
  await page.giveToken("");
  assert.match(await page.refused(), /fanfare token mint/);
  assert(!(await page.page.evaluate(() => document.cookie)).includes("fanfare"), "no token is left in the cookie");

  step("a signed URL in the field");
  await page.giveToken(keys.url("--topic", "demo"));
  assert.match(await page.tokenSays(), /^A signed URL for demo\. Expires /);
  await page.clearLog();
  await page.connect({ start: "earliest" });
  await page.row({ kind: "message", data: "secret" });
  await page.close();

  step("under a name that is not this machine's own, a link sets no token");
  const other = new DemoPage(await context.newPage(), `http://push.test:${server.port}`);
  await other.open(`#token=${ada}`);
  assert.match(await other.tokenSays(), /^None/);
  assert.equal(await other.page.evaluate(() => document.cookie), "");
  assert.match(await other.refused(), /401 /);
  await other.page.close();

  assert.deepEqual([...page.complaints, ...other.complaints], [], "no script error and no violated policy");
  // For the screenshot: the README's way.
  await page.open(`#token=${ada}`);
  await page.connect({ start: "earliest" });
  await page.row({ kind: "message", data: "secret" });
}
