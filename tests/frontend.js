// Of ComfyUI's frontends what the pack's scripts use, in the order in which versions 1.27 and 1.49 call it. Reads the language,
// the store of the session and steps from standard input, and writes what the steps give, and the store.
import fs from "fs";

const { language, store, steps } = JSON.parse(fs.readFileSync(0, "utf8"));
const extensions = [];
const types = {};

globalThis.fetch = async (url) => ({ json: async () => JSON.parse(fs.readFileSync(url, "utf8")) });
globalThis.document = {
  createElement: () => ({ style: { setProperty() {} }, value: "" }),
  head: { appendChild: (element) => element },
};
globalThis.sessionStorage = {
  getItem: (name) => store[name] ?? null,
  setItem: (name, value) => (store[name] = value),
};

class Node {
  constructor(type) {
    Object.assign(this, { type, properties: {}, widgets: [] });
    this.onNodeCreated?.();
  }

  configure(saved) {
    this.saved = saved;
    for (const key of ["title", "properties", "widgets_values"]) this[key] = saved[key] ?? this[key];
    this.onConfigure?.(saved);
  }

  addDOMWidget(name, type, element, options) {
    const widget = { name, type, element, options };
    Object.defineProperty(widget, "value", { get: () => options.getValue(), set: (value) => options.setValue(value) });
    this.widgets.push(widget);
    return widget;
  }

  removeWidget(widget) {
    this.widgets.splice(this.widgets.indexOf(widget), 1);
  }

  serialize() {
    const values = this.widgets.filter(({ serialize }) => serialize !== false).map(({ value }) => value);
    const { title, properties, widgets_values = [] } = this;
    return { ...this.saved, title, properties, widgets_values: [...widgets_values, ...values] };
  }
}

class Graph {
  constructor(saved, subgraphs = new Map()) {
    Object.assign(this, { saved, subgraphs, id: saved.id, nodes: [] });
    for (const definition of saved.definitions?.subgraphs ?? []) subgraphs.set(definition.id, new Graph(definition, subgraphs));
    for (const { id, type } of saved.nodes) {
      const node = Object.assign(new (typeOf(type))(type), { id, graph: this, subgraph: subgraphs.get(type) });
      this.nodes.push(node);
      node.onAdded?.(this);
    }
    saved.nodes.forEach((node, place) => this.nodes[place].configure(node));
  }

  // A graph holds the definitions of all subgraphs, these hold none.
  serialize() {
    const graph = { ...this.saved, nodes: this.nodes.map((node) => node.serialize()) };
    const parts = [...this.subgraphs.values()];
    const subgraphs = parts.map(({ saved, nodes }) => ({ ...saved, nodes: nodes.map((node) => node.serialize()) }));
    return structuredClone({ ...graph, definitions: { subgraphs } });
  }

  // By the id under which a node runs.
  find(id) {
    return String(id).split(":").reduce((found, part) => (found.subgraph ?? found).nodes.find((node) => `${node.id}` === part), this);
  }
}

function typeOf(name) {
  if (!types[name]) {
    types[name] = class extends Node {};
    for (const extension of extensions) extension.beforeRegisterNodeDef?.(types[name], { name });
  }
  return types[name];
}

class Api extends EventTarget {
  sent = [];

  async queuePrompt(number, { workflow }) {
    this.sent.push(workflow);
    return { prompt_id: `prompt ${this.sent.length}` };
  }

  tell(event, detail) {
    this.dispatchEvent(Object.assign(new Event(event), { detail }));
  }
}

export const api = new Api();
export const app = {
  extensionManager: { setting: { get: () => language } },
  registerExtension: (extension) => extensions.push(extension),
};

const STEPS = {
  async open(workflow) {
    for (const extension of extensions) await extension.beforeConfigureGraph?.(workflow);
    app.graph = new Graph(workflow);
    for (const extension of extensions) await extension.afterConfigureGraph?.();
    return workflow;
  },
  set(id, place, value) {
    app.graph.find(id).widgets_values[place] = value;
  },
  // `next` is done to the graph by the widgets of what is queued, such as a seed that counts up.
  async queue(next) {
    await api.queuePrompt(0, { output: {}, workflow: app.graph.serialize() });
    if (next) STEPS.set(...next);
    api.tell("promptQueued", { number: 0, batchCount: 1 });
    return api.sent.at(-1);
  },
  // What the server tells of a node that is done; the frontend's own listener hands it to the node.
  executed(prompt, id, text) {
    const output = text === null ? null : { mcsjd_text: [text] };
    app.graph.find(id)?.onExecuted?.(output);
    api.tell("executed", { prompt_id: `prompt ${prompt}`, node: id, display_node: id, output });
  },
  message(event, detail) {
    api.tell(event, detail);
  },
  // Texts that are seen, by the ids of their nodes.
  texts() {
    const seen = {};
    const walk = (graph, path) => {
      for (const { id, widgets, subgraph } of graph.nodes) {
        for (const { value } of widgets) seen[path + id] = value;
        if (subgraph) walk(subgraph, `${path}${id}:`);
      }
    };
    walk(app.graph, "");
    return seen;
  },
};

async function run() {
  for (const file of fs.readdirSync("extensions/mcsjd/js")) await import(`./extensions/mcsjd/js/${file}`);
  for (const extension of extensions) await extension.setup?.();
  const results = [];
  for (const [step, ...values] of steps) results.push((await STEPS[step](...values)) ?? null);
  console.log(JSON.stringify({ results, store }));
}

setTimeout(run); // the scripts import this file, which has to be complete
