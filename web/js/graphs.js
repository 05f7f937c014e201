// Reads graphs, saved ones and the one that is open: their nodes, also in subgraphs, and what a node's result comes from.

const PREFIX = "MCSJD_";
const OUTSIDE = "-10"; // by this id, links in a subgraph name what comes from outside of it

export function isOurs({ type }) {
  return Boolean(type?.startsWith?.(PREFIX));
}

// A saved graph and the subgraphs in it.
export function graphsOf(graph) {
  const inner = (graph?.definitions?.subgraphs ?? []).flatMap(graphsOf);
  return Array.isArray(graph?.nodes) ? [graph, ...inner] : inner;
}

// All nodes by the ids under which they run: "5", or "3:5" for node 5 of the subgraph that node 3 stands for.
export function* nodesOf(graph, subgraphOf, path = "") {
  for (const node of graph?.nodes ?? []) {
    yield [path + node.id, node];
    const inner = subgraphOf(node);
    if (inner) yield* nodesOf(inner, subgraphOf, `${path}${node.id}:`);
  }
}

// A key for every node of ours, by the id under which it runs. It stands for all that the node's result comes from: two are the
// same if the nodes up to this one, their values and their links are.
export function keysOf(workflow) {
  const graphs = graphsOf(workflow);
  const subgraphOf = ({ type }) => graphs.find(({ id }, index) => index > 0 && id === type);
  const facts = new Map(graphs.flatMap((graph) => factsOf(graph, graphs, subgraphOf)));
  const ours = [...nodesOf(graphs[0], subgraphOf)].filter(([, node]) => isOurs(node));
  return new Map(ours.map(([id, node]) => [id, keyOf(node, facts)]));
}

// Every node of a graph with a text that describes it, and the nodes that its result comes from directly. Of a node that stands
// for a subgraph these are all in it; what comes into a subgraph comes from each node that stands for it.
function factsOf(graph, graphs, subgraphOf) {
  const outer = graphs.flatMap(({ nodes }) => nodes.filter((node) => subgraphOf(node) === graph));
  const byId = new Map(graph.nodes.map((node) => [String(node.id), node]));
  const links = new Map((graph.links ?? []).map(linkOf));
  return graph.nodes.map((node) => {
    const linked = (node.inputs ?? []).filter(({ link }) => links.has(link)).map(({ name, link }) => [name, ...links.get(link)]);
    const sources = linked.flatMap(([, id]) => (id === OUTSIDE ? outer : (byId.get(id) ?? [])));
    const place = graph === graphs[0] ? "" : graph.id;
    const text = JSON.stringify([place, String(node.id), node.type, node.mode ?? 0, node.widgets_values ?? [], linked]);
    return [node, { text, sources: [...sources, ...(subgraphOf(node)?.nodes ?? [])] }];
  });
}

// Id of a link, then node and output that it begins at; subgraphs are saved in another form than the graph that holds them.
function linkOf(link) {
  const [id, node, output] = Array.isArray(link) ? link : [link.id, link.origin_id, link.origin_slot];
  return [id, [String(node), output]];
}

function keyOf(node, facts) {
  const found = new Set([node]);
  for (const each of found) facts.get(each).sources.forEach((source) => found.add(source)); // these are walked, too
  const [own, ...others] = [...found].map((each) => facts.get(each).text);
  return hash([own, ...others.sort()].join("\n")); // sorted, since the order of saved nodes changes when one is clicked
}

// 64 bits, so that no two texts have the same by chance.
function hash(text) {
  let [a, b] = [0x811c9dc5, 0x1b873593];
  for (let place = 0; place < text.length; place++) {
    a = Math.imul(a ^ text.charCodeAt(place), 0x01000193);
    b = Math.imul(b ^ text.charCodeAt(place), 0x85ebca6b);
  }
  return `${a >>> 0}-${b >>> 0}`;
}
