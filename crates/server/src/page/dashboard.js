// The dashboard: shows the figures that the server sends once a second, and keeps the last five minutes of
// them.
//
// Everything that the server sends is put into the page as text. Reasons and topics may hold what clients
// chose.

// Points of each chart, and seconds that it shows. Older ones are dropped.
const POINTS = 300;
// Rows of the table beside a chart.
const ROWS = 10;
// Without figures for so long, the connection counts as lost; after twice the time, a new one is opened.
const SILENCE_MS = 5_000;
// The wait before a new connection where the browser has given up.
const RETRY_MS = 3_000;
// A line is broken where figures are missing for so long.
const BREAK_S = 3;
// From this part of a limit on, it is close.
const CLOSE = 0.8;

const byId = (id) => document.getElementById(id);

// Numbers as text.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const fine = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 4 });
const percents = new Intl.NumberFormat("en", { style: "percent", maximumFractionDigits: 1 });
const clock = new Intl.DateTimeFormat("en", { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });

const NONE = "–";
const orNone = (format) => (value) => (value === null || value === undefined ? NONE : format(value));

const count = orNone((value) => (value < 1e6 ? whole.format(value) : compact.format(value)));
const rate = orNone((value) => (value < 10 ? fine.format(value) : count(value)));
const percent = orNone((value) => percents.format(value));

const seconds = orNone((value) => {
  if (value < 1e-3) return `${fine.format(value * 1e6)} µs`;
  if (value < 1) return `${fine.format(value * 1e3)} ms`;
  return `${fine.format(value)} s`;
});

const bytes = orNone((value) => {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  for (; value >= 1024 && unit < units.length - 1; unit += 1) value /= 1024;
  return `${fine.format(value)} ${units[unit]}`;
});

const duration = (value) => {
  const parts = [["d", 86_400], ["h", 3_600], ["min", 60], ["s", 1]];
  const index = parts.findIndex(([, size]) => value >= size);
  if (index < 0) return "0 s";
  const [[unit, size], next] = [parts[index], parts[index + 1]];
  const rest = next ? Math.floor((value % size) / next[1]) : 0;
  return `${Math.floor(value / size)} ${unit}${rest ? ` ${rest} ${next[0]}` : ""}`;
};

const time = (date) => clock.format(date);

