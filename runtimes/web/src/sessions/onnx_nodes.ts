/** Just enough of ONNX's protobuf to name nodes: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto */

const MODEL_GRAPH = 7;
const GRAPH_NODE = 1;
const NODE_NAME = 3;
const NODE_OPERATOR = 4;

/** The names of a model's nodes that are one of `operators`; what is no model has none, and the engine says more of it. */
export function nodesOf(model: Uint8Array, operators: readonly string[]): string[] {
  const names: string[] = [];
  const text = new TextDecoder();
  for (const graph of parts(model, MODEL_GRAPH)) {
    for (const node of parts(graph, GRAPH_NODE)) {
      const [operator] = parts(node, NODE_OPERATOR);
      if (operator === undefined || !operators.includes(text.decode(operator))) continue;
      const [name] = parts(node, NODE_NAME);
      if (name !== undefined) names.push(text.decode(name));
    }
  }
  return names;
}

/** The messages and strings of one field; weights, which are most of a file, are stepped over. */
function* parts(bytes: Uint8Array, wanted: number): Generator<Uint8Array> {
  let at = 0;
  const number = (): number => {
    let value = 0;
    for (let scale = 1; at < bytes.length; scale *= 128) {
      const byte = bytes[at++];
      value += (byte & 127) * scale;
      if (byte < 128) break;
    }
    return value;
  };
  while (at < bytes.length) {
    const key = number();
    const kind = key % 8;
    if (kind === 0) number();
    else if (kind === 1) at += 8;
    else if (kind === 5) at += 4;
    else if (kind === 2) {
      const size = number();
      if (Math.floor(key / 8) === wanted) yield bytes.subarray(at, at + size);
      at += size;
    } else return;
  }
}
