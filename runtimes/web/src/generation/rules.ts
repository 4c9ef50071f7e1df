/** What may come next: the scores of all tokens, changed by the rules of a config, in the order of transformers' processors. */

import { ParityError, UsageError } from "../errors.js";
import type { GenerationConfig } from "./config.js";

/** From the tokens so far to other scores, which it writes where they are. */
export type Rule = (ids: readonly number[], scores: Float32Array) => void;

export function rulesOf(config: GenerationConfig, prompt: number): Rule[] {
  const rules: Rule[] = [];
  const { eos_token_id: ends } = config;
  const never = (tokens: readonly number[]) => (scores: Float32Array) =>
    tokens.forEach((token) => (scores[token] = -Infinity));
  if (config.repetition_penalty !== 1) {
    const penalty = Math.fround(config.repetition_penalty);
    rules.push((ids, scores) => {
      for (const id of new Set(ids)) scores[id] = scores[id] < 0 ? scores[id] * penalty : scores[id] / penalty;
    });
  }
  if (config.no_repeat_ngram_size > 0) rules.push(noRepeat(config.no_repeat_ngram_size));
  const bad = config.bad_words_ids.filter((each) => !(each.length === 1 && ends.includes(each[0])));
  if (bad.length) {
    rules.push((ids, scores) => {
      for (const word of bad) {
        const before = word.slice(0, -1);
        const there = before.every((token, i) => ids[ids.length - before.length + i] === token);
        if (there) scores[word[word.length - 1]] = -Infinity;
      }
    });
  }
  const notBefore = (length: number): void => {
    if (ends.length) rules.push((ids, scores) => ids.length < length && never(ends)(scores));
  };
  if (config.min_length > 0) notBefore(config.min_length);
  if (config.min_new_tokens) notBefore(prompt + config.min_new_tokens);
  if (config.suppress_tokens.length) rules.push((_, scores) => never(config.suppress_tokens)(scores));
  if (config.begin_suppress_tokens.length) {
    rules.push((ids, scores) => ids.length === prompt && never(config.begin_suppress_tokens)(scores));
  }
  if (config.do_sample) {
    if (config.temperature !== 1) {
      const temperature = Math.fround(config.temperature);
      rules.push((_, scores) => scores.forEach((score, i) => (scores[i] = score / temperature)));
    }
    if (config.top_k) rules.push(topK(config.top_k));
    if (config.top_p < 1) rules.push(topP(config.top_p));
    if (config.min_p !== null) rules.push(minP(config.min_p));
  }
  return rules;
}

/** No run of `size` tokens twice. */
function noRepeat(size: number): Rule {
  return (ids, scores) => {
    const tail = ids.slice(ids.length - size + 1);
    if (ids.length + 1 < size) return;
    for (let i = 0; i + size <= ids.length; i++) {
      if (tail.every((token, k) => ids[i + k] === token)) scores[ids[i + size - 1]] = -Infinity;
    }
  };
}

function topK(count: number): Rule {
  return (_, scores) => {
    if (count >= scores.length) return;
    const limit = Float32Array.from(scores).sort()[scores.length - count];
    scores.forEach((score, i) => score < limit && (scores[i] = -Infinity));
  };
}

/** Nucleus sampling (Holtzman et al. 2019). */
function topP(mass: number): Rule {
  return (_, scores) => {
    const places = possible(scores);
    const chances = chancesOf(scores, places);
    const order = places.map((_, i) => i).sort((a, b) => scores[places[a]] - scores[places[b]]);
    let below = 0;
    // From the least likely on, out goes what is in the mass that is left over; the likeliest stays.
    for (const i of order.slice(0, -1)) {
      below = Math.fround(below + chances[i]);
      if (below > 1 - mass) break;
      scores[places[i]] = -Infinity;
    }
  };
}

function minP(share: number): Rule {
  return (_, scores) => {
    const places = possible(scores);
    const chances = chancesOf(scores, places);
    let most = 0;
    for (const each of chances) most = Math.max(most, each);
    places.forEach((place, i) => chances[i] < share * most && (scores[place] = -Infinity));
  };
}

function possible(scores: Float32Array): number[] {
  const places: number[] = [];
  for (let i = 0; i < scores.length; i++) if (scores[i] > -Infinity) places.push(i);
  return places;
}

/** A softmax over some places, in float32. */
function chancesOf(scores: Float32Array, places: readonly number[]): Float32Array {
  let most = -Infinity;
  for (const place of places) most = Math.max(most, scores[place]);
  const made = Float32Array.from(places, (place) => Math.exp(Math.fround(scores[place] - most)));
  let sum = 0;
  for (const each of made) sum += each;
  return made.map((each) => each / sum);
}

export function likeliest(scores: Float32Array): number {
  let best = 0;
  for (let i = 1; i < scores.length; i++) if (scores[i] > scores[best] || Number.isNaN(scores[i])) best = i;
  if (Number.isFinite(scores[best])) return best;
  if (scores[best] === -Infinity) {
    throw new UsageError("Cannot choose the next token.", {
      why: "the rules of this generation leave none",
      fix: "take one of them back: bad_words_ids, suppress_tokens or min_new_tokens",
    });
  }
  throw new ParityError("Cannot choose the next token.", {
    why: `the graph answers ${scores[best]}, which is no score`,
    fix: "verify the bundle on this device, or convert the model again",
  });
}

/** A token by chance. */
export function draw(scores: Float32Array, random: () => number): number {
  likeliest(scores);
  const places = possible(scores);
  const chances = chancesOf(scores, places);
  const sums: number[] = [];
  let sum = 0;
  for (const each of chances) sums.push((sum += each));
  const drawn = random() * sum;
  const found = sums.findIndex((each) => each > drawn);
  return places[found < 0 ? places.length - 1 : found];
}
