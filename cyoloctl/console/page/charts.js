// Charts of the last hour, as SVG.

import { h, morph, number, when } from "./elements.js";

const LEFT = 42;
const RIGHT = 8;
const TOP = 16;
const BOTTOM = 20;
const HEIGHT = 140;
const HOUR_S = 3600;
const SHORTEST_S = 60;

/** The upper end of an axis and its step, so that it has two to four steps. */
function scale(most) {
  if (!(most > 0)) return [1, 0.5];
  const raw = most / 3;
  const size = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((each) => each * size).find((each) => each >= raw * 0.999);
  return [Math.ceil((most / step) * 0.999) * step, step];
}

function timeStep(span, width) {
  const steps = [15, 30, 60, 120, 300, 600, 900, 1200];
  return steps.find((each) => (span / each) * (each < 60 ? 84 : 66) <= width) ?? 1800;
}

function hour(seconds, step) {
  const parts = { hour: "numeric", minute: "2-digit", ...(step < 60 ? { second: "2-digit" } : {}) };
  return new Date(seconds * 1000).toLocaleTimeString(undefined, parts);
}

/** What the lines of all charts mean beside their values; nothing while there is no such thing. */
export function legend(history) {
  return [
    history.marks.length > 0 && h("span", {}, h("span", { class: "key mark" }), "another leader, or a new term"),
    history.points.some((point) => point[1] !== "led") && h("span", {}, h("span", { class: "key gap" }), "no leader, or no answer"),
  ];
}

