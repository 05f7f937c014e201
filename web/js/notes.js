// Makes the notes of the example graphs as large as their graph asks: they open at 60 to 76 %, where the usual size is too small.
import { app } from "../../../scripts/app.js";

const SIZE = "mcsjd_font_size"; // property of a note, in pixels
const VARIABLE = "--comfy-textarea-font-size";
const style = document.head.appendChild(document.createElement("style"));

app.registerExtension({
  name: "mcsjd.notes",
  afterConfigureGraph() {
    const notes = (app.graph.nodes ?? app.graph._nodes).filter(({ properties }) => Number(properties?.[SIZE]));
    // Nodes 2.0 finds a node by its id, the classic renderer has an element for each of its widgets.
    style.textContent = notes.map(({ id, properties }) => `[data-node-id="${id}"] { ${VARIABLE}: ${+properties[SIZE]}px; }`).join("\n");
    for (const { widgets, properties } of notes) {
      for (const { element } of widgets ?? []) element?.style.setProperty(VARIABLE, `${+properties[SIZE]}px`);
    }
  },
});
