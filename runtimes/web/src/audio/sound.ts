/**
 * Sound in: WAV by the numbers of the file, other files by the browser's decoder; one channel at the model's sampling rate.
 *
 * Resampling is the band-limited interpolation of J. O. Smith with the parameters that torchaudio's `resample` has by default, as in
 * the Python runtime: a sinc of six zero crossings to each side under a Hann window, with its edge at 0.99 of the lower Nyquist
 * frequency.
 */

import type { Bundle } from "../bundle.js";
import { SupportError, UsageError, shown } from "../errors.js";

const CROSSINGS = 6;
const ROLLOFF = 0.99;
const MAX_KERNEL = 2 ** 23;
const MAX_RATE = 768_000;

/** One channel of samples at some rate. */
export class Sound {
  readonly name: string;
  readonly rate: number;
  readonly #samples: Float32Array;

  constructor(name: string, rate: number, samples: Float32Array) {
    if (!Number.isInteger(rate) || rate <= 0 || rate > MAX_RATE) {
      throw new UsageError(`Cannot use the sound ${name}.`, {
        why: `its sampling rate is ${shown(rate)}`,
        fix: `say it in Hz: a whole number from 1 to ${MAX_RATE}`,
      });
    }
    if (!samples.length)
      throw new UsageError(`Cannot use the sound ${name}.`, { why: "it has no samples", fix: "give one that has" });
    this.name = name;
    this.rate = rate;
    this.#samples = samples;
  }

