// The demo page: a plain EventSource, made visible. Everything that came over the wire is shown through
// `textContent`, never as markup.

import { accessOf, setCookie, takeFromAddress, tokenOfCookie } from "./access.js";

const ROWS_MAX = 200;
const GAP_TYPE = "fanfare.gap";
const LOOPBACK_TWINS = { "127.0.0.1": "localhost", "[::1]": "localhost", localhost: "127.0.0.1" };
const STATE_SENTENCES = [
  "the browser is trying to reach the server, and keeps trying.",
  "events arrive here the moment they are published.",
  "this EventSource is finished and will not reconnect.",
];

const el = (id) => document.getElementById(id);

let source = null;
let lastEventId = "";
let rowsEver = 0;

el("token").value = tokenOfCookie();
takeAccess();
setUpOrigins();
showLog();
addEventListener("hashchange", takeAccess);
el("connect-form").addEventListener("submit", (event) => {
  event.preventDefault();
  connect();
});
el("connect-form").addEventListener("input", () => {
  showAccess();
  showCurl();
});
el("publish-form").addEventListener("input", () => {
  showAccess();
  showCurl();
});
el("origin").addEventListener("change", showOrigin);
el("close").addEventListener("click", close);
el("forget-id").addEventListener("click", () => showLastEventId(""));
el("clear-log").addEventListener("click", clearLog);
el("publish-form").addEventListener("submit", (event) => {
  event.preventDefault();
  publish();
});
el("publish-data").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    el("publish-form").requestSubmit();
  }
});
for (const button of document.querySelectorAll("[data-copies]")) {
  button.addEventListener("click", () => copy(button));
}

// Access

function takeAccess() {
  const { token, publishToken } = takeFromAddress(location.hostname in LOOPBACK_TWINS);
  if (token != null) el("token").value = token;
  if (publishToken != null) el("publish-token").value = publishToken;
  showAccess();
  showCurl();
}

function access() {
  return accessOf(el("token").value.trim());
}

function showAccess() {
  const { kind, says, topics } = access();
  el("token-says").dataset.kind = kind;
  el("token-says").textContent = says;
  // A signature is for its topics alone.
  el("topics").readOnly = kind === "url";
  if (kind === "url") el("topics").value = topics.join(", ");
  const publisher = accessOf(el("publish-token").value.trim());
  el("publish-token-says").textContent = publisher.kind === "url" ? "A signed URL does not publish." : publisher.says;
}

// Subscribe

function connect() {
  const url = streamUrl();
  const { kind } = access();
  const problem = setCookie(kind === "token" ? el("token").value.trim() : "");
  if (problem !== null) addNote("error", problem);
  const withCredentials = el("with-credentials").checked && !el("with-credentials").disabled;
  source = new EventSource(url, { withCredentials });
  const stream = { source, url, withCredentials, seenId: "" };
  source.addEventListener("open", opened);
  source.addEventListener("error", () => lost(stream));
  for (const type of listenedTypes()) {
    source.addEventListener(type, (event) => received(stream, event));
  }
  el("stream-url").textContent = url;
  showState();
}

function close() {
  source.close();
  showState();
  addNote("closed", "close() was called. The browser fires no event for that.");
}

function opened() {
  showState();
  addNote("open", "The server answered 200 with text/event-stream.");
}

function received(stream, event) {
  // A native EventSource starts without an id: until the first `id:` line this is empty, which is no news.
  if (event.lastEventId !== "") {
    stream.seenId = event.lastEventId;
    showLastEventId(event.lastEventId);
  }
  addRow({ kind: event.type, id: event.lastEventId, data: event.data });
}

async function lost(stream) {
  showState();
  if (stream.source.readyState === EventSource.CONNECTING) {
    const resume = stream.seenId === "" ? "" : ` and Last-Event-ID: ${stream.seenId}`;
    addNote("error", `No connection. The browser will try again with the same URL${resume}.`);
    return;
  }
  addNote("error", `Refused: the browser has given up. ${await refusalReason(stream)}`);
}

