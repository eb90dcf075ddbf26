// A little Markdown as elements: headings, paragraphs, lists, quotes, code, bold and italic. Links stay text: a page of
// the household leads nowhere else. Every text ends in a text node.
import { copier, el } from "./page.js";

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([\w+#.-]*)/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const DEPTH_MAX = 8;

/** The elements of a text. */
export function prose(text) {
  return blocks(text.replace(/\r\n?/g, "\n").split("\n"), 0);
}

function blocks(lines, depth) {
  const out = [];
  let at = 0;
  while (at < lines.length) {
    const line = lines[at];
    const fence = FENCE.exec(line);
    const heading = /^(#{1,6})\s+(.*)$/.exec(line);
    if (line.trim() === "") {
      at += 1;
    } else if (fence) {
      const end = lines.findIndex((other, i) => i > at && other.trim().startsWith(fence[1]) && !other.trim().replace(/^[`~]+/, ""));
      const last = end < 0 ? lines.length : end;
      out.push(code(lines.slice(at + 1, last).join("\n"), fence[2]));
      at = last + 1;
    } else if (heading) {
      out.push(el(`h${Math.min(6, heading[1].length + 2)}`, inline(heading[2])));
      at += 1;
    } else if (line.startsWith(">") && depth < DEPTH_MAX) {
      const end = upTo(lines, at, (other) => !other.startsWith(">"));
      out.push(el("blockquote", blocks(lines.slice(at, end).map((one) => one.replace(/^> ?/, "")), depth + 1)));
      at = end;
    } else if (ITEM.test(line) && depth < DEPTH_MAX) {
      const [end, items] = list(lines, at, depth);
      out.push(items);
      at = end;
    } else if (/^ {0,3}([-*_])( *\1){2,} *$/.test(line)) {
      out.push(el("hr"));
      at += 1;
    } else {
      const end = upTo(lines, at + 1, (other) => other.trim() === "" || FENCE.test(other) || ITEM.test(other) || /^(#{1,6}\s|>)/.test(other));
      out.push(el("p", inline(lines.slice(at, end).join("\n"))));
      at = end;
    }
  }
  return out;
}

function upTo(lines, from, isEnd) {
  let at = from;
  while (at < lines.length && !isEnd(lines[at])) at += 1;
  return at;
}

function list(lines, from, depth) {
  const [, pad, mark] = ITEM.exec(lines[from]);
  const ordered = /\d/.test(mark);
  const items = [];
  let at = from;
  while (at < lines.length) {
    const item = ITEM.exec(lines[at]);
    if (!item || item[1].length > pad.length + 1 || /\d/.test(item[2]) !== ordered) break;
    const deeper = (other) => other.startsWith(`${pad}  `) || (other.trim() === "" && ITEM.test(lines[at] ?? ""));
    const end = upTo(lines, at + 1, (other) => !deeper(other));
    const inner = lines.slice(at + 1, end).map((one) => one.slice(pad.length + 2));
    const rest = inner.some((one) => one.trim()) ? blocks(inner, depth + 1) : [];
    items.push(el("li", inline(item[3]), rest));
    at = end;
  }
  const start = Number.parseInt(mark, 10);
  return [at, el(ordered ? "ol" : "ul", ordered && start !== 1 ? { start } : {}, items)];
}

function code(text, language) {
  const head = el("figcaption", el("span", language || "code"), copier(text));
  return el("figure.code", head, el("pre", { tabindex: "0" }, el("code", text)));
}

/** Code, bold and italic inside a line; everything else as it stands. */
function inline(text, depth = 0) {
  const out = [];
  const mark = /(`+)([\s\S]*?[^`])\1(?!`)|\*\*(?=\S)([\s\S]*?\S)\*\*|\*(?=[^\s*])([\s\S]*?[^\s*])\*(?!\*)/g;
  let last = 0;
  for (const found of text.matchAll(mark)) {
    out.push(text.slice(last, found.index));
    if (found[1]) out.push(el("code", found[2].replace(/^ (.*\S.*) $/, "$1")));
    else if (depth >= DEPTH_MAX) out.push(found[0]);
    else if (found[3]) out.push(el("strong", inline(found[3], depth + 1)));
    else out.push(el("em", inline(found[4], depth + 1)));
    last = found.index + found[0].length;
  }
  out.push(text.slice(last));
  return out;
}
