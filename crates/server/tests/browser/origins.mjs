// What pages of other origins can and cannot do: EventSource and fetch, cookies and headers, preflights,
// publishes.
//
// Different ports of one host are different origins of one site, so that cookies are sent. 127.0.0.1 and
// localhost are different sites, so that only cookies with SameSite=None are.

import assert from "node:assert/strict";
import { eventsOf } from "./client.mjs";
import { Gate } from "./gate.mjs";
import { Keys } from "./keys.mjs";
import { OriginPage, PageServer } from "./origin_page.mjs";

const FORM = "application/x-www-form-urlencoded";
// The end of a server is not what is tried here.
const DRAIN = ["--drain", "500ms"];

export async function scenario(world) {
  const { context, step } = world;
  const listed = world.own(await PageServer.open());
  const foreign = world.own(await PageServer.open());
  const keys = new Keys(world);
  keys.subscriber = keys.mint(keys.subscribers, "--subject", "ada", "--subscribe", "*");
  const origins = [listed.origin("127.0.0.1"), listed.origin("localhost")];
  const lists = origins.flatMap((origin) => ["--cors-origin", origin]);
  const options = [...keys.options, ...lists, ...DRAIN, "--token-cookie", "fanfare", "--retry", "100ms"];
  const server = await world.startServer(options);
  server.authorization = `Bearer ${keys.publisher}`;
  const gate = world.own(await Gate.open(server.port));
  const trial = new Trial({ context, step, keys, server, gate, listed, foreign });
  await trial.eventSourceWithCookie();
  await trial.eventSourceOfAnotherSite();
  await trial.foreignPageReadsNothing();
  await trial.fetchWithHeaders();
  for (const client of ["EventSource", "fetch"]) await trial.resume(client);
  await trial.gapIsReadable();
  await trial.publishByCookie();
  await trial.rebinding();
  await withoutKeys(world, foreign);
  await wildcard(world, foreign, keys);
  step("the server ends by itself on SIGTERM");
  await server.terminate();
}

class Trial {
  #count = 0;

  constructor(parts) {
    Object.assign(this, parts);
    this.url = `http://127.0.0.1:${this.gate.port}`;
  }

  // A topic of its own for each part, and the URL of its stream.
  topic() {
    this.#count += 1;
    const name = `topic-${this.#count}`;
    return { name, url: `${this.url}/events?topic=${name}` };
  }

  publish(topic, data) {
    return this.server.publish({ topic: topic.name, data, private: true });
  }

  // The field of the last answer to a request of this page.
  async responseHeaders(page, url, act) {
    const answered = page.page.waitForResponse((response) => response.url() === url);
    await act();
    return (await answered).allHeaders();
  }

  // The data of everything that was published to a topic, up to the marker that this publishes.
  async history(topic) {
    await this.publish(topic, "marker");
    const aborter = new AbortController();
    const answer = await fetch(`${this.server.url}/events?topic=${topic.name}&last_event_id=earliest`, {
      headers: { authorization: `Bearer ${this.keys.subscriber}` },
      signal: aborter.signal,
    });
    const all = [];
    for await (const { data } of eventsOf(answer.body)) {
      if (data === "marker") break;
      if (data !== undefined) all.push(data);
    }
    aborter.abort();
    return all;
  }

  cookie(token, attributes) {
    return `fanfare=${token}; Path=/; HttpOnly; ${attributes}`;
  }

  async eventSourceWithCookie() {
    this.step("a listed page of the same site: EventSource sends the cookie with credentials alone");
    const page = await OriginPage.open(this.context, this.listed.origin("127.0.0.1"));
    await page.login(this.cookie(this.keys.subscriber, "SameSite=Strict"));
    const topic = this.topic();
    const headers = await this.responseHeaders(page, topic.url, () => page.listen("with", topic.url, true));
    await page.opened("with");
    assert.equal(headers["access-control-allow-origin"], page.origin);
    assert.equal(headers["access-control-allow-credentials"], "true");
    assert.equal(headers["vary"], "Origin");
    assert.equal(headers["content-type"], "text/event-stream");
    await page.listen("without", topic.url, false);
    await page.closed("without");
    await this.publish(topic, "private");
    assert.deepEqual(await page.dataUntil("with", "private"), ["private"]);
    const without = await page.state("without");
    assert.deepEqual([without.opened, without.events], [0, []]);
    await page.close();
  }