// EventSource hides why it was refused; asking once more with fetch shows the status and the server's reason.
async function refusalReason({ url, withCredentials }) {
  const aborter = new AbortController();
  try {
    const answer = await fetch(url, {
      credentials: withCredentials ? "include" : "same-origin",
      cache: "no-store",
      signal: aborter.signal,
    });
    return answer.ok ? `A second try was answered ${answer.status}.` : await problemText(answer, accessHint());
  } catch {
    return "The answer cannot be read from this origin (CORS), or there was none.";
  } finally {
    aborter.abort();
  }
}

// What to do about a stream that is refused for its token.
function accessHint() {
  switch (access().kind) {
    case "none":
      return "Give an access token beside the topics; `fanfare token mint` makes one.";
    case "url":
      return "The server needs --url-keys with the secret of this URL.";
    default:
      return (
        "The page sent its token in the cookie fanfare. The server reads that with --token-cookie fanfare, and its " +
        "log says why it refuses a token; with --debug-auth it says so here."
      );
  }
}

function streamUrl() {
  const url = new URL("/events", el("origin").value === "alias" ? loopbackAlias() : location.origin);
  if (access().kind === "url") {
    url.search = el("token").value.trim();
  } else {
    for (const topic of listOf("topics")) {
      url.searchParams.append("topic", topic);
    }
  }
  const start = document.querySelector('input[name="start"]:checked').value;
  if (start === "earliest") {
    url.searchParams.set("last_event_id", "earliest");
  } else if (start === "resume" && lastEventId !== "") {
    url.searchParams.set("last_event_id", lastEventId);
  }
  return url.href;
}

// `open` and `error` are EventSource's own events and are listened to in any case.
function listenedTypes() {
  const types = new Set(["message", GAP_TYPE, ...listOf("types")]);
  types.delete("open");
  types.delete("error");
  return types;
}

function listOf(inputId) {
  const parts = el(inputId).value.split(",").map((part) => part.trim());
  return parts.filter((part) => part !== "");
}

function loopbackAlias() {
  const name = LOOPBACK_TWINS[location.hostname];
  if (name === undefined) {
    return null;
  }
  const url = new URL(location.origin);
  url.hostname = name;
  return url.origin;
}

// Publish

async function publish() {
  const event = { topic: el("publish-topic").value.trim(), data: el("publish-data").value };
  const type = el("publish-type").value.trim();
  const id = el("publish-id").value;
  const retry = el("publish-retry").value;
  if (type !== "") event.type = type;
  if (id !== "") event.id = id;
  if (retry !== "") event.retry = Number(retry);
  if (el("publish-private").checked) event.private = true;
  const token = el("publish-token").value.trim();
  const headers = { "Content-Type": "application/json" };
  if (token !== "") headers.Authorization = `Bearer ${token}`;

  try {
    const answer = await fetch("/events", {
      method: "POST",
      headers,
      // The cookie has the subscriber's token, and a request has one token.
      credentials: token === "" ? "same-origin" : "omit",
      body: JSON.stringify(event),
    });
    if (answer.ok) {
      showAnswer("published", `Published as ${(await answer.json()).id}`);
    } else {
      const hint = token === "" ? "Give a publisher's access token below; `fanfare token mint --publish` makes one." : "";
      showAnswer("refused", await problemText(answer, hint));
    }
  } catch {
    showAnswer("unreachable", "The server did not answer.");
  }
}

// The reason of a refusal. The hint is for one that is about a token.
async function problemText(answer, hint = "") {
  try {
    const { title, detail } = await answer.json();
    const reason = [`${answer.status} ${title ?? answer.statusText}`, detail].filter(Boolean).join(": ");
    return answer.status === 401 && hint !== "" ? `${reason}. ${hint}` : reason;
  } catch {
    return `${answer.status} ${answer.statusText}`;
  }
}

