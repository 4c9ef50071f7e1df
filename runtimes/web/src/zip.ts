/** A bundle in one file: a zip whose members are stored as they are. */

import type { BundleFiles } from "./bundle.js";
import { MANIFEST_NAME, MAX_MANIFEST_BYTES, altered } from "./manifest.js";

const END = 0x06054b50;
const ENTRY = 0x02014b50;
const LOCAL = 0x04034b50;
const ZIP64_END = 0x06064b50;
const ZIP64_LOCATOR = 0x07064b50;

interface Member {
  readonly size: number;
  readonly start: number; // of the local header
}

/** Read the directory at the end (PKWARE's APPNOTE.TXT 6.3.10); members are read when they are asked for. */
export async function openZip(blob: Blob, name: string): Promise<BundleFiles> {
  const members = await directory(blob, name);
  return {
    name,
    async read(file, expected) {
      const member = members.get(file);
      if (member === undefined) return null;
      if (file === MANIFEST_NAME && member.size > MAX_MANIFEST_BYTES) {
        throw altered(name, `${MANIFEST_NAME} has ${member.size} bytes; at most ${MAX_MANIFEST_BYTES} are read`);
      }
      if (expected !== undefined && member.size !== expected) {
        throw altered(name, `'${file}' has ${member.size} bytes, the manifest says ${expected}`);
      }
      const head = await view(blob, member.start, 30, name);
      if (head.getUint32(0, true) !== LOCAL) throw altered(name, `'${file}' does not begin where the zip says`);
      const begin = member.start + 30 + head.getUint16(26, true) + head.getUint16(28, true);
      if (begin + member.size > blob.size) throw altered(name, `the zip ends before '${file}' does`);
      return new Uint8Array(await blob.slice(begin, begin + member.size).arrayBuffer());
    },
  };
}

async function view(blob: Blob, start: number, length: number, name: string): Promise<DataView> {
  if (start < 0 || start + length > blob.size) throw altered(name, "it is no whole zip");
  return new DataView(await blob.slice(start, start + length).arrayBuffer());
}

async function directory(blob: Blob, name: string): Promise<Map<string, Member>> {
  const tailSize = Math.min(blob.size, 22 + 0xffff);
  const tail = await view(blob, blob.size - tailSize, tailSize, name);
  let at = tailSize - 22;
  while (at >= 0 && tail.getUint32(at, true) !== END) at--;
  if (at < 0) throw altered(name, "it is neither a folder nor a whole zip");
  let count = tail.getUint16(at + 10, true);
  let size = tail.getUint32(at + 12, true);
  let start = tail.getUint32(at + 16, true);
  if (start === 0xffffffff || count === 0xffff || size === 0xffffffff) {
    const locator = await view(blob, blob.size - tailSize + at - 20, 20, name);
    if (locator.getUint32(0, true) !== ZIP64_LOCATOR) throw altered(name, "it is no whole zip");
    const end = await view(blob, Number(locator.getBigUint64(8, true)), 56, name);
    if (end.getUint32(0, true) !== ZIP64_END) throw altered(name, "it is no whole zip");
    count = Number(end.getBigUint64(32, true));
    size = Number(end.getBigUint64(40, true));
    start = Number(end.getBigUint64(48, true));
  }
  const entries = await view(blob, start, size, name);
  const members = new Map<string, Member>();
  const utf8 = new TextDecoder("utf-8");
  let place = 0;
  for (let i = 0; i < count; i++) {
    if (place + 46 > size || entries.getUint32(place, true) !== ENTRY)
      throw altered(name, "the zip's directory is damaged");
    const flags = entries.getUint16(place + 8, true);
    const method = entries.getUint16(place + 10, true);
    const nameLength = entries.getUint16(place + 28, true);
    const extraLength = entries.getUint16(place + 30, true);
    const whole = place + 46 + nameLength + extraLength + entries.getUint16(place + 32, true);
    if (whole > size) throw altered(name, "the zip's directory is damaged");
    const file = utf8.decode(new Uint8Array(entries.buffer, place + 46, nameLength));
    const [bytes, begins] = sizes(entries, place, place + 46 + nameLength, extraLength);
    place = whole;
    if (file.endsWith("/")) continue;
    if (members.has(file)) throw altered(name, `the zip holds '${file}' twice`);
    if (method !== 0) throw altered(name, `'${file}' is compressed; a bundle's zip is stored as it is (zip -0)`);
    if (flags & 1) throw altered(name, `'${file}' is encrypted`);
    members.set(file, { size: bytes, start: begins });
  }
  return members;
}

/** The size and the place of a member, of which large ones stand in an extra field. */
function sizes(entries: DataView, entry: number, extra: number, extraLength: number): [number, number] {
  let size = entries.getUint32(entry + 24, true);
  let packed = entries.getUint32(entry + 20, true);
  let start = entries.getUint32(entry + 42, true);
  for (let at = extra; at + 4 <= extra + extraLength; at += 4 + entries.getUint16(at + 2, true)) {
    if (entries.getUint16(at, true) !== 1) continue;
    let field = at + 4;
    const next = (): number => {
      const value = Number(entries.getBigUint64(field, true));
      field += 8;
      return value;
    };
    if (size === 0xffffffff) size = next();
    if (packed === 0xffffffff) packed = next();
    if (start === 0xffffffff) start = next();
  }
  return [size, start];
}