  async eventSourceOfAnotherSite() {
    this.step("a listed page of another site: only a cookie with SameSite=None is sent");
    const home = await OriginPage.open(this.context, this.listed.origin("127.0.0.1"));
    const page = await OriginPage.open(this.context, this.listed.origin("localhost"));
    for (const [attributes, isSent] of [["SameSite=Strict", false], ["SameSite=Lax", false], ["SameSite=None; Secure", true]]) {
      await this.context.clearCookies();
      await home.login(this.cookie(this.keys.subscriber, attributes));
      const topic = this.topic();
      await page.listen(topic.name, topic.url, true);
      await (isSent ? page.opened(topic.name) : page.closed(topic.name));
      await this.publish(topic, "private");
      if (isSent) await page.dataUntil(topic.name, "private");
      const { opened, events } = await page.state(topic.name);
      assert.deepEqual([opened, events.length], isSent ? [1, 1] : [0, 0], attributes);
      const sent = this.gate.of("GET").find(({ target }) => target.endsWith(topic.name));
      assert.equal(sent.headers.cookie !== undefined, isSent, attributes);
      assert.equal(sent.headers.origin, page.origin);
    }
    await home.close();
    await page.close();
  }

  async foreignPageReadsNothing() {
    this.step("a foreign page: no event reaches it, although its cookie is sent and its token is good");
    const page = await OriginPage.open(this.context, this.foreign.origin("127.0.0.1"));
    await page.login(this.cookie(this.keys.subscriber, "SameSite=Lax"));
    const topic = this.topic();
    await this.publish(topic, "before");
    const replay = `${topic.url}&last_event_id=earliest`;
    const headers = { Authorization: `Bearer ${this.keys.subscriber}` };
    await page.listen("with", replay, true);
    await page.listen("without", replay, false);
    await page.read("cookie", replay, { credentials: "include" });
    await page.read("token", replay, { headers });
    const opaque = page.post(`${replay}&opaque`, { method: "GET", mode: "no-cors", credentials: "include" });
    const all = ["with", "without", "cookie", "token"];
    for (const name of all) await page.closed(name);
    await this.publish(topic, "after");
    for (const name of all) {
      const { opened, events, status, headers } = await page.state(name);
      assert.deepEqual([opened, events, status, headers], [0, [], undefined, {}], name);
    }
    const sent = this.gate.of("GET").filter(({ target }) => target.includes(`${topic.name}&`));
    assert(sent.some(({ headers }) => headers.cookie !== undefined), "the cookie was sent");
    assert(!sent.some(({ headers }) => headers.authorization !== undefined), "the preflight kept the token back");
    await page.close();
    await opaque.catch(() => {});
  }

  async fetchWithHeaders() {
    this.step("a listed page: fetch sends a token and an id after a preflight, also when it comes back");
    const page = await OriginPage.open(this.context, this.listed.origin("localhost"));
    const devtools = await this.context.newCDPSession(page.page);
    await devtools.send("Network.enable");
    // Otherwise the browser remembers the preflight for hours.
    await devtools.send("Network.setCacheDisabled", { cacheDisabled: true });
    const topic = this.topic();
    this.gate.requests.length = 0;
    await page.read("token", topic.url, { headers: { Authorization: `Bearer ${this.keys.subscriber}` } });
    await page.opened("token");
    await this.publish(topic, "first");
    await page.dataUntil("token", "first");
    await this.server.endStreams(`topic=${topic.name}`);
    await page.opened("token", 2);
    await this.publish(topic, "second");
    assert.deepEqual(await page.dataUntil("token", "second"), ["first", "second"]);
    const asked = this.gate.of("OPTIONS").map(({ headers }) => headers["access-control-request-headers"]);
    assert.deepEqual(asked, ["authorization", "authorization,last-event-id"], "a preflight for each connection");
    const [first, second] = this.gate.of("GET");
    assert.deepEqual([first.headers["last-event-id"] === undefined, second.headers.cookie], [true, undefined]);
    assert.match(second.headers["last-event-id"], /^\w+-\d+$/);

    this.step("the browser remembers the preflight: further connections need none");
    await devtools.send("Network.setCacheDisabled", { cacheDisabled: false });
    const before = this.gate.of("OPTIONS").length;
    for (let count = 3; count <= 6; count += 1) {
      await this.server.endStreams(`topic=${topic.name}`);
      await page.opened("token", count);
    }
    assert(this.gate.of("OPTIONS").length <= before + 1, "at most one more preflight for four connections");
    await page.close();
  }

