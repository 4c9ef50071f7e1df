/** Ids, places and texts are those of the Rust library, on the vectors that tests/web_tokenizers.py writes. */

import { describe, expect, test } from "vitest";
import { Tokenizer, type Strategy } from "../src/tokenizers/tokenizer.js";
import { vectors } from "./vectors.js";

const [{ texts }, ...made] = vectors("tokenizers") as [{ texts: string[] }, ...any[]];

test("there are at least 2,000 texts, and tokenizers of each kind", () => {
  expect(texts.length).toBeGreaterThanOrEqual(2000);
  expect(new Set(made.map((each) => each.tokenizer.model.type))).toEqual(new Set(["WordPiece", "BPE", "Unigram"]));
});

/** What differs, as a few lines that a person can read. */
function differences(pairs: Iterable<[string, unknown, unknown]>): string[] {
  const found: string[] = [];
  let count = 0;
  for (const [what, ours, theirs] of pairs) {
    if (JSON.stringify(ours) === JSON.stringify(theirs)) continue;
    count++;
    if (found.length < 5) found.push(`${JSON.stringify(what)}: ${JSON.stringify(ours)} for ${JSON.stringify(theirs)}`);
  }
  if (count > found.length) found.push(`… ${count} in all`);
  return found;
}

describe.each(made.map((each) => [each.name, each]))("%s", (_, vector) => {
  const tokenizer = new Tokenizer(vector.tokenizer);
  const encoded = texts.map((text) => tokenizer.encode(text));
  const plain = (words: readonly number[]): (number | null)[] => words.map((word) => (word < 0 ? null : word));

  test("ids of every text", () => {
    expect(differences(texts.map((text, i) => [text, encoded[i].ids, vector.whole[i][0]]))).toEqual([]);
    const bare = vector.bare.map((ids: number[], i: number) => [
      texts[i],
      tokenizer.encode(texts[i], null, { special: false }).ids,
      ids,
    ]);
    expect(differences(bare)).toEqual([]);
  });

  test("places and words of every token", () => {
    expect(differences(texts.map((text, i) => [text, encoded[i].offsets, vector.whole[i][1]]))).toEqual([]);
    expect(differences(texts.map((text, i) => [text, plain(encoded[i].words), vector.whole[i][2]]))).toEqual([]);
  });

  test("pairs", () => {
    const found = vector.pairs.map(([i, ids, types, special, sequences]: any) => {
      const pair = tokenizer.encode(texts[i], texts[i + 1]);
      return [
        texts[i],
        [pair.ids, pair.typeIds, pair.special, plain(pair.sequences)],
        [ids, types, special, sequences],
      ];
    });
    expect(differences(found)).toEqual([]);
  });

  test("truncation", () => {
    const found = vector.cuts.map(
      ([i, strategy, side, maxLength, ids]: [number, Strategy, "left" | "right", number, number[] | null]) => {
        let ours: number[] | null = null;
        try {
          ours = tokenizer.encode(texts[i], texts[i + 1], { truncation: { maxLength, strategy, side } }).ids;
        } catch {
          // there is too little to cut
        }
        return [`${strategy} ${side} ${maxLength} ${texts[i]}`, ours, ids];
      },
    );
    expect(differences(found)).toEqual([]);
  });

  test("texts of tokens", () => {
    const ours = vector.whole.map(([ids]: [number[]]) => tokenizer.decode(ids, true));
    expect(differences(texts.map((text, i) => [text, ours[i], vector.texts[i]]))).toEqual([]);
  });

  test("lists of words", () => {
    const found = vector.words.map(([ids, offsets, words]: any, i: number) => {
      const ours = tokenizer.encode(texts[i].split(PYTHON_SPACE).filter(Boolean));
      return [texts[i], [ours.ids, ours.offsets, plain(ours.words)], [ids, offsets, words]];
    });
    expect(differences(found)).toEqual([]);
  });
});

/** What `str.split` splits at. */
const PYTHON_SPACE = /[\x09-\x0d\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/;
