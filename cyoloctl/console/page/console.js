// The page of `cyoloctl console`: asks for `data` every two seconds and shows it.
//
// Text that came from nodes becomes text nodes and attributes that no script is read from; the header
// `require-trusted-types-for` has the browser refuse anything else.

import { chart, legend } from "./charts.js";
import { ago, bytes, days, h, morph, number, show, whole, when } from "./elements.js";

const EVERY_MS = 2000;
const LIMIT_MS = 10000;
const FSYNC_WARN_MS = 100;
const SKEW_WARN_MS = 1000;
const LAG_WARN = 1000;

const byId = (id) => document.getElementById(id);

const SIGNS = {
  good: "M13 25l8 8 15-17",
  warn: "M24 13v14M24 34v1",
  bad: "M16 16l16 16M32 16l-16 16",
};

function sign(level) {
  return h("svg:svg", { viewBox: "0 0 48 48", fill: "none", stroke: "currentColor", "stroke-width": "4", "stroke-linecap": "round", "stroke-linejoin": "round" },
    h("svg:circle", { cx: "24", cy: "24", r: "21", "stroke-width": "3" }),
    h("svg:path", { d: SIGNS[level] }));
}

function table(columns, rows, options = {}) {
  // Roles are said, because a style that is no table's takes them away.
  const cell = (column, row) => {
    const attributes = { role: column.head ? "rowheader" : "cell", class: column.class, "data-label": column.label };
    if (column.head) attributes.scope = "row";
    return h(column.head ? "th" : "td", attributes, column.show(row));
  };
  return h("table", { role: "table", class: options.class, "aria-label": options.label },
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" },
      columns.map((column) => h("th", { role: "columnheader", scope: "col", class: column.class }, column.label)))),
    h("tbody", { role: "rowgroup" },
      rows.map((row) => h("tr", { role: "row" }, columns.map((column) => cell(column, row))))));
}

const nothing = (text) => h("p", { class: "nothing" }, text);

function hero(data) {
  const { level, text, more, since_unix_s: since } = data.headline;
  byId("hero").className = `card hero ${level}`;
  show("sign", sign(level));
  // What is read aloud has no seconds in it, which change all the time.
  show("state", text);
  show("more", since === null ? null : h("span", {}, `For ${ago(data.now_unix_s - since)}. `), `${more}.`.replace(/\.\.$/, "."));
  document.title = `${{ good: "\u2713", warn: "!", bad: "\u2715" }[level]} ${text} \u2013 ${data.cluster.name}`;
}

function problems(data) {
  show("problems", data.problems.map((each) => h("li", { class: each.grave ? "" : "mild" },
    h("span", {}, each.message),
    each.command && h("span", { class: "do" }, h("span", { class: "soft" }, "Next:"), h("code", {}, each.command)))));
}

function state(member) {
  if (!member.reachable) return h("span", { class: "is bad" }, "away");
  return member.well ? h("span", { class: "is good" }, "well") : h("span", { class: "is warn" }, "see above");
}

function figure(value, unit, limit) {
  if (value === null || value === undefined) return h("span", { class: "soft" }, "\u2013");
  const text = `${number(value)}${unit}`;
  return Math.abs(value) > limit ? h("span", { class: "warn-text" }, `${text} !`) : text;
}

function clock(skew) {
  if (typeof skew !== "number" || Math.abs(skew) <= SKEW_WARN_MS) return figure(skew, " ms", SKEW_WARN_MS);
  return h("span", { class: "warn-text" }, `${skew > 0 ? "+" : "\u2212"}${ago(Math.abs(skew) / 1000)} !`);
}

function disk(member) {
  if (!member.disk) return figure(null);
  const { free_bytes: free, total_bytes: total, days_left: left } = member.disk;
  return h("span", { title: `${bytes(free)} of ${bytes(total)}` }, `${bytes(free)} free`,
    left === null ? null : h("span", { class: "warn-text" }, `, ${days(left)} left`));
}