  // Connections are cut by the server between events, and by the network anywhere, while events are
  // published.
  async resume(client) {
    this.step(`a listed page comes back with ${client}: nothing is lost and nothing is doubled`);
    const page = await OriginPage.open(this.context, this.listed.origin("127.0.0.1"));
    await this.context.clearCookies();
    const topic = this.topic();
    if (client === "EventSource") {
      await page.login(this.cookie(this.keys.subscriber, "SameSite=Lax"));
      await page.listen("stream", topic.url, true);
    } else {
      await page.read("stream", topic.url, { headers: { Authorization: `Bearer ${this.keys.subscriber}` } });
    }
    await page.opened("stream");
    const published = [];
    for (let round = 1; round <= 6; round += 1) {
      for (let number = 1; number <= 20; number += 1) {
        const data = `${round}: ${number}`;
        await this.publish(topic, data);
        published.push(data);
        if (number === 10) await (round % 2 === 0 ? this.gate.cut() : this.server.endStreams(`topic=${topic.name}`));
      }
      await page.opened("stream", round + 1);
    }
    assert.deepEqual(await page.dataUntil("stream", published.at(-1)), published);
    const connections = this.gate.of("GET").filter(({ target }) => target === `/events?topic=${topic.name}`);
    const resumed = connections.filter(({ headers }) => headers["last-event-id"] !== undefined);
    assert(resumed.length >= 6, `${resumed.length} of ${connections.length} connections had the last id`);
    const { events } = await page.state("stream");
    assert.equal(new Set(events.map(({ id }) => id)).size, published.length);
    await page.close();
  }

  async gapIsReadable() {
    this.step("a listed page may read that there is a gap, and no other field");
    const page = await OriginPage.open(this.context, this.listed.origin("127.0.0.1"));
    const topic = this.topic();
    const headers = { Authorization: `Bearer ${this.keys.subscriber}`, "Last-Event-ID": "unknown" };
    await page.read("gap", topic.url, { headers });
    await page.opened("gap");
    const seen = (await page.state("gap")).headers;
    assert.equal(seen["fanfare-gap"], "true");
    assert.equal(seen["x-accel-buffering"], undefined);
    await page.read("refused", topic.url, { headers: { Authorization: "Bearer garbage" } });
    await page.closed("refused");
    assert.equal((await page.state("refused")).status, 401, "it may read a refusal, too");
    await page.close();
  }

