// node node.mjs VERSION URL: the package eventsource.

const [version, url] = process.argv.slice(2);
const { EventSource } = await import(`eventsource-${version}`);
const source = new EventSource(url);
for (const type of ["message", "paid", "fanfare.checkpoint", "fanfare.gap"]) {
  source.addEventListener(type, ({ type, data, lastEventId }) => {
    console.log(JSON.stringify({ type, data, id: lastEventId }));
  });
}
source.onerror = () => {};
// Version 5 lets the process end while it waits to reconnect.
setInterval(() => {}, 60_000);
