// Building blocks of the pages: elements, figures in words, and bringing a page up to date without losing what a person
// does on it. Texts become text nodes; nothing that came from outside is ever read as markup.

/** An element: `el("div.card", {title: "x"}, "text", other)`. `style` is an object, `key` tells rows apart. */
export function el(what, props, ...inner) {
  const [tag, ...classes] = what.split(".");
  const node = document.createElement(tag);
  if (classes.length) node.className = classes.join(" ");
  const isProps = props !== null && typeof props === "object" && !(props instanceof Node) && !Array.isArray(props);
  for (const [name, value] of Object.entries(isProps ? props : {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "style") for (const [key, set] of Object.entries(value)) node.style.setProperty(key, set);
    else if (name === "key") node.dataset.key = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...kids(isProps ? inner : [props, ...inner]));
  return node;
}

function kids(list) {
  return list.flat(Infinity).filter((one) => one !== null && one !== undefined && one !== false && one !== "");
}

export const byId = (id) => document.getElementById(id);

/** Makes what is inside `old` look like `inner`, and keeps elements that stay, with their focus and what is open. */
export function show(old, ...inner) {
  const box = document.createElement("div");
  box.append(...kids(inner));
  match(old, box);
}

function match(old, fresh) {
  const keyed = new Map();
  for (const child of old.children) if (child.dataset.key) keyed.set(child.dataset.key, child);
  let at = old.firstChild;
  for (const want of [...fresh.childNodes]) {
    const key = want.dataset?.key;
    let have = key ? keyed.get(key) : at;
    if (have && have !== at) old.insertBefore(have, at);
    if (have && same(have, want)) {
      at = have.nextSibling;
      if (have.nodeType === Node.TEXT_NODE) {
        if (have.data !== want.data) have.data = want.data;
      } else if (!("keep" in have.dataset)) {
        dress(have, want);
        match(have, want);
      }
    } else {
      old.insertBefore(want, at);
    }
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

function same(have, want) {
  return have.nodeName === want.nodeName && have.dataset?.key === want.dataset?.key;
}

function dress(have, want) {
  for (const { name } of [...have.attributes]) {
    if (name !== "style" && name !== "open" && !want.hasAttribute(name)) have.removeAttribute(name);
  }
  for (const { name, value } of want.attributes) {
    if (name !== "style" && have.getAttribute(name) !== value) have.setAttribute(name, value);
  }
  if (have.style && have.style.cssText !== want.style.cssText) have.style.cssText = want.style.cssText;
}

/** An SVG element. */
export function svg(tag, props, ...inner) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(props)) node.setAttribute(name, value);
  node.append(...inner);
  return node;
}

/** A short message in the corner. */
export function toast(text, kind = "") {
  const note = el("p.toast", { class: `toast ${kind}` }, text);
  byId("toasts").append(note);
  setTimeout(() => note.remove(), 6000);
}

/** A question; true if the person agrees. */
export function sure(title, text, act) {
  const box = byId("box");
  return new Promise((done) => {
    const close = (answer) => () => {
      box.close();
      done(answer);
    };
    box.replaceChildren(
      el("h2", { id: "box-title" }, title),
      el("p", text),
      el("div.row.end", el("button.quiet", { type: "button", autofocus: true, onclick: close(false) }, "Cancel"), el("button.bad", { type: "button", onclick: close(true) }, act)),
    );
    box.oncancel = () => done(false);
    box.showModal();
  });
}

/** A button that copies a text. */
export function copier(text, label = "Copy") {
  return el("button.quiet.small", { type: "button", "data-copy": text }, label);
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest?.("[data-copy]");
  if (!button) return;
  try {
    await navigator.clipboard.writeText(button.dataset.copy);
    toast("Copied");
  } catch {
    toast("This browser does not allow copying; select the text instead", "bad");
  }
});

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];
/** A figure and its unit stay on one line. */
const measure = (figure, unit) => `${figure}\u00a0${unit}`;

export function bytes(count) {
  let at = 0;
  while (count >= 1024 && at < UNITS.length - 1) {
    count /= 1024;
    at += 1;
  }
  return measure(at === 0 || count >= 100 ? Math.round(count) : count.toFixed(1), UNITS[at]);
}

export function seconds(count) {
  if (!(count >= 0)) return "";
  if (count < 1e-3) return measure(Math.max(1, Math.round(count * 1e6)), "µs");
  if (count < 1) return measure((count * 1e3).toFixed(count < 0.01 ? 1 : 0), "ms");
  if (count < 60) return measure(count < 10 ? count.toFixed(1) : Math.round(count), "s");
  const minutes = Math.floor(count / 60);
  if (minutes < 60) return `${measure(minutes, "min")} ${measure(Math.round(count % 60), "s")}`;
  return `${measure(Math.floor(minutes / 60), "h")} ${measure(minutes % 60, "min")}`;
}

export const clock = (s) => `${Math.floor(s / 60)}:${String(Math.floor(s % 60)).padStart(2, "0")}`;
export const rate = (count) => (count >= 100 ? Math.round(count).toString() : count.toFixed(1));
export const whole = (count) => Math.round(count).toLocaleString("en");
export const percent = (part) => measure(Math.round(100 * Math.min(1, Math.max(0, part || 0))), "%");
export const plural = (count, word) => measure(whole(count), count === 1 ? word : `${word}s`);
export const speed = (bytesPerS) => (bytesPerS >= 1e9 ? measure((bytesPerS / 1e9).toFixed(1), "GB/s") : measure(Math.round(bytesPerS / 1e6), "MB/s"));

/** A bar of parts: `[{part: 0.3, kind: "c0", title: "…"}]`. */
export function bar(label, parts) {
  const said = parts.map((one) => one.title).filter(Boolean).join(", ");
  return el("div.bar", { role: "img", "aria-label": `${label}: ${said}` }, parts.map((one) => el(`i.${one.kind}`, { title: one.title, style: { width: `${100 * Math.min(1, one.part)}%` } })));
}