function showAnswer(outcome, text) {
  el("publish-answer").dataset.outcome = outcome;
  el("publish-answer").textContent = text;
}

// What the page shows

function setUpOrigins() {
  const alias = loopbackAlias();
  if (alias !== null) {
    const option = el("origin").querySelector('[value="alias"]');
    option.textContent = `another one: ${alias}`;
    option.disabled = false;
  }
  showOrigin();
}

function showOrigin() {
  el("with-credentials").disabled = el("origin").value !== "alias";
}

function showState() {
  const value = source.readyState;
  const names = ["CONNECTING", "OPEN", "CLOSED"];
  for (const item of el("ready-states").children) {
    item.ariaCurrent = item.dataset.value === String(value) ? "true" : null;
  }
  el("state").dataset.readyState = value;
  el("state").textContent = `${names[value]} (${value}): ${STATE_SENTENCES[value]}`;

  const active = value !== EventSource.CLOSED;
  const focusMoves = el("connect-form").contains(document.activeElement);
  el("connect-options").disabled = active;
  el("connect").disabled = active;
  el("close").disabled = !active;
  // A control that is switched off drops the keyboard's focus: hand it to the button that works now.
  if (focusMoves) {
    el(active ? "close" : "connect").focus();
  }
}

function showLastEventId(id) {
  lastEventId = id;
  el("last-event-id").textContent = id;
  el("forget-id").disabled = id === "";
}

function showCurl() {
  const url = new URL("/events", location.origin);
  const topics = listOf("topics");
  for (const topic of topics) {
    url.searchParams.append("topic", topic);
  }
  const { kind } = access();
  if (kind === "url") url.search = el("token").value.trim();
  // The token itself is not shown: a shell keeps a history.
  const withToken = (is) => (is ? '-H "Authorization: Bearer $TOKEN" ' : "");
  el("curl-subscribe").textContent = `curl -N ${withToken(kind === "token")}${shellQuoted(url.href)}`;
  const event = JSON.stringify({ topic: topics[0] ?? "demo", type: "greeting", data: "hi" });
  const header = withToken(el("publish-token").value.trim() !== "");
  el("curl-publish").textContent = `curl ${header}--json ${shellQuoted(event)} ${location.origin}/events`;
}

function shellQuoted(text) {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

async function copy(button) {
  const code = el(button.dataset.copies);
  try {
    await navigator.clipboard.writeText(code.textContent);
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  } catch {
    // No clipboard for this page (it needs https or a loopback name): select the line instead.
    getSelection().selectAllChildren(code);
  }
}

function addNote(kind, text) {
  addRow({ kind, id: "", data: text, note: true });
}

function addRow({ kind, id, data, note = false }) {
  const row = document.createElement("tr");
  row.dataset.kind = kind;
  row.classList.toggle("note", note);
  const chip = document.createElement("span");
  chip.textContent = kind;
  cell(row, "time").textContent = timeOfDay(new Date());
  cell(row, "kind").append(chip);
  cell(row, "id").textContent = id;
  cell(row, "data").textContent = data;
  el("log").prepend(row);
  if (el("log").rows.length > ROWS_MAX) {
    el("log").lastElementChild.remove();
  }
  rowsEver += 1;
  showLog();
}

function cell(row, name) {
  const made = row.insertCell();
  made.className = name;
  return made;
}

function timeOfDay(date) {
  const two = (number) => String(number).padStart(2, "0");
  const ms = String(date.getMilliseconds()).padStart(3, "0");
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}.${ms}`;
}

function clearLog() {
  el("log").replaceChildren();
  rowsEver = 0;
  showLog();
}

function showLog() {
  const rows = el("log").rows.length;
  el("log-empty").hidden = rows > 0;
  el("clear-log").disabled = rows === 0;
  if (rows === 0) {
    el("log-count").textContent = "";
  } else {
    el("log-count").textContent = rowsEver > rows ? `the newest ${rows} of ${rowsEver}` : String(rows);
  }
}
