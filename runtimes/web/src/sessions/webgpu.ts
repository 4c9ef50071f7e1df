/** WebGPU beneath the engines: the page's one device, and what goes wrong on it. */

import { SupportError } from "../errors.js";

/** What kernels ask for beyond the least that WebGPU promises; of each as much as there is. */
const LIMITS = [
  ...(["maxBindGroups", "maxBufferSize", "maxStorageBufferBindingSize", "maxStorageBuffersPerShaderStage"] as const),
  ...(["maxComputeWorkgroupStorageSize", "maxComputeInvocationsPerWorkgroup", "maxComputeWorkgroupSizeX"] as const),
  ...(["maxComputeWorkgroupSizeY", "maxComputeWorkgroupSizeZ", "maxComputeWorkgroupsPerDimension"] as const),
  "maxTextureDimension2D",
] as const;

/**
 * The attention of onnxruntime-web 1.30 takes subgroups of eight and more: with four (Chromium's software adapter) its answers were off
 * by as much as they are large, without a word. Kernels that know of no subgroups are right everywhere.
 */
const LEAST_SUBGROUP = 8;

let opening: Promise<GPUDevice | string> | null = null;

/** The device that engines share, made anew where it was lost. `option` is the one that asked for it. */
export async function openDevice(path: string, option: string): Promise<GPUDevice> {
  const found = await (opening ??= made());
  if (typeof found !== "string") return found;
  opening = null;
  throw new SupportError(`Cannot run ${path} on WebGPU.`, {
    why: found,
    fix: `leave ${option} out: "wasm" runs everywhere`,
  });
}

/** A device, or why there is none. */
async function made(): Promise<GPUDevice | string> {
  const gpu = globalThis.navigator?.gpu;
  if (gpu === undefined) {
    if (globalThis.isSecureContext !== false) return "this browser has none";
    return "the page is served neither by https nor from localhost, and has none then";
  }
  const adapter = await gpu.requestAdapter({ powerPreference: "high-performance" });
  if (adapter === null) return "the browser finds no graphics processor that it would use";
  const features: GPUFeatureName[] = ["shader-f16"];
  if ((adapter.info?.subgroupMinSize ?? 0) >= LEAST_SUBGROUP) features.push("subgroups");
  try {
    const device = await adapter.requestDevice({
      requiredFeatures: features.filter((each) => adapter.features.has(each)),
      requiredLimits: Object.fromEntries(LIMITS.map((name) => [name, adapter.limits[name]])),
    });
    device.lost.then(() => (opening = null));
    return device;
  } catch (error) {
    if (!(error instanceof DOMException)) throw error;
    return `its graphics processor gives no device (${error.message})`;
  }
}

/**
 * What became of a device since a session was opened on it. Kernels that it refuses, and all of them once it is lost, leave
 * their outputs as they were, and an engine may hand these out as answers.
 */
export class Watch {
  readonly #device: GPUDevice;
  readonly #path: string;
  readonly #option: string;
  #trouble: string | null = null;

  constructor(device: GPUDevice, path: string, option: string) {
    this.#device = device;
    this.#path = path;
    this.#option = option;
    device.addEventListener("uncapturederror", this.#refused);
    device.lost.then(({ message }) => (this.#trouble = `the browser took it away (${message || "without a reason"})`));
  }

  readonly #refused = ({ error }: GPUUncapturedErrorEvent): void => {
    this.fail(`it refused a step (${error.message.trim().split("\n")[0].slice(0, 300)})`);
  };

  /** From here on, answers are refused; the first reason is kept. */
  fail(why: string): void {
    this.#trouble ??= why;
  }

  /** Refuse to go on, and to hand out an answer, where something went wrong. */
  check(): void {
    if (this.#trouble === null) return;
    throw new SupportError(`Cannot go on with ${this.#path} on the graphics processor.`, {
      why: this.#trouble,
      fix: `load the bundle again; where it comes back, leave ${this.#option} out: "wasm" runs everywhere`,
    });
  }

  end(): void {
    this.#device.removeEventListener("uncapturederror", this.#refused);
  }
}
