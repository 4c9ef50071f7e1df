/**
 * How text is generated: the settings of `generation_config.json`, and what a caller says instead of them. Names, meanings and defaults
 * are those of transformers' GenerationConfig; of its strategies greedy search and sampling are here.
 */

import { SupportError, UsageError, shown } from "../errors.js";
import type { Json } from "../manifest.js";

export interface GenerationConfig {
  readonly max_length: number | null;
  readonly max_new_tokens: number | null;
  readonly min_length: number;
  readonly min_new_tokens: number | null;
  readonly max_time: number | null;
  readonly stop_strings: readonly string[];
  readonly do_sample: boolean;
  readonly temperature: number;
  readonly top_k: number;
  readonly top_p: number;
  readonly min_p: number | null;
  readonly seed: number | null;
  readonly num_return_sequences: number;
  readonly repetition_penalty: number;
  readonly no_repeat_ngram_size: number;
  readonly bad_words_ids: readonly (readonly number[])[];
  readonly suppress_tokens: readonly number[];
  readonly begin_suppress_tokens: readonly number[];
  readonly bos_token_id: number | null;
  readonly eos_token_id: readonly number[];
  readonly pad_token_id: number | null;
}

const DEFAULTS: GenerationConfig = {
  max_length: null,
  max_new_tokens: null,
  min_length: 0,
  min_new_tokens: null,
  max_time: null,
  stop_strings: [],
  do_sample: false,
  temperature: 1,
  top_k: 50,
  top_p: 1,
  min_p: null,
  seed: null,
  num_return_sequences: 1,
  repetition_penalty: 1,
  no_repeat_ngram_size: 0,
  bad_words_ids: [],
  suppress_tokens: [],
  begin_suppress_tokens: [],
  bos_token_id: null,
  eos_token_id: [],
  pad_token_id: null,
};

/** What the Python runtime has too, and the values of each that ask for nothing. */
const PYTHON_ONLY: Readonly<Record<string, readonly Json[]>> = {
  num_beams: [1],
  num_beam_groups: [1],
  diversity_penalty: [0],
  penalty_alpha: [null, 0],
  prompt_lookup_num_tokens: [null],
  top_h: [null],
  typical_p: [1],
  epsilon_cutoff: [0],
  eta_cutoff: [0],
  guidance_scale: [1],
  sequence_bias: [null],
  exponential_decay_length_penalty: [null],
  forced_bos_token_id: [null],
  forced_eos_token_id: [null],
  forced_decoder_ids: [null],
  remove_invalid_values: [false],
  renormalize_logits: [false],
};
/** Settings of other strategies, which decide nothing here. */
const IDLE = [
  ...["max_matching_ngram_size", "num_assistant_tokens", "length_penalty", "early_stopping", "decoder_start_token_id"],
  ...["encoder_repetition_penalty", "encoder_no_repeat_ngram_size"],
];

const LENGTH = 20; // tokens in all, where nobody says anything

/** The bundle's own settings. */
export function readConfig(saved: Readonly<Record<string, Json>>, path: string): GenerationConfig {
  const odd = Object.entries(saved).find(([name, value]) => name in PYTHON_ONLY && !asksNothing(name, value));
  if (odd !== undefined) {
    throw new SupportError(`Cannot generate from ${path} here.`, {
      why: `its generation_config.json sets ${odd[0]} to ${shown(odd[1])}; this runtime has greedy search and sampling`,
      fix: "run it with the Python runtime, or take that setting out and convert again",
    });
  }
  const known = Object.entries(saved).filter(([name]) => name in DEFAULTS);
  return changed(DEFAULTS, Object.fromEntries(known));
}

function asksNothing(name: string, value: Json): boolean {
  return PYTHON_ONLY[name].includes(value) || (Array.isArray(value) && !value.length);
}

/** With other values, which are checked; null takes the default back. */
export function changed(config: GenerationConfig, given: Readonly<Record<string, Json>>): GenerationConfig {
  const values: Record<string, Json> = {};
  for (const [name, value] of Object.entries(given)) {
    if (name in PYTHON_ONLY) {
      if (value === null || asksNothing(name, value)) continue;
      throw new UsageError(`Cannot use ${name}=${shown(value)}.`, {
        why: "this runtime has greedy search and sampling; the Python runtime has the others",
        fix: "leave it out",
      });
    }
    if (IDLE.includes(name)) continue;
    if (!(name in DEFAULTS)) {
      throw new UsageError(`Cannot use the option '${name}'.`, {
        why: "generation has no such setting",
        fix: `choose among ${Object.keys(DEFAULTS).join(", ")}`,
      });
    }
    values[name] = value === null ? DEFAULTS[name as keyof GenerationConfig] : listed(name, value);
  }
  // Who says how many new tokens means that, whatever the model's own file says of the length in all.
  if (values.max_new_tokens != null && !("max_length" in values)) values.max_length = null;
  if (values.max_length != null && !("max_new_tokens" in values)) values.max_new_tokens = null;
  const made = { ...config, ...values } as GenerationConfig;
  check(made);
  return made;
}

function listed(name: string, value: Json): Json {
  const single = name === "stop_strings" ? typeof value === "string" : typeof value === "number";
  return Array.isArray(DEFAULTS[name as keyof GenerationConfig]) && single ? [value] : value;
}

function check(config: GenerationConfig): void {
  const odd = (name: keyof GenerationConfig, why: string): UsageError =>
    new UsageError(`Cannot use ${name}=${shown(config[name])}.`, { why, fix: "choose another value, or leave it out" });
  const least = {
    max_length: 1,
    max_new_tokens: 1,
    min_length: 0,
    min_new_tokens: 0,
    num_return_sequences: 1,
    top_k: 0,
    no_repeat_ngram_size: 0,
    seed: 0,
  };
  for (const [name, smallest] of Object.entries(least) as [keyof typeof least, number][]) {
    const value = config[name];
    if (value !== null && !(Number.isInteger(value) && value >= smallest))
      throw odd(name, `it is a whole number from ${smallest} up`);
  }
  for (const name of ["temperature", "repetition_penalty"] as const) {
    if (!(typeof config[name] === "number" && config[name] > 0)) {
      throw odd(name, "it is a number above 0; do_sample: false takes the likeliest token");
    }
  }
  for (const name of ["top_p", "min_p"] as const) {
    const value = config[name];
    if (value !== null && !(typeof value === "number" && value >= 0 && value <= 1))
      throw odd(name, "it is a number from 0 to 1");
  }
  if (config.max_time !== null && typeof config.max_time !== "number") throw odd("max_time", "it is a number");
  if (config.num_return_sequences > 1 && !config.do_sample)
    throw odd("num_return_sequences", "greedy search gives one text");
}

/** Tokens in all, for a prompt of so many. */
export function longestOf(config: GenerationConfig, prompt: number): number {
  if (config.max_new_tokens !== null) return prompt + config.max_new_tokens;
  return config.max_length ?? Math.max(LENGTH, prompt + 1);
}