  async publishByCookie() {
    this.step("a cookie publishes from a listed page and from its own, and from no other");
    const topic = this.topic();
    const url = `${this.url}/events`;
    const form = (data) => ({ headers: { "Content-Type": FORM }, body: `topic=${topic.name}&data=${data}` });
    const json = (data) => ({
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ topic: topic.name, data }),
    });
    const home = await OriginPage.open(this.context, this.listed.origin("127.0.0.1"));
    await this.context.clearCookies();
    await home.login(this.cookie(this.keys.publisher, "SameSite=None; Secure"));
    const expected = [];
    for (const host of ["127.0.0.1", "localhost"]) {
      const page = await OriginPage.open(this.context, this.listed.origin(host));
      for (const [name, options] of [["form", form(`form-${host}`)], ["JSON", json(`json-${host}`)]]) {
        const answer = await page.post(url, { ...options, credentials: "include" });
        assert.equal(answer.status, 200, `${name} from ${page.origin}: ${JSON.stringify(answer)}`);
      }
      expected.push(`form-${host}`, `json-${host}`);
      const without = await page.post(url, { ...form("x"), credentials: "omit" });
      assert.equal(without.status, 401, "no cookie without credentials");
      await page.close();
    }
    for (const host of ["127.0.0.1", "localhost"]) {
      const page = await OriginPage.open(this.context, this.foreign.origin(host));
      // A form needs no preflight: the request arrives with its cookie, and only its Origin tells it apart.
      const before = this.gate.of("POST").length;
      assert.equal(await page.post(url, { ...form("foreign"), credentials: "include" }), "unreadable");
      assert.equal(await page.post(url, { ...json("foreign"), credentials: "include" }), "unreadable");
      const opaque = await page.post(url, { ...form("foreign"), credentials: "include", mode: "no-cors" });
      assert.deepEqual([opaque.status, opaque.type], [0, "opaque"]);
      await page.page.evaluate(
        ([url, body, type]) => navigator.sendBeacon(url, new Blob([body], { type })),
        [url, form("beacon").body, FORM],
      );
      for (const referrer of ["unsafe-url", "no-referrer"]) {
        const status = await this.#submit(page.origin, url, { topic: topic.name, data: "navigation" }, referrer);
        assert.equal(status, 403, `a form of ${page.origin} with ${referrer}`);
      }
      const posts = this.gate.of("POST").slice(before);
      assert(posts.length >= 4 && posts.every(({ headers }) => headers.cookie !== undefined), "all had the cookie");
      const named = new Set(posts.map(({ headers }) => headers.origin));
      assert([...named].every((origin) => [page.origin, "null"].includes(origin)), [...named].join());
      await page.close();
    }
    const own = await OriginPage.openOwn(this.context, this.url);
    const answer = await own.post("/events", { ...json("own"), credentials: "same-origin" });
    assert.equal(answer.status, 200, JSON.stringify(answer));
    expected.push("own");
    await own.close();

    // A program that sends the cookie and no Origin.
    const cookie = `fanfare=${this.keys.publisher}`;
    const program = await fetch(url, { method: "POST", ...form("program"), headers: { "Content-Type": FORM, cookie } });
    assert.equal(program.status, 403);
    assert.deepEqual(await this.history(topic), expected);
    await home.close();
  }

  // Submits a form as a person does, in a tab of its own, and gives the status of the answer.
  async #submit(origin, url, fields, referrer) {
    const page = await OriginPage.open(this.context, origin);
    const answered = page.page.waitForResponse((response) => response.url() === url);
    await page.page.evaluate(
      ([action, fields, referrer]) => {
        document.head.innerHTML += `<meta name="referrer" content="${referrer}">`;
        const form = document.createElement("form");
        Object.assign(form, { method: "POST", action });
        for (const [name, value] of Object.entries(fields)) {
          form.append(Object.assign(document.createElement("input"), { name, value }));
        }
        document.body.append(form);
        form.submit();
      },
      [url, fields, referrer],
    );
    const status = (await answered).status();
    await page.close();
    return status;
  }

  async rebinding() {
    this.step("a name that resolves to the server after its page was loaded: 421, and nothing is read or published");
    const topic = this.topic();
    await this.publish(topic, "before");
    const gate = await Gate.open(this.foreign.port);
    try {
      const page = await OriginPage.open(this.context, `http://evil.test:${gate.port}`);
      gate.cut();
      gate.upstream = this.server.port;
      gate.requests.length = 0;
      const target = `/events?topic=${topic.name}&last_event_id=earliest`;
      await page.listen("stream", target, true);
      await page.closed("stream");
      await page.read("fetch", target, { headers: { Authorization: `Bearer ${this.keys.subscriber}` } });
      await page.closed("fetch");
      const { status, events } = await page.state("fetch");
      assert.deepEqual([status, events], [421, []], "the origin is its own, so that it may read the refusal");
      const body = `topic=${topic.name}&data=evil`;
      const headers = { Authorization: `Bearer ${this.keys.publisher}`, "Content-Type": FORM };
      const refused = await page.post("/events", { headers, body });
      assert.equal(refused.status, 421);
      assert.match(JSON.parse(refused.body).detail, /does not answer to the name "evil.test".*--host/);
      assert.deepEqual((await page.state("stream")).events, []);
      assert(gate.requests.length >= 3 && gate.requests.every(({ headers }) => headers.host.startsWith("evil.test")));
      await page.close();
    } finally {
      gate.kill();
    }
    assert.deepEqual(await this.history(topic), ["before"]);
  }
}

