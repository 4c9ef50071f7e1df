/** The character map of SentencePiece: a double array of which each leaf is the place of what stands instead. */

import type { Normalizer } from "./normalizers.js";

export function precompiled(encoded: string): Normalizer {
  const bytes = Uint8Array.from(atob(encoded), (letter) => letter.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  const size = view.getUint32(0, true);
  const trie = new Uint32Array(bytes.slice(4, 4 + size).buffer);
  const instead = bytes.subarray(4 + size);
  const utf8 = new TextEncoder();
  const text = new TextDecoder();
  const segments = typeof Intl.Segmenter === "function" ? new Intl.Segmenter("en", { granularity: "grapheme" }) : null;

  /** What stands for the shortest beginning that the map has; null where it has none. */
  function changed(part: Uint8Array): string | null {
    let node = offsetOf(trie[0]);
    for (const byte of part) {
      if (byte === 0) break;
      node ^= byte;
      const unit = trie[node];
      if ((unit & 0x800000ff) >>> 0 !== byte) return null;
      node ^= offsetOf(unit);
      if (((unit >>> 8) & 1) === 1) {
        const start = trie[node] & 0x7fffffff;
        let end = start;
        while (instead[end]) end++;
        return text.decode(instead.subarray(start, end));
      }
    }
    return null;
  }

  const known = new Map<string, string>();
  function character(each: string): string {
    let found = known.get(each);
    if (found === undefined) {
      found = changed(utf8.encode(each)) ?? each;
      known.set(each, found);
    }
    return found;
  }

  return (given) => {
    const changes: [string, number][] = [];
    const put = (old: number, instead: string): void => {
      const letters = [...instead];
      for (const letter of letters) changes.push([letter, 0]);
      const more = letters.length - old;
      for (let i = 0; i < more; i++) changes[changes.length - 1 - i][1] = 1;
      // Where nothing stands before what is taken out, the library forgets it, and so do the places here.
      if (more < 0 && changes.length) changes[changes.length - 1][1] += more;
    };
    const parts =
      segments === null ? [...given.text] : Array.from(segments.segment(given.text), (each) => each.segment);
    for (const part of parts) {
      const bytes = part.length > 1 ? utf8.encode(part) : null;
      const short = bytes !== null && bytes.length < 6 ? changed(bytes) : null;
      if (short !== null) put([...part].length, short);
      else for (const each of part) put(1, character(each));
    }
    return given.transform(changes);
  };
}

function offsetOf(unit: number): number {
  return (unit >>> 10) << ((unit & 512) >>> 6);
}
