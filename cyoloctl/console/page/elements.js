// Elements without HTML, and how numbers and times read.

const SVG = "http://www.w3.org/2000/svg";

/** An element: `svg:` before the name makes one of SVG.  Attributes that are null or undefined are left out. */
export function h(name, attributes, ...children) {
  const element = name.startsWith("svg:") ? document.createElementNS(SVG, name.slice(4)) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== "") element.setAttribute(key, value);
  }
  element.append(...present(children));
  return element;
}

function present(children) {
  return children.flat(Infinity).filter((each) => each !== null && each !== undefined && each !== false && each !== 0);
}

/** Give an element children, and keep those that are the same: what is selected or has the focus stays so. */
export function morph(parent, children) {
  const wanted = present(children).map((each) => (each instanceof Node ? each : document.createTextNode(each)));
  wanted.forEach((fresh, index) => {
    const old = parent.childNodes[index];
    if (!old) parent.append(fresh);
    else if (old.nodeName !== fresh.nodeName) old.replaceWith(fresh);
    else if (old.nodeType === Node.TEXT_NODE) {
      if (old.data !== fresh.data) old.data = fresh.data;
    } else {
      for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
      for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
      morph(old, [...fresh.childNodes]);
    }
  });
  while (parent.childNodes.length > wanted.length) parent.lastChild.remove();
}

/** The same for the element with an id. */
export function show(id, ...children) {
  morph(document.getElementById(id), children);
}

export function number(value) {
  const size = Math.abs(value);
  if (size >= 100000) return `${(value / 1000).toFixed(0)}k`;
  if (size >= 1000) return whole(Math.round(value));
  if (size >= 100 || Number.isInteger(value)) return value.toFixed(0);
  return value.toFixed(size >= 10 ? 1 : size >= 0.095 ? 2 : 3).replace(/\.?0+$/, "");
}

export function whole(value) {
  return value.toLocaleString("en");
}

export function bytes(count) {
  const units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
  let left = count;
  let unit = 0;
  while (left >= 1024 && unit < units.length - 1) {
    left /= 1024;
    unit += 1;
  }
  return `${unit && left < 10 ? left.toFixed(1) : Math.round(left)} ${units[unit]}`;
}

/** A duration in at most two units: 4d 3h, 12m 5s. */
export function ago(seconds) {
  let left = Math.max(0, Math.floor(seconds));
  const parts = [];
  for (const [unit, size] of [["d", 86400], ["h", 3600], ["m", 60], ["s", 1]]) {
    if (left >= size || (unit === "s" && !parts.length)) {
      parts.push(`${Math.floor(left / size)}${unit}`);
      left %= size;
    } else if (parts.length) break;
  }
  return parts.slice(0, 2).join(" ");
}

export function days(count) {
  if (count < 2) return ago(count * 86400);
  return `${Math.floor(count).toLocaleString("en")} days`;
}

/** A local time with UTC in its tip; with the date where it is asked for, or not of today. */
export function when(seconds, date = false) {
  const at = new Date(seconds * 1000);
  const dated = date || at.toDateString() !== new Date().toDateString();
  const text = dated
    ? at.toLocaleDateString(undefined, { year: "numeric", month: "short", day: "numeric" })
    : at.toLocaleTimeString();
  const utc = `${at.toISOString().slice(0, 19).replace("T", " ")} UTC`;
  return h("time", { datetime: at.toISOString(), title: utc }, text);
}
