/**
 * Control characters (C0, DEL, C1), and what reorders or hides text: in a file name or a name in a file they could
 * move a terminal's cursor, colour it, or make a message read as another one.
 */
const UNPRINTABLE = /[\p{Cc}\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]/gu;

/** Text that others wrote (file names, names in files, servers' words), fit for a terminal: one line, nothing hidden. */
export function printable(text: string): string {
  return text.replace(UNPRINTABLE, (c) => (c === "\n" ? "\\n" : `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`));
}

/**
 * The one error style of this library: `where: expected what, got what`, and a `help:` line that says how to mend it.
 *
 * {@link UserError} means that the input is wrong (commands exit with 2 and print these two lines, no stack trace);
 * every other error is a fault of ours (commands exit with 1).
 */
export class UserError extends Error {
  override readonly name: string = "UserError";

  /** Function, option or file that refused the input. */
  readonly where: string;
  /** `expected X, got Y`, or what happened when there is no such pair. */
  readonly problem: string;
  /** What to do about it, in the imperative. */
  readonly help: string;

  /** Any of the texts may quote a hostile file: they are kept as {@link printable} makes them, so the message is two lines. */
  constructor(where: string, problem: string, help: string, options?: ErrorOptions) {
    const [w, p, h] = [where, problem, help].map(printable);
    super(`${w}: ${p}\nhelp: ${h}`, options);
    this.where = w;
    this.problem = p;
    this.help = h;
  }
}

/** A tensor, mask or image whose sizes do not fit the operation. */
export class ShapeError extends UserError {
  override readonly name = "ShapeError";
}

/** A file that cannot be read as what it claims to be; nothing of it was used. */
export class FormatError extends UserError {
  override readonly name = "FormatError";
}

/** No adapter, a lost device, an allocation that the adapter refuses, or a kernel that does not compile. */
export class GpuError extends UserError {
  override readonly name = "GpuError";
}
