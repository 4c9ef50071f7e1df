/** The normalizers of tokenizer.json, by their names there. */

import { SupportError } from "../errors.js";
import type { Json } from "../manifest.js";
import { isBertControl, isBertMark, isCjk, isMark, isWhite } from "./characters.js";
import { Normalized, normalForm } from "./normalized.js";
import { patternOf } from "./pattern.js";
import { precompiled } from "./precompiled.js";

export type Normalizer = (text: Normalized) => Normalized;

const PLAIN = /^[\x20-\x7e]*$/;

export function normalizerOf(raw: Json): Normalizer {
  if (raw === null || raw === undefined) return (text) => text;
  switch (raw.type) {
    case "Sequence": {
      const steps: Normalizer[] = raw.normalizers.map(normalizerOf);
      return (text) => steps.reduce((made, step) => step(made), text);
    }
    case "BertNormalizer":
      return bert(raw);
    case "NFC":
    case "NFD":
    case "NFKC":
    case "NFKD":
      return (text) => normalForm(text, raw.type);
    case "Lowercase":
      return lowercase;
    case "StripAccents":
      return withoutMarks;
    case "Strip":
      return (text) => stripped(text, raw.strip_left, raw.strip_right);
    case "Prepend":
      return (text) => text.prepend(raw.prepend);
    case "Replace": {
      const pattern = patternOf(raw.pattern);
      return (text) => text.replace(pattern, raw.content);
    }
    case "Nmt":
      return nmt;
    case "Precompiled":
      return precompiled(raw.precompiled_charsmap);
    default:
      throw new SupportError("Cannot read the tokenizer.", {
        why: `this runtime does not know the normalizer ${raw.type}`,
        fix: "update satchel-runtime, or report the checkpoint",
      });
  }
}

function bert(raw: Json): Normalizer {
  const strip = raw.strip_accents ?? raw.lowercase;
  return (given) => {
    if (PLAIN.test(given.text)) {
      // Most texts of most users: letters alone change, and none of them its place.
      return raw.lowercase ? new Normalized(given.text.toLowerCase(), given.from, given.to) : given;
    }
    let text = given;
    if (raw.clean_text)
      text = text.map((each) => (each === "\0" || isBertControl(each) ? "" : isWhite(each) ? " " : each));
    if (raw.handle_chinese_chars) text = text.map((each) => (isCjk(each.codePointAt(0)!) ? ` ${each} ` : each));
    if (strip) text = normalForm(text, "NFD").map((each) => (isBertMark(each) ? "" : each));
    return raw.lowercase ? lowercase(text) : text;
  };
}

/** A character at a time: Rust's `to_lowercase` of a character knows nothing of the end of a word, where Σ is ς. */
function lowercase(text: Normalized): Normalized {
  return text.map((each) => each.toLowerCase());
}

function withoutMarks(text: Normalized): Normalized {
  return text.map((each) => (isMark(each) ? "" : each));
}

function stripped(text: Normalized, left: boolean, right: boolean): Normalized {
  const characters = [...text.text];
  let start = 0;
  let end = text.text.length;
  if (left)
    for (const each of characters)
      if (isWhite(each)) start += each.length;
      else break;
  if (right)
    for (const each of characters.reverse())
      if (end > start && isWhite(each)) end -= each.length;
      else break;
  return text.slice(start, end);
}

const NMT_CONTROL = /^[\x01-\x08\x0b\x0e-\x1f\x7f\x8f\x9f]$/;
const NMT_SPACE = /^[\x09\x0a\x0c\x0d\u1680\u200b-\u200f\u2028\u2029\u2581\ufeff\ufffd]$/;

function nmt(text: Normalized): Normalized {
  return text.map((each) => (NMT_CONTROL.test(each) ? "" : NMT_SPACE.test(each) ? " " : each));
}
