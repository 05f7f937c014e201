// Translates what nodes show and what stands in the example graphs, line by line; names and tooltips are in locales/.
import { app } from "../../../scripts/app.js";
import { graphsOf, isOurs } from "./graphs.js";

const LANGUAGES = ["zh"];
const PACK = "mc-sjd";
const CORE = "comfy-core"; // whose nodes are, says their property cnr_id
const NOTE = "MarkdownNote";
const TRADITIONAL = /^zh-(tw|hk|mo|hant)/i; // another script than that of texts/zh.json
const PLACE = /\{(\d+)\}/;

const tables = {}; // by language: plain lines, and [pattern, translation] of lines with places such as {0}

export function language() {
  const locale = app.extensionManager?.setting?.get?.("Comfy.Locale") ?? navigator.language;
  return TRADITIONAL.test(locale) ? undefined : LANGUAGES.find((name) => locale.startsWith(name));
}

async function load() {
  const name = language();
  if (!name || tables[name]) return;
  try {
    const answer = await fetch(new URL(`../texts/${name}.json`, import.meta.url));
    const entries = Object.entries(await answer.json());
    // The longest first: a short one would take what follows for part of its last place.
    const places = entries.filter(([line]) => PLACE.test(line)).sort(([a], [b]) => b.length - a.length);
    const patterns = places.map(([line, translated]) => [pattern(line), translated]);
    tables[name] = { plain: new Map(entries), patterns };
  } catch {
    // Texts stay in English.
  }
}

function pattern(line) {
  const parts = line.split(PLACE).filter((_, index) => index % 2 === 0);
  return new RegExp(`^${parts.map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("(.+)")}$`);
}

function line(text, table) {
  if (table.plain.has(text)) return table.plain.get(text);
  for (const [expression, translated] of table.patterns) {
    const found = expression.exec(text);
    if (found) return translated.replace(/\{(\d+)\}/g, (_, number) => inPlace(found[+number + 1], table));
  }
  return text;
}

// What stands in a place is translated in turn: a text, or a list of them.
function inPlace(text, table) {
  const parts = text.split(", ");
  return parts.every((part) => table.plain.has(part)) ? parts.map((part) => table.plain.get(part)).join("、") : line(text, table);
}

export function translate(text) {
  const table = tables[language()];
  return table ? text.split("\n").map((each) => line(each, table)).join("\n") : text;
}

// Of a title that a person has written, no part is translated.
function title(text) {
  return tables[language()]?.plain.get(text) ?? text;
}

// A person may call a node of another pack "Prompt". In the example graphs, the titles of ComfyUI's own nodes are ours, too.
function isOurTitle(node, isExample) {
  const source = node.properties?.cnr_id;
  return isOurs(node) || isOurNote(node) || source === PACK || (isExample && source === CORE);
}

function isOurNote({ type, properties }) {
  return type === NOTE && properties?.mcsjd_font_size;
}

app.registerExtension({
  name: "mcsjd.translate",
  setup: load,
  async beforeConfigureGraph(workflow) {
    const graphs = graphsOf(workflow);
    const nodes = graphs.flatMap((graph) => graph.nodes);
    if (!nodes.some(isOurs)) return;
    await load();
    const isExample = nodes.some(isOurNote);
    for (const node of nodes) {
      if (node.title && isOurTitle(node, isExample)) node.title = title(node.title);
      if (isOurNote(node) && Array.isArray(node.widgets_values)) {
        node.widgets_values = node.widgets_values.map((text) => (typeof text === "string" ? translate(text) : text));
      }
    }
    for (const subgraph of graphs.slice(1)) {
      if (subgraph.nodes.some(isOurs)) subgraph.name = title(subgraph.name);
    }
  },
});
