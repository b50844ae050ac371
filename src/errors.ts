/**
 * The one error style of this library: `where: expected what, got what`, and a `help:` line that says how to mend it.
 *
 * {@link UserError} means that the input is wrong (commands exit with 2 and print these two lines, no stack trace);
 * every other error is a fault of ours (commands exit with 1).
 */
export class UserError extends Error {
  override readonly name: string = "UserError";

  constructor(
    /** Function, option or file that refused the input. */
    readonly where: string,
    /** `expected X, got Y`, or what happened when there is no such pair. */
    readonly problem: string,
    /** What to do about it, in the imperative. */
    readonly help: string,
    options?: ErrorOptions,
  ) {
    super(`${where}: ${problem}\nhelp: ${help}`, options);
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
