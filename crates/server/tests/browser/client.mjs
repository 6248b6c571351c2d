// Two clients of streams, and what they saw. Pages of other origins load this file, and so does the scenario
// itself.

// The events of a body, as the HTML standard reads them.
export async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let event = { type: "message", data: [], id: undefined };
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      const [, name, text] = line.match(/^([^:]*):? ?(.*)$/);
      if (name === "event") event.type = text;
      if (name === "data") event.data.push(text);
      if (name === "id") event.id = text;
      if (line === "") {
        yield { type: event.type, data: event.data.length > 0 ? event.data.join("\n") : undefined, id: event.id };
        event = { type: "message", data: [], id: undefined };
      }
    }
  }
}

// What a stream has come to.
class Seen {
  // The data and ids of events.
  events = [];
  // How often an answer was good, and how often a connection was lost or refused.
  opened = 0;
  lost = 0;
  // It does not come back.
  closed = false;
  // Of the last answer, as far as the page may read it.
  status = undefined;
  headers = {};
  stop = () => {};
}

// The browser's own client.
export function listen(url, withCredentials) {
  const seen = new Seen();
  const source = new EventSource(url, { withCredentials });
  source.onopen = () => (seen.opened += 1);
  source.onerror = () => {
    seen.lost += 1;
    seen.closed = source.readyState === EventSource.CLOSED;
  };
  for (const type of ["message", "fanfare.gap"]) {
    source.addEventListener(type, ({ data, lastEventId }) => seen.events.push({ type, data, id: lastEventId }));
  }
  seen.stop = () => source.close();
  return seen;
}

// A client made of fetch. It sets header fields, and comes back with `Last-Event-ID` until it is refused.
export function read(url, { headers = {}, credentials = "same-origin" } = {}) {
  const seen = new Seen();
  const aborter = new AbortController();
  seen.stop = () => aborter.abort();
  let lastEventId;
  const connect = async () => {
    const resume = lastEventId === undefined ? {} : { "Last-Event-ID": lastEventId };
    const answer = await fetch(url, { headers: { ...headers, ...resume }, credentials, signal: aborter.signal });
    seen.status = answer.status;
    seen.headers = Object.fromEntries(answer.headers);
    if (answer.status !== 200) {
      seen.closed = true;
      return;
    }
    seen.opened += 1;
    for await (const { type, data, id } of eventsOf(answer.body)) {
      lastEventId = id ?? lastEventId;
      if (data !== undefined) seen.events.push({ type, data, id });
    }
  };
  (async () => {
    while (!seen.closed && !aborter.signal.aborted) {
      try {
        await connect();
      } catch {
        // A page cannot tell an answer that it may not read from a connection that was lost. Like
        // EventSource, it gives up what has never been good.
        seen.lost += 1;
        seen.closed = seen.opened === 0;
      }
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  })();
  return seen;
}