// A name as it was chosen, but for characters that are not seen and change how the others are read.
const UNSEEN = /[\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/gu;
const name = (text) => text.replace(UNSEEN, (found) => `\\u{${found.codePointAt(0).toString(16)}}`);

// Elements.

function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

// Brings the children of an element to this number, and keeps those that are there.
function resize(parent, length, makeChild) {
  while (parent.children.length > length) parent.lastElementChild.remove();
  while (parent.children.length < length) parent.append(makeChild());
  return [...parent.children];
}

// Rows of texts, the first of each a heading. Rows that are there are changed in place, so that a reader
// keeps its place.
function showRows(body, rows) {
  const makeRow = () => {
    const heading = make("th", { scope: "row" }, make("span", { className: "name" }));
    return make("tr", {}, heading, ...rows[0].slice(1).map(() => make("td")));
  };
  resize(body, rows.length, makeRow).forEach((row, index) => {
    rows[index].forEach((text, cell) => say(cell === 0 ? row.children[0].firstChild : row.children[cell], text));
  });
  body.parentElement.hidden = rows.length === 0;
}

// Charts.

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

class Chart {
  // `lines`: how each is called, drawn, and found in the figures.
  constructor({ title, format, lines }) {
    this.lines = lines;
    this.format = format;
    this.data = [[], ...lines.map(() => [])];
    this.legends = lines.map(({ label, colour, dash }) => {
      const legend = make("span", { className: "legend" });
      legend.style.setProperty("--mark", `var(${colour})`);
      legend.toggleAttribute("data-is-dashed", Boolean(dash));
      legend.dataset.label = label;
      return legend;
    });
    const label = `${title}, a line chart of the last five minutes. The table below has the last values.`;
    this.place = make("div", { className: "plot", role: "img", ariaLabel: label });
    this.body = make("tbody");
    const head = ["Time", ...lines.map(({ label }) => label)].map((text) => make("th", { scope: "col" }, text));
    const table = make("table", {}, make("thead", {}, make("tr", {}, ...head)), this.body);
    this.details = make("details", {}, make("summary", {}, "The last values as a table"), table);
    this.details.addEventListener("toggle", () => this.showTable());
    this.figure = make(
      "figure",
      { className: "card chart" },
      make("figcaption", {}, make("h3", {}, title), ...this.legends),
      this.place,
      this.details,
    );
    byId("charts").append(this.figure);
    this.plot = new uPlot(this.options(), this.data, this.place);
    new ResizeObserver(() => this.fit()).observe(this.place);
  }

  options() {
    const axis = { stroke: () => colour("--ink-soft"), font: "12px system-ui, sans-serif" };
    const grid = { stroke: () => colour("--line"), width: 1 };
    const values = (_, all) => all.map((value) => this.format(value));
    const clocks = (_, all) => all.map((value) => time(value * 1000).slice(0, 5));
    return {
      width: Math.max(this.place.clientWidth, 100),
      height: this.place.clientHeight,
      legend: { show: false },
      cursor: { show: false },
      scales: {
        x: { range: (_, __, max) => [(max ?? 0) - POINTS, max ?? 0] },
        y: { range: (_, __, max) => [0, max > 0 ? max * 1.1 : 1] },
      },
      axes: [
        { ...axis, grid: { show: false }, ticks: grid, values: clocks, incrs: [60, 120], space: 40 },
        { ...axis, grid, ticks: { show: false }, values, size: 64, space: 32 },
      ],
      series: [
        {},
        ...this.lines.map(({ label, colour: name, dash }) => ({
          label,
          stroke: () => colour(name),
          width: 2,
          dash,
          points: { show: false },
          spanGaps: false,
        })),
      ],
    };
  }

  fit() {
    const { clientWidth: width, clientHeight: height } = this.place;
    if (width > 0 && (width !== this.plot.width || height !== this.plot.height)) this.plot.setSize({ width, height });
  }

  // Colours have changed.
  redraw() {
    this.plot.redraw(true, true);
  }

  clear() {
    this.data.forEach((column) => column.splice(0));
  }

  // `figures` null: nothing is known of this time.
  push(at, figures) {
    this.data[0].push(at);
    this.lines.forEach(({ read }, index) => this.data[index + 1].push(figures ? (read(figures) ?? null) : null));
    // At most POINTS are left, and only those that the chart shows.
    let old = Math.max(this.data[0].length - POINTS, 0);
    while (this.data[0][old] < at - POINTS) old += 1;
    this.data.forEach((column) => column.splice(0, old));
    this.figure.dataset.points = this.data[0].length;
  }

  show(figures) {
    this.lines.forEach(({ label, read }, index) => {
      say(this.legends[index], `${label} ${this.format(read(figures) ?? null)}`);
    });
    // A hidden page draws when it is seen again.
    if (!document.hidden) this.plot.setData(this.data);
    this.showTable();
  }

  showTable() {
    if (!this.details.open) return;
    const [times] = this.data;
    const rows = [];
    for (let index = times.length - 1; index >= 0 && rows.length < ROWS; index -= 1) {
      const values = this.data.slice(1).map((column) => this.format(column[index]));
      rows.push([time(times[index] * 1000), ...values]);
    }
    showRows(this.body, rows);
  }
}

const charts = [
  {
    title: "Deliveries a second",
    format: rate,
    lines: [{ label: "deliveries", colour: "--plain", read: ({ rates }) => rates?.deliveries }],
  },
  {
    title: "Delivery lag",
    format: seconds,
    lines: [
      { label: "p50", colour: "--good", read: ({ lag }) => lag?.p50 },
      { label: "p99", colour: "--custom", dash: [6, 4], read: ({ lag }) => lag?.p99 },
    ],
  },
  {
    title: "Publishes a second",
    format: rate,
    lines: [{ label: "publishes", colour: "--brass", read: ({ rates }) => rates?.publishes }],
  },
  {
    title: "Connections",
    format: count,
    lines: [
      { label: "connections", colour: "--plain", read: ({ connections }) => connections },
      { label: "laggards", colour: "--bad", dash: [6, 4], read: ({ laggards }) => laggards },
    ],
  },
].map((chart) => new Chart(chart));

// The newest figures.
let last = null;

function addToCharts(figures) {
  const since = last && figures.time - last.time;
  // The same figures once more, at a new connection.
  if (since === 0) return;
  for (const chart of charts) {
    // The clock of the server has gone back.
    if (since < 0) chart.clear();
    if (since > BREAK_S) chart.push(last.time + 1, null);
    chart.push(figures.time, figures);
  }
}

function showFigures(figures) {
  const { rates, lag, process } = figures;
  const texts = {
    about: `Version ${figures.version} on ${figures.backend}, for ${duration(figures.time - figures.started)}.`,
    connections: count(figures.connections),
    "connections-more": rates ? `${rate(rates.begins)} new, ${rate(rates.ends)} ended a second` : "",
    deliveries: rate(rates?.deliveries),
    "deliveries-more": rates ? `${bytes(rates.delivered_bytes)} a second` : "",
    publishes: rate(rates?.publishes),
    "publishes-more": rates ? `${bytes(rates.published_bytes)} a second` : "",
    "lag-p50": seconds(lag?.p50),
    "lag-p99": seconds(lag?.p99),
    laggards: count(figures.laggards),
    "laggards-more": figures.connections ? `${percent(figures.laggards / figures.connections)} of all` : "",
    gaps: rate(rates?.gaps),
    "gaps-more": rates ? `${rate(rates.replayed)} replayed` : "",
    "refusals-rate": rate(rates?.refusals),
  };
  for (const [id, text] of Object.entries(texts)) say(byId(id), text);
  charts.forEach((chart) => chart.show(figures));
  showLimits(figures.limits);
  const shards = figures.shards.map((shard, index) => [
    String(index),
    percent(shard.busy),
    count(shard.connections),
    count(shard.laggards),
    rate(shard.deliveries),
    `${count(shard.mailbox_events)} (${bytes(shard.mailbox_bytes)})`,
  ]);
  showRows(byId("shards"), shards);
  showReasons("ends", figures.ends);
  showReasons("refusals", figures.refusals);
  showTopics(figures);
  showFacts([
    ["log", `${count(figures.log_events)} events, ${bytes(figures.log_bytes)}`],
    ["dropped", `${rate(rates?.evicted)} a second, because the log is full`],
    ["topics", count(figures.topics)],
    ["audiences", count(figures.audiences)],
    ["processor", process.cores === null ? NONE : `${fine.format(process.cores)} cores`],
    ["memory", `${bytes(process.resident_bytes)} resident`],
    ["threads", count(process.threads)],
    ["started", new Date(figures.started * 1000).toLocaleString("en", { hourCycle: "h23" })],
  ]);
}

function showLimits(limits) {
  const makeLimit = () =>
    make("li", {}, make("label", {}, make("span"), make("span", { className: "value" }), make("meter")));
  resize(byId("limits"), limits.length, makeLimit).forEach((item, index) => {
    const { name: title, option, used, limit, is_bytes: isBytes, may_be_full: mayBeFull } = limits[index];
    const [heading, value, meter] = item.firstChild.children;
    const format = isBytes ? bytes : count;
    if (heading.dataset.title !== title) {
      heading.dataset.title = title;
      heading.replaceChildren(title, " ", ...(option ? [make("code", {}, option)] : []));
    }
    const part = limit > 0 ? used / limit : 0;
    const isClose = part >= CLOSE && !mayBeFull;
    say(value, `${format(used)} of ${format(limit)}, ${isClose ? "close: " : ""}${percent(part)}`);
    value.toggleAttribute("data-is-close", isClose);
    meter.max = Math.max(limit, 1);
    meter.low = CLOSE * meter.max;
    meter.high = meter.max;
    meter.optimum = 0;
    if (mayBeFull) meter.low = meter.max;
    meter.value = used;
  });
}

function showReasons(id, reasons) {
  const rows = reasons.map(({ kind, reason, recent, total }) => {
    const name = ["end", "refused"].includes(kind) ? reason : `${kind}: ${reason}`;
    return [name, count(recent), count(total)];
  });
  showRows(byId(id), rows);
  byId(`${id}-empty`).hidden = rows.length > 0;
}

function showTopics({ topics, top_topics: list, top_topics_limit: limit }) {
  const rows = (list ?? []).map(({ topic, subscribers, laggards, retained }) => [
    name(topic),
    count(subscribers),
    count(laggards),
    count(retained),
  ]);
  showRows(byId("topics"), rows);
  const empty = byId("topics-empty");
  empty.hidden = rows.length > 0;
  if (list) say(empty, "No topic has subscribers or events.");
  else if (topics > limit) say(empty, `There are ${count(topics)} topics, which are too many for this list (${count(limit)}). GET /topics has all.`);
  else say(empty, "Not known yet.");
}

function showFacts(facts) {
  resize(byId("facts"), facts.length, () => make("div", {}, make("dt"), make("dd"))).forEach((fact, index) => {
    facts[index].forEach((text, part) => say(fact.children[part], text));
  });
}

// The connection, and what the page says of it.

let source = null;
let retry = null;
let heard = performance.now();
let heardAt = null;
let lostSince = null;

function sayState(state, text) {
  byId("state").dataset.state = state;
  say(byId("state"), text);
}

function sayNotice(text) {
  byId("notice").hidden = text === "";
  say(byId("notice"), text);
}

function connect() {
  clearTimeout(retry);
  retry = null;
  source?.close();
  heard = performance.now();
  source = new EventSource("dashboard/events");
  source.addEventListener("figures", ({ data }) => take(JSON.parse(data)));
  source.addEventListener("error", () => {
    lost();
    // The browser does not try again where it was refused.
    if (source.readyState === EventSource.CLOSED) retry ??= setTimeout(connect, RETRY_MS);
  });
}

function take(figures) {
  heard = performance.now();
  heardAt = new Date();
  byId("figures").removeAttribute("data-is-old");
  const isAnother = last !== null && last.started !== figures.started;
  addToCharts(figures);
  showFigures(figures);
  if (isAnother) sayNotice(`The server was restarted at ${time(figures.started * 1000)}. Counts began anew.`);
  else if (lostSince !== null) sayNotice("");
  lostSince = null;
  last = figures;
  if (figures.is_ready) sayState("ready", "Ready");
  else sayState("not-ready", `Not ready: ${figures.readiness}`);
}

function lost() {
  if (lostSince !== null) return;
  lostSince = heardAt ?? new Date();
  byId("figures").setAttribute("data-is-old", "");
  sayState("lost", "Disconnected");
  const old = heardAt ? " The figures below are of that time." : "";
  sayNotice(`No figures since ${time(lostSince)}.${old} The page connects again by itself.`);
}

setInterval(() => {
  const silence = performance.now() - heard;
  if (silence > SILENCE_MS) lost();
  // Neither an error nor figures: the path may be gone without a word.
  if (silence > 2 * SILENCE_MS && retry === null) connect();
}, 1_000);

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => charts.forEach((chart) => chart.redraw()));
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && last) charts.forEach((chart) => chart.show(last));
});

connect();
