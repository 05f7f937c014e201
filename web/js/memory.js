// Keeps the texts of nodes for the graphs that they come from: they come back after undo, a change of tab and a reload, and never
// stand beside other settings.
import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { keysOf } from "./graphs.js";

const STORE = "mcsjd.texts";
const MOST_TEXTS = 200;
const MOST_RUNS = 1000; // as many may wait
const texts = read(); // by the key of a node
const runs = new Map(); // by the id of a prompt: its texts, and keys for each graph that they belong to, both by the id of a node
let latest; // the run that was queued last, and its graph's id, until the graph is seen as queueing left it

export function rootGraph() {
  return app.rootGraph ?? app.graph; // newer frontends, older ones
}

// Without keys a graph has no texts. That is better than an error here, which would keep every graph from being queued.
function keysFor(workflow) {
  try {
    return keysOf(workflow);
  } catch (error) {
    console.warn("MC-SJD: texts of this graph are not kept:", error);
    return new Map();
  }
}

function keysNow() {
  return keysFor(rootGraph().serialize());
}

function read() {
  try {
    return new Map(JSON.parse(sessionStorage.getItem(STORE) ?? "[]"));
  } catch {
    return new Map(); // a browser that stores nothing
  }
}

function shorten(map, most) {
  while (map.size > most) map.delete(map.keys().next().value);
}

// Either the browser hears first that a prompt is queued, or of its first result.
function runOf(id) {
  if (!runs.has(id)) runs.set(id, { graphs: [], told: new Map() });
  shorten(runs, MOST_RUNS);
  return runs.get(id);
}

function store({ graphs, told }) {
  for (const keys of graphs) {
    for (const [node, text] of told) {
      texts.delete(keys.get(node)); // the newest stand last
      if (text && keys.has(node)) texts.set(keys.get(node), text);
    }
  }
  shorten(texts, MOST_TEXTS);
  try {
    sessionStorage.setItem(STORE, JSON.stringify([...texts]));
  } catch {
    // No room: texts still come back until the page is loaded again.
  }
}

// The empty text takes away what was kept.
export function remember(prompt, node, text) {
  const run = runOf(prompt);
  run.told.set(node, text);
  store(run);
}

// Texts of the open graph by the id of their node.
export function recall() {
  return [...keysNow()].filter(([, key]) => texts.has(key)).map(([node, key]) => [node, texts.get(key)]);
}

// Two graphs belong to a run: the one that is sent, which pictures hold as well, and, with the next seed, the one that is left.
const { queuePrompt } = api;
api.queuePrompt = async function (number, prompt, ...others) {
  const keys = keysFor(prompt?.workflow);
  latest = undefined;
  const answer = await queuePrompt.call(this, number, prompt, ...others);
  const run = runOf(answer?.prompt_id);
  run.graphs.push(keys);
  store(run);
  latest = { run, graph: prompt?.workflow?.id };
  return answer;
};

api.addEventListener("promptQueued", () => {
  if (!latest || rootGraph().id !== latest.graph) return; // another one was opened meanwhile
  latest.run.graphs.push(keysNow());
  store(latest.run);
  latest = undefined;
});
