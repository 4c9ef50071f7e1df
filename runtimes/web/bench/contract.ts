/** What the page and the server that serves it say to each other; in words in README.md. */

import type { PlainError } from "../src/errors.js";

export interface Settings {
  /** null: what the bundle prefers. */
  readonly threads?: number | null;
  /** Of each length. */
  readonly seconds?: number;
  readonly runs?: number;
  readonly warmup?: number;
  readonly lengths?: readonly number[] | null;
  readonly sustain_minutes?: number | null;
}

export interface Device {
  readonly user_agent: string;
  readonly cores: number;
  readonly memory_bytes: number | null;
  readonly platform: string | null;
  readonly model: string | null;
  readonly screen: string;
  readonly webgpu: boolean;
  readonly isolated: boolean;
  readonly simd: boolean;
}

/** A summary, named as `satchel_runtimes.measure.Latency`, of more runs than are worth sending. */
export interface Latency {
  readonly n: number;
  readonly p50_ms: number;
  readonly p90_ms: number;
  readonly p99_ms: number | null;
  readonly low_ms: number;
  readonly high_ms: number;
}

export interface Golden {
  readonly finding: string;
  readonly says: string;
  readonly why?: string;
  readonly seconds: number;
  readonly parity: readonly unknown[];
}

export interface Measured {
  readonly engine: string;
  readonly threads: number | null;
  readonly task: string;
  readonly shape: string;
  readonly versions: Readonly<Record<string, string>>;
  readonly latency: Readonly<Record<string, readonly number[]>>;
  readonly cold: {
    readonly download_ms: number;
    readonly import_ms: number;
    readonly load_ms: number;
    readonly predict_ms: number;
  };
  readonly memory_bytes: number | null;
  readonly sustained: {
    readonly seconds: number;
    readonly tokens: number;
    readonly windows: readonly { readonly seconds: number; readonly latency: readonly number[] | Latency }[];
  } | null;
}

export type Result =
  | { readonly ok: true; readonly device: Device; readonly golden: Golden; readonly measured: Measured }
  | { readonly ok: false; readonly error: PlainError; readonly device?: Device };

/** What is asked of the worker. */
export interface Job {
  readonly base: string;
  readonly settings: Settings;
}

/** What the worker tells. */
export type News =
  | { readonly stage: string; readonly done: number }
  | { readonly golden: Golden; readonly measured: Measured }
  | { readonly error: PlainError };
