/** The pre-tokenizers of tokenizer.json: where a text is cut before its model sees the parts. */

import { SupportError } from "../errors.js";
import type { Json } from "../manifest.js";
import { isPunctuation, isWhite } from "./characters.js";
import { Normalized, widthAt } from "./normalized.js";
import { patternOf } from "./pattern.js";

export type PreTokenizer = (parts: readonly Normalized[]) => readonly Normalized[];

/** `Bytes` as letters that can be seen, as GPT-2 has it. */
export const BYTE_LETTERS: readonly string[] = byteLetters();

export const GPT2 =
  /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;

type Behavior = "Removed" | "Isolated" | "MergedWithPrevious" | "MergedWithNext" | "Contiguous";

export function preTokenizerOf(raw: Json): PreTokenizer {
  if (raw === null || raw === undefined) return (parts) => parts;
  const each =
    (cut: (part: Normalized) => readonly Normalized[]): PreTokenizer =>
    (parts) =>
      parts.flatMap(cut);
  switch (raw.type) {
    case "Sequence": {
      const steps: PreTokenizer[] = raw.pretokenizers.map(preTokenizerOf);
      return (parts) => steps.reduce((made, step) => step(made), parts);
    }
    case "BertPreTokenizer":
      return each(bertParts);
    case "Whitespace":
      return each((part) =>
        split(
          part,
          /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]+|[^\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}\p{White_Space}]+/gu,
          "Removed",
          true,
        ),
      );
    case "WhitespaceSplit":
      return each((part) => split(part, /\p{White_Space}/gu, "Removed"));
    case "Punctuation":
      return each((part) => splitBy(part, isPunctuation, raw.behavior ?? "Isolated"));
    case "Digits":
      return each((part) => split(part, /\p{N}/gu, raw.individual_digits ? "Isolated" : "Contiguous"));
    case "CharDelimiterSplit":
      return each((part) => splitBy(part, (letter) => letter === raw.delimiter, "Removed"));
    case "Split": {
      const pattern = patternOf(raw.pattern);
      return each((part) => split(part, pattern, raw.behavior, raw.invert));
    }
    case "ByteLevel":
      return each((part) => byteLevel(part, raw.add_prefix_space, raw.use_regex ?? true));
    case "Metaspace":
      return metaspace(raw);
    default:
      throw new SupportError("Cannot read the tokenizer.", {
        why: `this runtime does not know the pre-tokenizer ${raw.type}`,
        fix: "update satchel-runtime, or report the checkpoint",
      });
  }
}

function bertParts(part: Normalized): Normalized[] {
  const found: Normalized[] = [];
  const { text } = part;
  let start = 0;
  for (let i = 0; i < text.length;) {
    const width = widthAt(text, i);
    const letter = width === 1 ? text[i] : text.slice(i, i + 2);
    const white = isWhite(letter);
    if (white || isPunctuation(letter)) {
      if (i > start) found.push(part.slice(start, i));
      if (!white) found.push(part.slice(i, i + width));
      start = i + width;
    }
    i += width;
  }
  if (start < text.length) found.push(part.slice(start));
  return found;
}

function splitBy(part: Normalized, is: (letter: string) => boolean, behavior: Behavior): Normalized[] {
  const matches: [number, number][] = [];
  for (let i = 0; i < part.text.length;) {
    const width = widthAt(part.text, i);
    if (is(part.text.slice(i, i + width))) matches.push([i, i + width]);
    i += width;
  }
  return cut(part, matches, behavior);
}

function split(part: Normalized, pattern: RegExp, behavior: Behavior, invert = false): Normalized[] {
  const matches: [number, number][] = [];
  for (const found of part.text.matchAll(pattern)) {
    if (found[0].length) matches.push([found.index, found.index + found[0].length]);
  }
  if (!invert) return cut(part, matches, behavior);
  const between: [number, number][] = [];
  let last = 0;
  for (const [start, end] of [...matches, [part.text.length, part.text.length]]) {
    if (start > last) between.push([last, start]);
    last = end;
  }
  return cut(part, between, behavior);
}

function cut(part: Normalized, matches: readonly [number, number][], behavior: Behavior): Normalized[] {
  const pieces: [number, number, boolean][] = [];
  let last = 0;
  for (const [start, end] of matches) {
    if (start > last) pieces.push([last, start, false]);
    pieces.push([start, end, true]);
    last = end;
  }
  if (last < part.text.length) pieces.push([last, part.text.length, false]);
  const kept: [number, number][] = [];
  let previous = false;
  if (behavior === "MergedWithNext") {
    for (const [start, end, match] of [...pieces].reverse()) {
      if (match && !previous && kept.length) kept[kept.length - 1][0] = start;
      else kept.push([start, end]);
      previous = match;
    }
    kept.reverse();
  } else {
    for (const [start, end, match] of pieces) {
      if (behavior === "Removed") {
        if (!match) kept.push([start, end]);
      } else if (behavior === "MergedWithPrevious" && match && !previous && kept.length) kept[kept.length - 1][1] = end;
      else if (behavior === "Contiguous" && match === previous && kept.length) kept[kept.length - 1][1] = end;
      else kept.push([start, end]);
      previous = match;
    }
  }
  return kept.map(([start, end]) => part.slice(start, end));
}

function byteLevel(part: Normalized, prefix: boolean, regex: boolean): Normalized[] {
  const whole = prefix && !part.text.startsWith(" ") ? part.prepend(" ") : part;
  const pieces = regex ? split(whole, GPT2, "Isolated") : [whole];
  return pieces.map(asBytes);
}

const utf8 = new TextEncoder();

/** Each byte of a part as a letter; all bytes of a character come from where it came from. */
export function asBytes(part: Normalized): Normalized {
  return part.map((character) => {
    const code = character.codePointAt(0)!;
    if (code < 128) return BYTE_LETTERS[code];
    let made = "";
    for (const byte of utf8.encode(character)) made += BYTE_LETTERS[byte];
    return made;
  });
}

function metaspace(raw: Json): PreTokenizer {
  const mark: string = raw.replacement;
  const scheme: string = raw.prepend_scheme ?? (raw.add_prefix_space === false ? "never" : "always");
  return (parts) =>
    parts.flatMap((part) => {
      let text = part.replace(/ /g, mark);
      const first = part.from[0] === 0;
      if ((scheme === "always" || (scheme === "first" && first)) && !text.text.startsWith(mark))
        text = text.prepend(mark);
      if (raw.split === false) return [text];
      const marks: [number, number][] = [];
      for (let at = text.text.indexOf(mark); at >= 0; at = text.text.indexOf(mark, at + mark.length)) {
        marks.push([at, at + mark.length]);
      }
      return cut(text, marks, "MergedWithNext");
    });
}

function byteLetters(): string[] {
  const letters: string[] = [];
  let next = 256;
  for (let byte = 0; byte < 256; byte++) {
    const seen = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    letters.push(String.fromCharCode(seen ? byte : next++));
  }
  return letters;
}
