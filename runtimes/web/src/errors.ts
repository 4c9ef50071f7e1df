/** What can go wrong, in words a user can act on, with the exit codes of the Python runtime. */

/** Something a user can mend. A bug stays its own exception. */
export class SatchelError extends Error {
  readonly exitCode: number = 1;
  readonly what: string;
  readonly why: string;
  readonly fix: string;

  constructor(what: string, { why, fix }: { why: string; fix: string }) {
    super(`${what}\n  why: ${why}\n  fix: ${fix}`);
    this.what = what;
    this.why = why;
    this.fix = fix;
  }

  /** The name that the Python runtime has for the kind; minifiers shorten those of classes. */
  get kind(): string {
    return "SatchelError";
  }

  override get name(): string {
    return this.kind;
  }

  /** As JSON and a worker's messages carry it. */
  toPlain(): PlainError {
    return { kind: this.kind, code: this.exitCode, what: this.what, why: this.why, fix: this.fix };
  }
}

export interface PlainError {
  kind: string;
  code: number;
  what: string;
  why: string;
  fix: string;
}

/** A bad option, an unknown name, or an input of the wrong type. */
export class UsageError extends SatchelError {
  override readonly exitCode = 2;
  override get kind(): string {
    return "UsageError";
  }
}

/** The artifact answers further from the reference than its class allows. */
export class ParityError extends SatchelError {
  override readonly exitCode = 10;
  override get kind(): string {
    return "ParityError";
  }
}

/** More memory than the device has. */
export class SizeError extends SatchelError {
  override readonly exitCode = 13;
  override get kind(): string {
    return "SizeError";
  }
}

/** A task, operator, dtype or opset that the engine here cannot run. */
export class SupportError extends SatchelError {
  override readonly exitCode = 14;
  override get kind(): string {
    return "SupportError";
  }
}

/** A package that is missing or of a wrong version. */
export class ToolchainError extends SatchelError {
  override readonly exitCode = 15;
  override get kind(): string {
    return "ToolchainError";
  }
}

/** A hash or schema mismatch, or a path that leaves the bundle. */
export class IntegrityError extends SatchelError {
  override readonly exitCode = 16;
  override get kind(): string {
    return "IntegrityError";
  }
}

/** A value as messages show it: short, and quoted where it is a string. */
export function shown(value: unknown): string {
  if (typeof value === "string") return `'${value}'`;
  if (value === null || value === undefined) return "None";
  try {
    return JSON.stringify(value) ?? String(value);
  } catch {
    return String(value);
  }
}

/** The error for a name that nothing has. */
export function unknownName(kind: string, name: string, known: readonly string[]): UsageError {
  return new UsageError(`Cannot find the ${kind} '${name}'.`, {
    why: `this runtime knows ${known.join(", ")}`,
    fix: "name one of these",
  });
}