function members(data) {
  const columns = [
    { label: "Name", head: true, show: (m) => [h("span", { class: "name" }, m.name), " ", h("span", { class: m.role === "leader" ? "badge leader" : "badge" }, m.witness && m.role !== "witness" ? `${m.role}, witness` : m.role)] },
    { label: "State", show: state },
    { label: "Address", show: (m) => m.address || "\u2013" },
    { label: "Version", show: (m) => (m.version ? [m.version, h("span", { class: "soft" }, ` level ${m.level ?? 1}`)] : "\u2013") },
    { label: "Lag", class: "number", show: (m) => figure(m.lag, "", LAG_WARN) },
    { label: "Sync p99", class: "number", show: (m) => figure(m.fsync_p99_ms, " ms", FSYNC_WARN_MS) },
    { label: "Disk", class: "wide", show: disk },
    { label: "Clock", class: "number wide", show: (m) => clock(m.clock_skew_ms) },
    { label: "Running for", class: "number", show: (m) => (m.uptime_s === null ? "\u2013" : ago(m.uptime_s)) },
  ];
  show("members", table(columns, data.members, { class: "stack", label: "Members" }),
    data.members.filter((m) => m.silent_because && m.reachable).map((m) =>
      h("p", { class: "nothing soft" }, `${m.name} is not in the charts: ${m.silent_because}.`)));
}

function links(data) {
  const names = data.members.map((m) => m.name);
  if (names.length < 2) return show("links", nothing("A single member has none."));
  const found = new Map(data.links.map((each) => [[...each.members].sort().join("\n"), each]));
  const cell = (a, b) => {
    if (a === b) return h("span", { class: "soft", "aria-hidden": "true" }, "\u00b7");
    const link = found.get([a, b].sort().join("\n"));
    if (!link || link.linked === null) return h("span", { class: "soft" }, "unknown");
    if (!link.linked) return h("span", { class: "is bad" }, "cut");
    const by = link.dialled_by === null ? "" : `dialled by ${link.dialled_by}`;
    return h("span", { class: "is good", title: by }, "up");
  };
  const columns = [{ label: "", head: true, show: (a) => a }, ...names.map((b) => ({ label: b, show: (a) => cell(a, b) }))];
  show("links", table(columns, names, { class: "matrix", label: "Links between members" }));
}

function tiles(data) {
  const counts = data.counts;
  if (!counts) return show("tiles", h("div", {}, h("dt", {}, "Not known"), h("dd", {}, h("small", {}, "The node that was asked is of an earlier release."))));
  const tile = (label, value, ...more) => h("div", {}, h("dt", {}, label), h("dd", {}, whole(value ?? 0), more));
  const quota = counts.kv_quota_bytes;
  show("tiles",
    tile("Sessions revoked", counts.revocations),
    tile("Rendezvous", counts.waiting, h("small", {}, "waiting")),
    tile("Counters", counts.counters),
    tile("Keys and values", counts.keys, h("small", {}, quota ? `${bytes(counts.kv_bytes)} of ${bytes(quota)}` : bytes(counts.kv_bytes)),
      quota && h("meter", { min: "0", max: "1", high: "0.8", low: "0.8", optimum: "0", value: String(counts.kv_bytes / quota), "aria-label": "Share of the quota in use" })),
    tile("Locks held", counts.locks),
    tile("Invitations", counts.invitations),
    tile("Credentials", counts.credentials),
    tile("Own machines", counts.machines));
}

function listed(id, rows, total, columns, empty) {
  if (rows === null) return show(id, nothing("\u2026"));
  if (!rows.length) return show(id, nothing(empty));
  const more = (total ?? 0) - rows.length;
  return show(id, table(columns, rows, { label: byId(`${id}-title`).textContent }), more > 0 && h("p", { class: "soft" }, `and ${whole(more)} more`));
}

function lists(data) {
  const counts = data.counts ?? {};
  listed("counters", data.counters, counts.counters, [
    { label: "Name", head: true, show: (each) => each.name },
    { label: "Value", class: "number", show: (each) => whole(BigInt(each.value_string)) },
  ], "There is no counter.");
  listed("locks", data.locks, counts.locks, [
    { label: "Name", head: true, show: (each) => each.name },
    { label: "Held by", show: (each) => each.owner },
    { label: "Since", show: (each) => when(Date.parse(each.acquired_at) / 1000) },
  ], "No lock is held.");
  const waiting = data.waiting;
  if (!waiting.allowed) {
    const count = counts.waiting ?? 0;
    show("waiting", nothing(`${count === 1 ? "1 waits" : `${whole(count)} wait`}. Which kinds they are is for credentials of a gateway or operator.`));
  } else {
    listed("waiting", waiting.kinds, 0, [
      { label: "Kind", head: true, show: (each) => each.kind },
      { label: waiting.more ? "Waiting, of the oldest" : "Waiting", class: "number", show: (each) => whole(each.count) },
    ], "Nobody waits for an answer.");
  }
}

