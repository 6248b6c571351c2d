// Starts one client in the page. What it dispatches goes to `told`, which browser.mjs has put there.

import { fetchEventSource } from "/trial/modules/@microsoft/fetch-event-source/lib/esm/index.js";
import { SSE } from "/trial/modules/sse.js/lib/sse.js";

const TYPES = ["message", "paid", "fanfare.checkpoint", "fanfare.gap"];
const tell = ({ type, data, lastEventId, id }) => window.told({ type, data, id: lastEventId ?? id });
const listen = (source) => TYPES.forEach((type) => source.addEventListener(type, tell));

const clients = {
  native: (url) => listen(new EventSource(url)),
  polyfill: (url) => listen(new window.EventSourcePolyfill(url)),
  "sse.js": (url) => {
    const reconnect = { autoReconnect: true, reconnectDelay: 300, useLastEventId: true };
    const source = new SSE(url, { ...reconnect, start: false });
    listen(source);
    source.stream();
  },
  "fetch-event-source": (url) =>
    fetchEventSource(url, {
      openWhenHidden: true,
      onmessage: ({ event, data, id }) => window.told({ type: event, data, id }),
    }),
  htmx: (url) => {
    document.addEventListener("htmx:sseMessage", ({ detail }) => tell(detail));
    const element = document.createElement("div");
    element.setAttribute("hx-ext", "sse");
    element.setAttribute("sse-connect", url);
    element.setAttribute("sse-swap", TYPES.join(","));
    document.body.append(element);
    window.htmx.process(element);
  },
};

window.begin = (name, url) => void clients[name](url);