/** A chart: `element`, and `draw(history, now)`.  names: of the lines, where there are two. */
export function chart({ title, fields, names = [], unit }) {
  const caption = h("figcaption", {});
  const svg = h("svg:svg", { class: "plot", role: "img", tabindex: "0" });
  const element = h("figure", {}, caption, svg);
  let points = [];
  let marks = [];
  let columns = [];
  let every = 5;
  let span = [0, 1];
  let chosen = null;
  let width = 0;

  const x = (at) => LEFT + ((at - span[0]) / (span[1] - span[0])) * (width - LEFT - RIGHT);

  function values(point) {
    return columns.map((column) => (point ? point[column] : null));
  }

  function describe() {
    const point = chosen === null ? points.at(-1) : points[chosen];
    const shown = values(point).map((value, index) => h("span", { class: "value" },
      names.length > 0 && h("small", {}, h("span", { class: index ? "key second" : "key" }), `${names[index]} `),
      value === null ? "\u2013" : number(value), value === null ? null : h("small", {}, unit)));
    morph(caption, [h("span", { class: "what" }, title), shown, chosen === null ? null : h("span", { class: "soft at" }, when(point[0]))]);
    const most = columns.map((column) => Math.max(0, ...points.map((each) => each[column] ?? 0)));
    const said = values(points.at(-1)).map((value, index) => `${names[index] ?? ""} now ${value === null ? "nothing measured" : number(value) + unit}, highest ${number(most[index])}${unit}`);
    svg.setAttribute("aria-label", `${title}: ${said.join("; ").trim()}`);
  }

  function runs(column) {
    const found = [];
    let last = null;
    for (const point of points) {
      if (point[column] === null) {
        last = null;
        continue;
      }
      if (last === null || point[0] - last > 3 * every) found.push([]);
      found.at(-1).push([x(point[0]), point[column]]);
      last = point[0];
    }
    return found;
  }

  function gaps(bottom) {
    const found = [];
    points.forEach((point, index) => {
      if (point[1] === "led") return;
      const from = index ? points[index - 1][0] : point[0] - every;
      const before = found.at(-1);
      if (before && before[1] === from) before[1] = point[0];
      else found.push([from, point[0]]);
    });
    return found.map(([from, to]) => h("svg:rect", { class: "gap", x: x(Math.max(from, span[0])), y: TOP, width: Math.max(2, x(to) - x(Math.max(from, span[0]))), height: bottom - TOP }));
  }

  function leaders(bottom) {
    let free = 0;
    return marks.filter((mark) => mark.at_unix_s >= span[0]).map((mark) => {
      const at = x(mark.at_unix_s);
      const room = at > free;
      if (room) free = at + 9 * mark.leader.length + 12;
      const right = at > width - 60;
      return [
        h("svg:line", { class: "mark", x1: at, x2: at, y1: TOP - 2, y2: bottom }),
        room && h("svg:text", { class: "mark-text", x: right ? at - 3 : at + 3, y: TOP - 4, "text-anchor": right ? "end" : "start" }, mark.leader.slice(0, 12),
          h("svg:title", {}, `${mark.leader} leads from ${new Date(mark.at_unix_s * 1000).toLocaleTimeString()}, term ${mark.term}`)),
      ];
    });
  }

  function paint() {
    const bottom = HEIGHT - BOTTOM;
    const most = Math.max(0, ...points.flatMap((point) => values(point).map((value) => value ?? 0)));
    const [top, step] = scale(most);
    const y = (value) => bottom - (value / top) * (bottom - TOP);
    const grid = [];
    for (let value = 0; value <= top * 1.001; value += step) {
      grid.push(h("svg:line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }),
        h("svg:text", { x: LEFT - 7, y: y(value) + 4, "text-anchor": "end" }, number(value) || "0"));
    }
    const tick = timeStep(span[1] - span[0], width - LEFT - RIGHT);
    for (let at = Math.ceil(span[0] / tick) * tick; at <= span[1]; at += tick) {
      if (x(at) > LEFT + 8 && x(at) < width - 34) grid.push(h("svg:text", { x: x(at), y: HEIGHT - 5, "text-anchor": "middle" }, hour(at, tick)));
    }
    const lines = columns.map((column, index) => runs(column).map((run) => {
      const kind = index ? " second" : "";
      if (run.length === 1) return h("svg:circle", { class: `dot${kind}`, cx: run[0][0], cy: y(run[0][1]), r: 1.75 });
      const path = run.map(([px, value], place) => `${place ? "L" : "M"}${px.toFixed(1)} ${y(value).toFixed(1)}`).join("");
      const area = `${path}L${run.at(-1)[0].toFixed(1)} ${bottom}L${run[0][0].toFixed(1)} ${bottom}Z`;
      return [index === 0 && h("svg:path", { class: "area", d: area }), h("svg:path", { class: `line${kind}`, d: path })];
    }));
    const cursor = chosen !== null && points[chosen] && h("svg:line", { class: "cursor", x1: x(points[chosen][0]), x2: x(points[chosen][0]), y1: TOP, y2: bottom });
    morph(svg, [grid, gaps(bottom), lines.reverse(), leaders(bottom), cursor]);
  }

  function choose(index) {
    chosen = index === null || !points.length ? null : Math.min(points.length - 1, Math.max(0, index));
    describe();
    if (width) paint();
  }

  svg.addEventListener("pointermove", (event) => {
    const at = event.clientX - svg.getBoundingClientRect().left;
    let nearest = 0;
    points.forEach((point, index) => {
      if (Math.abs(x(point[0]) - at) < Math.abs(x(points[nearest][0]) - at)) nearest = index;
    });
    choose(nearest);
  });
  svg.addEventListener("pointerleave", () => choose(null));
  svg.addEventListener("blur", () => choose(null));
  svg.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1, Escape: null }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    choose(by === null ? null : (chosen ?? points.length - 1) + by);
  });

  function draw(history, now) {
    points = history.points;
    marks = history.marks;
    every = history.every_s;
    columns = fields.map((field) => history.fields.indexOf(field));
    const from = Math.max(history.since_unix_s, now - HOUR_S);
    span = [Math.min(from, now - SHORTEST_S), now];
    width = svg.clientWidth;
    if (width) svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    choose(chosen);
  }

  return { element, draw };
}
