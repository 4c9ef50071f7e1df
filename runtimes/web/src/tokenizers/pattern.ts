/** Patterns of tokenizer.json, which are Oniguruma's, as JavaScript's. */

import type { Json } from "../manifest.js";
import { SupportError } from "../errors.js";

/** `{"String": …}` or `{"Regex": …}`, with the flags `gu`. */
export function patternOf(raw: Json): RegExp {
  if (typeof raw === "string") return new RegExp(literal(raw), "gu");
  if (raw !== null && typeof raw.String === "string") return new RegExp(literal(raw.String), "gu");
  const source = String(raw?.Regex);
  try {
    return new RegExp(translated(source), "gu");
  } catch (error) {
    throw new SupportError("Cannot read the tokenizer.", {
      why: `its pattern ${source.slice(0, 80)} is not one that JavaScript knows (${(error as Error).message})`,
      fix: "report the checkpoint",
    });
  }
}

export function literal(text: string): string {
  return text.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&");
}

function translated(source: string): string {
  let made = "";
  let inClass = false;
  let folded = 0; // depth of a group in which case does not count; 0: outside
  let depth = 0;
  let quantified = false; // what stands before is a quantifier
  for (let i = 0; i < source.length; i++) {
    const letter = source[i];
    const after = quantified;
    quantified = !inClass && (/[?*+]/.test(letter) || (letter === "}" && /\{\d*,?\d*$/.test(source.slice(0, i))));
    if (letter === "\\") {
      const next = source[++i];
      if (next === "s") made += "\\p{White_Space}";
      else if (next === "S") made += "\\P{White_Space}";
      else if (next === "w" || next === "W") made += set("\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}", next === "W", inClass);
      else if (next === "d") made += "\\p{Nd}";
      else if (next === "D") made += "\\P{Nd}";
      else if (next === "h") made += inClass ? "0-9a-fA-F" : "[0-9a-fA-F]";
      else if (next === "A") made += "(?<![^])";
      else if (next === "z" || next === "Z") made += "(?![^])";
      else if (next === "p" || next === "P") {
        const end = source.indexOf("}", i);
        made += `\\${next}${source.slice(i + 1, end + 1)}`;
        i = end;
      } else if (/[bBnrtfv0uxk]/.test(next) || /[\^$\\.*+?()[\]{}|/-]/.test(next)) {
        made += next === "-" && !inClass ? "-" : `\\${next}`;
      } else made += next; // an escape that says nothing, which the flag u refuses
    } else if (inClass) {
      if (letter === "]") inClass = false;
      // A set in a set, or their meeting, is Oniguruma's own.
      if (letter === "[" || source.startsWith("&&", i)) throw new Error("a set in a set");
      made +=
        folded && /[a-z]/i.test(letter) && source[i + 1] !== "-" && source[i - 1] !== "-" ? bothCases(letter) : letter;
    } else if (letter === "[") {
      inClass = true;
      made += letter;
      if (source[i + 1] === "^") made += source[++i];
      if (source[i + 1] === "]") made += `\\${source[++i]}`;
    } else if (source.startsWith("(?i:", i)) {
      depth++;
      folded ||= depth;
      made += "(?:";
      i += 3;
    } else if (source.startsWith("(?i)", i)) {
      folded ||= Infinity;
      i += 3;
    } else {
      if (letter === "(") depth++;
      if (letter === ")") {
        if (depth === folded) folded = 0;
        depth--;
      }
      if (letter === "+" && after) continue; // possessive: it matches the same where what follows shares no letters
      made += folded && /[a-z]/i.test(letter) ? `[${bothCases(letter)}]` : letter;
    }
  }
  return made;
}

function set(inside: string, negated: boolean, inClass: boolean): string {
  if (inClass && negated) throw new Error("\\W in a set");
  return inClass ? inside : `[${negated ? "^" : ""}${inside}]`;
}

function bothCases(letter: string): string {
  const small = letter.toLowerCase();
  const also = small === "s" ? "\u017f" : small === "k" ? "\u212a" : "";
  return small + letter.toUpperCase() + also;
}
