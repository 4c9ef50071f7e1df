/** Tensors as plain data, and safetensors without a library. */

import { IntegrityError } from "./errors.js";

export type DType = "float32" | "float16" | "float64" | "int64" | "int32" | "int8" | "uint8" | "bool";

export type TensorData =
  | Float32Array
  | Float64Array
  | Int32Array
  | Int8Array
  | Uint8Array
  | Uint16Array // float16, as bits
  | BigInt64Array;

export interface Tensor {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly data: TensorData;
}

export type Tensors = Record<string, Tensor>;

const ARRAYS = {
  float32: Float32Array,
  float16: Uint16Array,
  float64: Float64Array,
  int64: BigInt64Array,
  int32: Int32Array,
  int8: Int8Array,
  uint8: Uint8Array,
  bool: Uint8Array,
} as const;

export function sizeOf(shape: readonly number[]): number {
  let size = 1;
  for (const each of shape) size *= each;
  return size;
}

/** An array of zeros for a dtype. */
export function zeros(dtype: DType, size: number): TensorData {
  return new ARRAYS[dtype](size);
}

export function float32(shape: readonly number[], data: Float32Array = new Float32Array(sizeOf(shape))): Tensor {
  return { dtype: "float32", shape, data };
}

/** Whole numbers as the int64 that text graphs take. */
export function int64(values: ArrayLike<number>, shape: readonly number[] = [values.length]): Tensor {
  const data = new BigInt64Array(values.length);
  for (let i = 0; i < values.length; i++) data[i] = BigInt(values[i]);
  return { dtype: "int64", shape, data };
}

/** The values as float32; a tensor of that type gives its own array. */
export function floats(tensor: Tensor): Float32Array {
  const { data, dtype } = tensor;
  if (data instanceof Float32Array) return data;
  if (dtype === "float16") return Float32Array.from(data as Uint16Array, halfToFloat);
  if (data instanceof BigInt64Array) return Float32Array.from(data, Number);
  return Float32Array.from(data as Int32Array);
}

function halfToFloat(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** One row of a batch, without its axis; a view where the engine's array allows one. */
export function rowOf(tensor: Tensor, row: number): Tensor {
  const shape = tensor.shape.slice(1);
  const size = sizeOf(shape);
  return { dtype: tensor.dtype, shape, data: tensor.data.subarray(row * size, (row + 1) * size) };
}

/** The first `sizes[i]` entries of each axis. */
export function cropped(tensor: Tensor, sizes: readonly number[]): Tensor {
  const { shape } = tensor;
  const wanted = shape.map((size, axis) => Math.min(size, sizes[axis]));
  if (wanted.every((size, axis) => size === shape[axis])) return tensor;
  const data = zeros(tensor.dtype, sizeOf(wanted));
  copyBlock(tensor.data, shape, data, wanted, wanted);
  return { dtype: tensor.dtype, shape: wanted, data };
}

/** Copy the block of `sizes` at the origin of one array to that of another; both in C order. */
export function copyBlock(
  from: TensorData,
  fromShape: readonly number[],
  to: TensorData,
  toShape: readonly number[],
  sizes: readonly number[],
  toOffset = 0,
): void {
  const rank = sizes.length;
  if (rank === 0) {
    to[toOffset] = from[0];
    return;
  }
  const walk = (axis: number, source: number, target: number): void => {
    if (axis === rank - 1) {
      // The two arrays have one type: `set` copies bytes.
      (to as Float32Array).set((from as Float32Array).subarray(source, source + sizes[axis]), target);
      return;
    }
    const step = sizeOf(fromShape.slice(axis + 1));
    const stride = sizeOf(toShape.slice(axis + 1));
    for (let i = 0; i < sizes[axis]; i++) walk(axis + 1, source + i * step, target + i * stride);
  };
  walk(0, 0, toOffset);
}

const SAFE: Record<string, DType> = {
  F64: "float64",
  F32: "float32",
  F16: "float16",
  I64: "int64",
  I32: "int32",
  I8: "int8",
  U8: "uint8",
  BOOL: "bool",
};

/** The tensors of a safetensors file (https://github.com/huggingface/safetensors#format). */
export function unpackTensors(bytes: Uint8Array, where: string): Record<string, Tensor> {
  const damaged = (why: string): IntegrityError =>
    new IntegrityError(`Cannot read the tensors of ${where}.`, {
      why: `the file is damaged (${why})`,
      fix: "copy the bundle again",
    });
  if (bytes.length < 8) throw damaged("it has no header");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const length = Number(view.getBigUint64(0, true));
  if (length > bytes.length - 8) throw damaged("the header is longer than the file");
  let header: Record<string, { dtype: string; shape: number[]; data_offsets: [number, number] }>;
  try {
    header = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes.subarray(8, 8 + length)));
  } catch {
    throw damaged("its header is not JSON");
  }
  const body = 8 + length;
  const found: Record<string, Tensor> = Object.create(null);
  for (const [name, entry] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    const dtype = SAFE[entry?.dtype];
    const shape = entry?.shape;
    const [start, end] = entry?.data_offsets ?? [-1, -1];
    if (dtype === undefined || !Array.isArray(shape) || !shape.every((n) => Number.isSafeInteger(n) && n >= 0)) {
      throw damaged(`'${name}' has no type or shape`);
    }
    if (!(start >= 0 && start <= end && body + end <= bytes.length))
      throw damaged(`the offsets of '${name}' leave the file`);
    const kind = ARRAYS[dtype];
    if (end - start !== sizeOf(shape) * kind.BYTES_PER_ELEMENT) throw damaged(`'${name}' does not fit its shape`);
    // A copy: typed arrays begin at multiples of their element, and a file may begin anywhere.
    const data = new kind(bytes.slice(body + start, body + end).buffer);
    found[name] = { dtype, shape, data };
  }
  return found;
}
