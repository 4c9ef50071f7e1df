/** What a user gives as a picture, as RGB. */

import type { Bundle } from "../bundle.js";
import { SupportError, UsageError, shown } from "../errors.js";
import { decodePng, isPng } from "./png.js";
import type { Picture } from "./resample.js";

/**
 * A file (Blob, bytes), anything that a canvas can draw, ImageData, or raw values `{data, width, height}` of 1, 3 or 4 channels.
 */
export const PICTURE_KIND =
  "a Blob, the bytes of a file, an image, a canvas, ImageData, or {data, width, height} of uint8";

export async function pictureOf(item: any, bundle: Bundle, task: string): Promise<Picture> {
  if (item !== null && typeof item === "object") {
    if (typeof item.file === "string" && Object.keys(item).length === 1)
      return ofBytes(bundle.read(item.file), item.file);
    if (item instanceof ArrayBuffer) return ofBytes(new Uint8Array(item), `of ${item.byteLength} bytes`);
    if (item instanceof Uint8Array && !("width" in item)) return ofBytes(item, `of ${item.length} bytes`);
    if (typeof Blob !== "undefined" && item instanceof Blob) {
      const name = "name" in item ? String((item as File).name) : `of ${item.size} bytes`;
      return ofBytes(new Uint8Array(await item.arrayBuffer()), name, item);
    }
    if (item.data && Number.isInteger(item.width) && Number.isInteger(item.height)) return ofValues(item, task);
    if (drawable(item)) return drawn(item);
  }
  throw new UsageError(`Cannot run ${task} on ${shown(item).slice(0, 40)}.`, {
    why: `it takes ${PICTURE_KIND}, or a list of them`,
    fix: "pass one of these",
  });
}

function ofValues(
  { data, width, height }: { data: ArrayLike<number>; width: number; height: number },
  task: string,
): Picture {
  const channels = data.length / (width * height);
  const bytes = data instanceof Uint8Array || data instanceof Uint8ClampedArray;
  if (!bytes || ![1, 3, 4].includes(channels)) {
    throw new UsageError(`Cannot run ${task} on values of ${width}x${height} pixels.`, {
      why: `there are ${data.length} of them${bytes ? "" : ", not uint8"}; a pixel has 1, 3 or 4`,
      fix: "pass a Uint8Array of width * height * channels",
    });
  }
  if (channels === 3) return { width, height, data };
  const made = new Uint8Array(width * height * 3);
  for (let i = 0, at = 0, out = 0; i < width * height; i++, at += channels, out += 3) {
    for (let k = 0; k < 3; k++) made[out + k] = data[channels === 1 ? at : at + k];
  }
  return { width, height, data: made };
}

async function ofBytes(bytes: Uint8Array, name: string, blob?: Blob): Promise<Picture> {
  if (isPng(bytes)) return decodePng(bytes, name);
  if (typeof createImageBitmap !== "function") {
    throw new SupportError(`Cannot read the picture ${name} here.`, {
      why: "only browsers decode other files than PNG",
      fix: "decode it, and pass {data, width, height}",
    });
  }
  let bitmap: ImageBitmap;
  try {
    bitmap = await createImageBitmap(blob ?? new Blob([bytes as Uint8Array<ArrayBuffer>]), {
      imageOrientation: "from-image",
      premultiplyAlpha: "none",
      colorSpaceConversion: "none",
    });
  } catch {
    throw new UsageError(`Cannot read the picture ${name}.`, {
      why: "the browser cannot decode it",
      fix: "give a whole picture file, for instance JPEG or PNG",
    });
  }
  try {
    return drawn(bitmap);
  } finally {
    bitmap.close();
  }
}

type Drawable = CanvasImageSource & {
  naturalWidth?: number;
  naturalHeight?: number;
  displayWidth?: number;
  displayHeight?: number;
};

function drawable(item: object): item is Drawable {
  const kinds = [
    "ImageBitmap",
    "HTMLImageElement",
    "HTMLCanvasElement",
    "OffscreenCanvas",
    "HTMLVideoElement",
    "VideoFrame",
  ];
  return kinds.some((kind) => {
    const known = (globalThis as Record<string, unknown>)[kind];
    return typeof known === "function" && item instanceof known;
  });
}

function drawn(image: Drawable): Picture {
  const sizes = image as { width?: number; height?: number; videoWidth?: number; videoHeight?: number } & Drawable;
  const width = sizes.naturalWidth ?? sizes.videoWidth ?? sizes.displayWidth ?? sizes.width ?? 0;
  const height = sizes.naturalHeight ?? sizes.videoHeight ?? sizes.displayHeight ?? sizes.height ?? 0;
  if (!width || !height)
    throw new UsageError("Cannot use the picture.", { why: "it has no pixels", fix: "wait until it has loaded" });
  const canvas =
    typeof OffscreenCanvas === "function"
      ? new OffscreenCanvas(width, height)
      : Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true }) as CanvasRenderingContext2D;
  context.drawImage(image, 0, 0);
  return ofValues(context.getImageData(0, 0, width, height), "a task");
}
