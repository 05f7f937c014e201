// Shows the text that a node sends with its result inside the node: the model's facts, the report.
import { app } from "../../../scripts/app.js";

const WIDGET = "mcsjd_text";
// Least height in pixels, and what stands there until the first run.
const NODES = {
  MCSJD_LoadModel: [110, "Family, sizes and memory are shown here after a run."],
  MCSJD_Stats: [220, "The report is shown here after a run."],
};

function addText(node, [height, hint]) {
  const element = document.createElement("textarea");
  element.readOnly = true;
  element.placeholder = hint;
  element.className = "comfy-multiline-input";
  element.style.cssText = "resize: none; font-size: 11px; line-height: 1.4;";
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

app.registerExtension({
  name: "mcsjd.text",
  beforeRegisterNodeDef(nodeType, nodeData) {
    const look = NODES[nodeData.name];
    if (!look) return;
    const { onNodeCreated, onExecuted } = nodeType.prototype;
    nodeType.prototype.onNodeCreated = function (...args) {
      onNodeCreated?.apply(this, args);
      addText(this, look);
    };
    nodeType.prototype.onExecuted = function (message) {
      onExecuted?.call(this, message);
      const widget = this.widgets?.find(({ name }) => name === WIDGET);
      if (widget && message?.mcsjd_text) widget.value = message.mcsjd_text.join("\n");
    };
  },
});