  /** Samples when it is resampled to `rate`. */
  lengthAt(rate: number): number {
    return Math.ceil((this.#samples.length * rate) / this.rate);
  }

  /** Those from `start` to `stop`, counted at `rate`. */
  samples(rate: number, start: number, stop: number): Float32Array {
    const end = Math.min(stop, this.lengthAt(rate));
    if (rate === this.rate) return this.#checked(start, end);
    const divisor = gcd(rate, this.rate);
    const [old, fresh] = [this.rate / divisor, rate / divisor];
    const lowest = Math.min(old, fresh) * ROLLOFF;
    const width = Math.ceil((CROSSINGS * old) / lowest);
    const taps = 2 * width + old;
    if (fresh * taps > MAX_KERNEL) {
      throw new UsageError(`Cannot resample ${this.name} from ${this.rate} to ${rate} Hz.`, {
        why: "the two rates have no common measure, and the filter would not fit in memory",
        fix: "give the sound at a usual rate, for instance 8000, 16000, 44100 or 48000 Hz",
      });
    }
    const kernel = kernelOf(old, fresh, width, lowest);
    this.#checked(0, this.#samples.length);
    const made = new Float32Array(end - start);
    for (let i = start; i < end; i++) {
      const frame = Math.floor(i / fresh);
      const phase = (i % fresh) * taps;
      const begin = frame * old - width;
      let sum = 0;
      const first = Math.max(0, -begin);
      const last = Math.min(taps, this.#samples.length - begin);
      for (let tap = first; tap < last; tap++) sum += this.#samples[begin + tap] * kernel[phase + tap];
      made[i - start] = sum;
    }
    return made;
  }

  #checked(start: number, stop: number): Float32Array {
    const found = this.#samples.subarray(start, stop);
    const bad = found.findIndex((each) => !Number.isFinite(each));
    if (bad >= 0) {
      throw new UsageError(`Cannot use the sound ${this.name}.`, {
        why: `sample ${start + bad} is NaN or infinite`,
        fix: "find what made it, or replace it with 0",
      });
    }
    return found;
  }
}

function gcd(a: number, b: number): number {
  return b ? gcd(b, a % b) : a;
}

/** One filter for each phase of the new rate. */
function kernelOf(old: number, fresh: number, width: number, lowest: number): Float32Array {
  const taps = 2 * width + old;
  const made = new Float32Array(fresh * taps);
  for (let phase = 0; phase < fresh; phase++) {
    for (let tap = 0; tap < taps; tap++) {
      const time = Math.min(Math.max(((tap - width) / old - phase / fresh) * lowest, -CROSSINGS), CROSSINGS);
      const window = Math.cos((time * Math.PI) / CROSSINGS / 2) ** 2;
      const sinc = time === 0 ? 1 : Math.sin(Math.PI * time) / (Math.PI * time);
      made[phase * taps + tap] = sinc * window * (lowest / old);
    }
  }
  return made;
}

/** What a user gave, as a sound; an array alone has the model's own rate. */
export async function soundOf(item: any, rate: number, bundle: Bundle, task: string): Promise<Sound> {
  if (item instanceof Float32Array) return new Sound(`in an array of ${item.length}`, rate, item);
  if (item instanceof ArrayBuffer) return ofBytes(new Uint8Array(item), `of ${item.byteLength} bytes`, rate);
  if (item instanceof Uint8Array) return ofBytes(item, `of ${item.length} bytes`, rate);
  if (typeof Blob !== "undefined" && item instanceof Blob) {
    const name = "name" in item ? String((item as File).name) : `of ${item.size} bytes`;
    return ofBytes(new Uint8Array(await item.arrayBuffer()), name, rate);
  }
  if (typeof AudioBuffer === "function" && item instanceof AudioBuffer) return ofBuffer(item, "in an AudioBuffer");
  if (item !== null && typeof item === "object") {
    if (typeof item.file === "string" && Object.keys(item).length === 1)
      return ofBytes(bundle.read(item.file), item.file, rate);
    const array = item.raw ?? item.array;
    if (array instanceof Float32Array && "sampling_rate" in item)
      return new Sound(`in an array of ${array.length}`, item.sampling_rate, array);
  }
  throw new UsageError(`Cannot run ${task} on ${shown(item).slice(0, 40)}.`, {
    why: "it takes a Blob, the bytes of a file, an AudioBuffer, a Float32Array, or {raw, sampling_rate}, or a list of them",
    fix: "pass one of these",
  });
}

async function ofBytes(bytes: Uint8Array, name: string, rate: number): Promise<Sound> {
  if (!bytes.length) throw unreadable(name, "it is empty");
  if (tag(bytes, 0) === "RIFF" && tag(bytes, 8) === "WAVE") return wav(bytes, name);
  if (typeof OfflineAudioContext !== "function") {
    throw new SupportError(`Cannot read the sound ${name} here.`, {
      why: "only pages of a browser decode other files than WAV; a worker does not",
      fix: "decode it in the page with decodeAudioData, and pass the AudioBuffer's samples",
    });
  }
  try {
    const context = new OfflineAudioContext(1, 1, rate);
    return ofBuffer(await context.decodeAudioData(bytes.slice().buffer as ArrayBuffer), name);
  } catch (error) {
    throw unreadable(name, `the browser cannot decode it (${(error as Error).message})`);
  }
}

function ofBuffer(buffer: AudioBuffer, name: string): Sound {
  const channels = Array.from({ length: buffer.numberOfChannels }, (_, i) => buffer.getChannelData(i));
  return new Sound(name, buffer.sampleRate, averaged(channels));
}

function averaged(channels: readonly Float32Array[]): Float32Array {
  if (channels.length === 1) return channels[0];
  return channels[0].map((_, i) => channels.reduce((sum, each) => Math.fround(sum + each[i]), 0) / channels.length);
}

function unreadable(name: string, why: string): UsageError {
  return new UsageError(`Cannot read the sound ${name}.`, { why, fix: "give a whole sound file, for instance WAV" });
}

function tag(bytes: Uint8Array, at: number): string {
  return String.fromCharCode(...bytes.subarray(at, at + 4));
}

const PCM = 1;
const FLOAT = 3;
const EXTENSIBLE = 0xfffe;

/** How a sample is read, by its code and bits. */
const DECODERS: Readonly<Record<string, (view: DataView, at: number) => number>> = {
  [`${PCM} 8`]: (view, at) => (view.getUint8(at) - 128) / 2 ** 7,
  [`${PCM} 16`]: (view, at) => view.getInt16(at, true) / 2 ** 15,
  [`${PCM} 24`]: (view, at) =>
    ((view.getInt8(at + 2) << 16) | (view.getUint8(at + 1) << 8) | view.getUint8(at)) / 2 ** 23,
  [`${PCM} 32`]: (view, at) => view.getInt32(at, true) / 2 ** 31,
  [`${FLOAT} 32`]: (view, at) => view.getFloat32(at, true),
  [`${FLOAT} 64`]: (view, at) => view.getFloat64(at, true),
};

/** The chunks of a RIFF file; its channels are averaged. */
function wav(bytes: Uint8Array, name: string): Sound {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let head: [start: number, length: number] | null = null;
  let data: [start: number, length: number] | null = null;
  for (let at = 12; at + 8 <= bytes.length && data === null;) {
    const size = view.getUint32(at + 4, true);
    const chunk: [number, number] = [at + 8, Math.min(size, bytes.length - at - 8)];
    if (tag(bytes, at) === "fmt ") head ??= chunk;
    if (tag(bytes, at) === "data") data = chunk;
    at += 8 + size + (size % 2);
  }
  if (data === null || head === null || head[1] < 16) throw unreadable(name, "its header is not complete");
  let code = view.getUint16(head[0], true);
  const channels = view.getUint16(head[0] + 2, true);
  const rate = view.getUint32(head[0] + 4, true);
  const step = view.getUint16(head[0] + 12, true);
  const bits = view.getUint16(head[0] + 14, true);
  if (code === EXTENSIBLE && head[1] >= 26) code = view.getUint16(head[0] + 24, true);
  const decode = DECODERS[`${code} ${bits}`];
  if (decode === undefined || !channels || step !== (channels * bits) >> 3) {
    throw unreadable(name, `its encoding is ${code} with ${bits} bits, not PCM of 8 to 32 bits or float`);
  }
  const [start, length] = data;
  const count = Math.floor(length / step); // a half sample at the end of a file that was cut is left out
  const parts = Array.from({ length: channels }, (_, channel) => {
    const made = new Float32Array(count);
    for (let i = 0, at = start + channel * (bits >> 3); i < count; i++, at += step) made[i] = decode(view, at);
    return made;
  });
  return new Sound(name, rate, averaged(parts));
}
