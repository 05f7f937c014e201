// Shows the text that a node sends inside the node: the model's facts, the report, what is to be said of a run.
import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { nodesOf } from "./graphs.js";
import { recall, remember, rootGraph } from "./memory.js";
import { language, translate } from "./translate.js";

const WIDGET = "mcsjd_text";
const EARLY = "mcsjd.text"; // the server's message of a text that cannot wait until the node is done
// Least height in pixels, and what stands there until the first run. Without the latter a text comes and goes.
const NODES = {
  MCSJD_LoadModel: [150, { en: "Sizes, settings and memory are shown here after a run.", zh: "运行后在此显示尺寸、设置与内存。" }],
  MCSJD_Stats: [220, { en: "The report is shown here after a run.", zh: "运行后在此显示报告。" }],
  MCSJD_GetModel: [150, { en: "Run this node by itself: it shows size and licence.", zh: "单独运行此节点：显示大小与许可证。" }],
  MCSJD_Sampler: [70],
};

function addText(node, [height, hints]) {
  const element = document.createElement("textarea");
  element.readOnly = true;
  element.placeholder = hints?.[language() ?? "en"] ?? "";
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
  return widget;
}

function show(node, text) {
  const look = NODES[node?.type];
  if (!look) return; // another graph is open by now
  const widget = node.widgets?.find(({ name }) => name === WIDGET);
  const isWanted = text || look[1];
  if (isWanted) (widget ?? addText(node, look)).value = translate(text); // what is kept stays in English, as the node sends it
  else if (widget) node.removeWidget(widget);
  node.setDirtyCanvas?.(true, true);
}

function openNodes() {
  return new Map(nodesOf(rootGraph(), ({ subgraph }) => subgraph));
}

function onText({ detail: { node, display_node: shown, output, prompt_id: prompt } }) {
  const text = output?.mcsjd_text?.join("\n");
  if (text === undefined) return;
  const id = String(shown ?? node);
  if (prompt) remember(prompt, id, text);
  show(openNodes().get(id), text);
}

api.addEventListener("executed", onText);
api.addEventListener(EARLY, onText);

app.registerExtension({
  name: "mcsjd.text",
  beforeRegisterNodeDef(nodeType, nodeData) {
    const look = NODES[nodeData.name];
    if (!look?.[1]) return;
    const { onNodeCreated } = nodeType.prototype;
    nodeType.prototype.onNodeCreated = function (...args) {
      onNodeCreated?.apply(this, args);
      addText(this, look);
    };
  },
  afterConfigureGraph() {
    const nodes = openNodes();
    for (const [id, text] of recall()) show(nodes.get(id), text);
  },
});