// The server as it is started first: no keys, on loopback. Any page of the internet can send requests to it.
async function withoutKeys({ context, step, startServer }, foreign) {
  step("a server without keys: a foreign page neither reads nor publishes");
  const server = await startServer(DRAIN);
  const page = await OriginPage.open(context, foreign.origin("localhost"));
  const url = `${server.url}/events`;
  await server.publish({ topic: "a", data: "before" });
  await page.listen("stream", `${url}?topic=a&last_event_id=earliest`, false);
  await page.closed("stream");
  const options = { headers: { "Content-Type": FORM }, body: "topic=a&data=foreign" };
  assert.equal(await page.post(url, options), "unreadable");
  await page.post(url, { ...options, mode: "no-cors" });
  await page.post(url, { body: options.body, mode: "no-cors" });
  assert.equal((await page.state("stream")).events.length, 0);
  await server.publish({ topic: "a", data: "marker" });
  const all = [];
  const aborter = new AbortController();
  const answer = await fetch(`${url}?topic=a&last_event_id=earliest`, { signal: aborter.signal });
  for await (const { data } of eventsOf(answer.body)) {
    if (data !== undefined) all.push(data);
    if (data === "marker") break;
  }
  aborter.abort();
  assert.deepEqual(all, ["before", "marker"]);
  await page.close();
  await server.terminate();
}

// `--cors-origin '*'`: every page reads without credentials, and none with them.
async function wildcard(world, foreign, keys) {
  const { context, step } = world;
  step("any origin: pages read without credentials, by EventSource where all may, and by fetch with a token");
  const open = await world.startServer(["--cors-origin", "*", "--retry", "100ms", ...DRAIN]);
  const page = await OriginPage.open(context, foreign.origin("127.0.0.1"));
  await page.login("theme=dark; Path=/");
  const url = `${open.url}/events?topic=a`;
  await page.listen("without", url, false);
  await page.opened("without");
  await page.listen("with", url, true);
  await page.closed("with");
  await open.publish({ topic: "a", data: "public" });
  await page.dataUntil("without", "public");
  assert.deepEqual((await page.state("with")).events, [], "* is not enough for credentials");
  await page.read("gap", url, { headers: { "Last-Event-ID": "unknown" } });
  await page.opened("gap");
  assert.equal((await page.state("gap")).headers["fanfare-gap"], "true");
  const body = "topic=a&data=from-any-page";
  const answer = await page.post(`${open.url}/events`, { headers: { "Content-Type": FORM }, body });
  assert.equal(answer.status, 200);
  await open.terminate();

  const closed = await world.startServer([...keys.options, ...DRAIN, "--cors-origin", "*", "--token-cookie", "fanfare"]);
  closed.authorization = `Bearer ${keys.publisher}`;
  const guarded = `${closed.url}/events?topic=a`;
  await page.read("token", guarded, { headers: { Authorization: `Bearer ${keys.subscriber}` } });
  await page.opened("token");
  await page.login(`fanfare=${keys.publisher}; Path=/`);
  const refused = await page.post(`${closed.url}/events`, {
    headers: { "Content-Type": FORM },
    body: "topic=a&data=cookie",
    credentials: "include",
  });
  assert.equal(refused, "unreadable", "* lists no page");
  await closed.publish({ topic: "a", data: "private", private: true });
  assert.deepEqual(await page.dataUntil("token", "private"), ["private"]);
  await page.close();
  await closed.terminate();
}