function keys(data) {
  if (data.keys === null) return show("keys", nothing("\u2026"));
  const kinds = { primary: "good", enabled: "good", pending: "warn", disabled: "warn", destroyed: "" };
  const columns = [
    { label: "Key", head: true, show: (key) => h("code", { class: "short" }, key.key_id) },
    { label: "State", show: (key) => [h("span", { class: kinds[key.state] ? `is ${kinds[key.state]}` : "soft" }, key.state), key.missing.length > 0 && key.state !== "destroyed" && h("span", { class: "warn-text" }, ` lacking: ${key.missing.join(", ")} !`)] },
    { label: "Made", class: "number", show: (key) => h("span", {}, `${ago(data.now_unix_s - Date.parse(key.created_at) / 1000)} ago`) },
  ];
  return show("keys", table(columns, data.keys.keys, { label: "Session keys" }),
    data.keys.problems.map((text) => h("p", { class: "warn-text" }, text)));
}

function ends(left) {
  if (left === null) return "\u2013";
  if (left <= 0) return h("span", { class: "bad-text" }, "ended !");
  return h("span", { class: left < 7 ? "short warn-text" : "short" }, `in ${days(left)}`);
}

function certificates(data) {
  const rows = [
    ...data.members.map((m) => ({ name: m.name, of: "member", at: m.certificate_expires_at && Date.parse(m.certificate_expires_at) / 1000, left: m.certificate_days })),
    ...data.authorities.map((each) => ({ name: each.sha256.slice(0, 12), of: "authority", at: each.ends_unix_s, left: each.days })),
  ];
  show("certificates", table([
    { label: "Of", head: true, show: (row) => [row.of === "member" ? row.name : h("code", {}, row.name), " ", h("span", { class: "soft" }, row.of)] },
    { label: "Ends", show: (row) => ends(row.left) },
    { label: "On", class: "number", show: (row) => (row.at ? when(row.at, true) : "\u2013") },
  ], rows, { label: "Certificates" }));
}

const charts = [
  chart({ title: "Writes per second", fields: ["writes_per_s"], unit: "/s" }),
  chart({ title: "Reads per second", fields: ["reads_per_s"], unit: "/s" }),
  chart({ title: "Time to commit", fields: ["commit_p50_ms", "commit_p99_ms"], names: ["median", "99 %"], unit: " ms" }),
  chart({ title: "Sync of the slowest disk, 99 %", fields: ["sync_p99_ms"], unit: " ms" }),
];
byId("charts").append(...charts.map((each) => each.element));

function draw(data) {
  hero(data);
  problems(data);
  members(data);
  links(data);
  tiles(data);
  lists(data);
  keys(data);
  certificates(data);
  show("cluster", data.cluster.name);
  show("seen", `as ${data.seen_by} knows it, `, when(data.seen_unix_s));
  show("since", "since this console began at ", when(Math.max(data.history.since_unix_s, data.now_unix_s - 3600)));
  for (const each of charts) each.draw(data.history, data.now_unix_s);
  show("legend", legend(data.history));
  show("footer", `Read-only, cyoloctl ${data.version}. Term ${data.cluster.term}, commit index ${whole(data.cluster.commit_index)}, level ${data.cluster.level ?? 1}. What this console asks for itself is not in the charts.`);
  document.querySelector("main").classList.toggle("stale", data.stale);
}

let heard = Date.now();
let latest = null;
let asking = false;

function lost(text) {
  byId("lost").hidden = text === null;
  if (text !== null) morph(byId("lost"), [text]);
}

async function ask() {
  if (asking || document.hidden) return;
  asking = true;
  try {
    const answer = await fetch("data", { cache: "no-store", credentials: "same-origin", signal: AbortSignal.timeout(LIMIT_MS) });
    if (answer.status === 403) {
      lost("The console was started again: open the link that it printed.");
      return;
    }
    if (!answer.ok) throw new Error(String(answer.status));
    latest = await answer.json();
    heard = Date.now();
    lost(null);
    draw(latest);
  } catch (error) {
    if (error instanceof TypeError || error.name === "TimeoutError" || latest === null) {
      const at = new Date(heard).toLocaleTimeString();
      lost(`The console does not answer since ${at}, so all this is older. Start it again, and open the link that it prints: cyoloctl console`);
    } else {
      throw error;
    }
  } finally {
    asking = false;
  }
}

setInterval(ask, EVERY_MS);
document.addEventListener("visibilitychange", ask);
new ResizeObserver(() => latest && charts.forEach((each) => each.draw(latest.history, latest.now_unix_s))).observe(byId("charts"));
ask();
