/** The post-processors of tokenizer.json: special tokens around one text or two. */

import { SupportError } from "../errors.js";
import type { Json } from "../manifest.js";
import { isWhite } from "./characters.js";
import { Encoding } from "./encoding.js";
import { BYTE_LETTERS } from "./pre_tokenizers.js";

export interface PostProcessor {
  /** Special tokens that it adds. */
  added(pair: boolean): number;
  process(first: Encoding, second: Encoding | null, special: boolean): Encoding;
}

const SPACE_LETTER = BYTE_LETTERS[32];

export function postProcessorOf(raw: Json): PostProcessor {
  if (raw === null || raw === undefined) return { added: () => 0, process: joined };
  switch (raw.type) {
    case "TemplateProcessing":
      return template(raw.single, raw.pair, raw.special_tokens);
    case "BertProcessing":
      return enclosed(raw, false);
    case "RobertaProcessing":
      return enclosed(raw, true);
    case "ByteLevel":
      return {
        added: () => 0,
        process(first, second) {
          if (raw.trim_offsets ?? true)
            for (const each of [first, second]) if (each) trim(each, raw.add_prefix_space ?? true);
          return joined(first, second);
        },
      };
    case "Sequence": {
      const steps: PostProcessor[] = raw.processors.map(postProcessorOf);
      const trims = steps.slice(0, -1);
      const last = steps[steps.length - 1];
      // Only the last adds tokens in the tokenizers that there are; the others change places.
      if (trims.some((step) => step.added(false) > 0)) throw unknown("Sequence of several that add tokens");
      return {
        added: (pair) => last.added(pair),
        process(first, second, special) {
          for (const step of trims) step.process(first, second, special);
          return last.process(first, second, special);
        },
      };
    }
    default:
      throw unknown(raw.type);
  }
}

function unknown(kind: string): SupportError {
  return new SupportError("Cannot read the tokenizer.", {
    why: `this runtime does not know the post-processor ${kind}`,
    fix: "update satchel-runtime, or report the checkpoint",
  });
}

function joined(first: Encoding, second: Encoding | null): Encoding {
  if (second === null) return first;
  const made = first.slice(0, first.length);
  setType(second, 1, 1);
  made.extend(second);
  return made;
}

function setType(each: Encoding, type: number, sequence: number): void {
  each.typeIds.fill(type);
  each.sequences.fill(sequence);
}

function template(single: Json[], pair: Json[], tokens: Json): PostProcessor {
  const count = (parts: Json[]): number =>
    parts.reduce((sum, part) => sum + (part.SpecialToken ? tokens[part.SpecialToken.id].ids.length : 0), 0);
  const counts = [count(single), count(pair)];
  return {
    added: (two) => counts[two ? 1 : 0],
    process(first, second, special) {
      const made = new Encoding();
      for (const part of second === null ? single : pair) {
        if (part.Sequence) {
          const second_ = part.Sequence.id === "B";
          const each = second_ ? second : first;
          if (each === null) continue;
          setType(each, part.Sequence.type_id, second_ ? 1 : 0);
          made.extend(each);
        } else if (special) {
          const token = tokens[part.SpecialToken.id];
          token.ids.forEach((id: number, i: number) =>
            made.push(id, token.tokens[i], [0, 0], -1, 1, part.SpecialToken.type_id, -1),
          );
        }
      }
      return made;
    },
  };
}

function enclosed(raw: Json, roberta: boolean): PostProcessor {
  const [[last, lastId], [first, firstId]] = [raw.sep, raw.cls] as [[string, number], [string, number]];
  return {
    added: (pair) => (pair ? (roberta ? 4 : 3) : 2),
    process(one, other, special) {
      if (roberta && (raw.trim_offsets ?? true))
        for (const each of [one, other]) if (each) trim(each, raw.add_prefix_space ?? true);
      const second = roberta ? 0 : 1; // RoBERTa knows no types
      if (other) setType(other, second, 1);
      if (!special) return joinedAs(one, other);
      const made = new Encoding();
      const put = (token: string, id: number, type: number): void => made.push(id, token, [0, 0], -1, 1, type, -1);
      put(first, firstId, 0);
      made.extend(one);
      put(last, lastId, 0);
      if (other) {
        if (roberta) put(last, lastId, 0);
        made.extend(other);
        put(last, lastId, second);
      }
      return made;
    },
  };
}

function joinedAs(one: Encoding, other: Encoding | null): Encoding {
  const made = one.slice(0, one.length);
  if (other) made.extend(other);
  return made;
}

/** Spaces at the ends of a token are no part of its place. */
function trim(encoding: Encoding, prefix: boolean): void {
  encoding.tokens.forEach((token, i) => {
    const letters = [...token];
    const blank = (letter: string): boolean => letter === SPACE_LETTER || isWhite(letter);
    let leading = 0;
    while (leading < letters.length && blank(letters[leading])) leading++;
    let trailing = 0;
    while (trailing < letters.length && blank(letters[letters.length - 1 - trailing])) trailing++;
    let [start, end] = encoding.offsets[i];
    if (leading > 0) {
      if ((i === 0 || start === 0) && prefix) leading--; // the space that was put there is in no text
      start = Math.min(start + leading, end);
    }
    if (trailing > 0 && end >= trailing) end = Math.max(end - trailing, start);
    encoding.offsets[i] = [start, end];
  });
}
