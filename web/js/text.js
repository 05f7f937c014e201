// Shows the text that a node sends with its result inside the node: the model's facts, the report.
import { app } from "../../../scripts/app.js";
import { language, translate } from "./translate.js";

const WIDGET = "mcsjd_text";
const ID = "mcsjd_text_id"; // property by which a node finds its text again after undo, a change of tab and a reload
const STORE = "mcsjd.texts";
const MOST_TEXTS = 200;
// Least height in pixels, and what stands there until the first run.
const NODES = {
  MCSJD_LoadModel: [150, { en: "Sizes, settings and memory are shown here after a run.", zh: "运行后在此显示尺寸、设置与内存。" }],
  MCSJD_Stats: [220, { en: "The report is shown here after a run.", zh: "运行后在此显示报告。" }],
  MCSJD_GetModel: [150, { en: "Run this node by itself: it shows size and licence.", zh: "单独运行此节点：显示大小与许可证。" }],
};

const texts = read();

function read() {
  try {
    return new Map(JSON.parse(sessionStorage.getItem(STORE) ?? "[]"));
  } catch {
    return new Map(); // a browser that stores nothing
  }
}

function remember(node, text) {
  texts.delete(node.properties[ID]); // the newest stand last
  texts.set(node.properties[ID], text);
  while (texts.size > MOST_TEXTS) texts.delete(texts.keys().next().value);
  try {
    sessionStorage.setItem(STORE, JSON.stringify([...texts]));
  } catch {
    // No room: texts still come back until the page is loaded again.
  }
}

function addText(node, [height, hints]) {
  const element = document.createElement("textarea");
  element.readOnly = true;
  element.placeholder = hints[language() ?? "en"];
  element.className = "comfy-multiline-input";
  element.style.cssText = "resize: none; font-size: 13px; line-height: 1.35;";
  element.style.minHeight = `${height}px`; // Nodes 2.0 asks the element, the classic renderer getMinHeight
  // Neither the saved graph nor the prompt holds it: it is a result, not a setting.
  const widget = node.addDOMWidget(WIDGET, WIDGET, element, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => height,
    getValue: () => element.value,
    setValue: (value) => {
      element.value = value;
    },
  });
  widget.serialize = false;
}

function show(node, text) {
  const widget = node.widgets?.find(({ name }) => name === WIDGET);
  if (widget) widget.value = translate(text); // what is stored stays in English, the language of the node's output
}

// A copy of a node starts with the text of the original and then has its own.
function ownId(node) {
  const id = node.properties[ID];
  const others = node.graph?.nodes ?? node.graph?._nodes ?? [];
  if (!id || others.some((other) => other !== node && other.properties?.[ID] === id)) {
    node.properties[ID] = Math.random().toString(36).slice(2);
  }
}

app.registerExtension({
  name: "mcsjd.text",
  beforeRegisterNodeDef(nodeType, nodeData) {
    const look = NODES[nodeData.name];
    if (!look) return;
    const { onNodeCreated, onConfigure, onAdded, onExecuted } = nodeType.prototype;
    nodeType.prototype.onNodeCreated = function (...args) {
      onNodeCreated?.apply(this, args);
      addText(this, look);
      ownId(this);
    };
    nodeType.prototype.onConfigure = function (...args) {
      onConfigure?.apply(this, args);
      const text = texts.get(this.properties[ID]);
      if (text !== undefined) show(this, text);
      ownId(this);
    };
    // Old frontends configure a pasted node before it belongs to a graph, in which the original can be seen.
    nodeType.prototype.onAdded = function (...args) {
      onAdded?.apply(this, args);
      ownId(this);
    };
    nodeType.prototype.onExecuted = function (message) {
      onExecuted?.call(this, message);
      if (!message?.mcsjd_text) return;
      const text = message.mcsjd_text.join("\n");
      show(this, text);
      remember(this, text);
    };
  },
});
