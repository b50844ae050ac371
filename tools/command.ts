/** What all commands share: error output, exit codes, parsing of option values. */
import { type Command, CommanderError, InvalidArgumentError } from "commander";
import { UserError } from "../src/errors.js";

/**
 * Runs a command. Wrong input prints its two lines and exits with 2, an internal fault exits with 1; `--debug` shows the stack.
 */
export async function runCommand(command: Command, argv: readonly string[] = process.argv): Promise<void> {
  const debug = argv.includes("--debug");
  for (const c of [command, ...command.commands]) c.exitOverride();
  try {
    await command.parseAsync([...argv]);
  } catch (error) {
    if (error instanceof CommanderError) {
      process.exitCode = error.exitCode === 0 ? 0 : 2; // commander has printed its message, or the help
    } else if (error instanceof UserError) {
      console.error(debug ? error.stack : error.message);
      process.exitCode = 2;
    } else {
      const text = error instanceof Error ? (debug ? error.stack : error.message) : String(error);
      console.error(`internal fault: ${text}\nhelp: run again with --debug and report what it prints`);
      process.exitCode = 1;
    }
  }
}

/** An option value that must be an integer of at least `min`. */
export const integer =
  (min: number) =>
  (text: string): number => {
    const value = Number(text);
    if (!/^[+-]?\d+$/.test(text.trim()) || !Number.isSafeInteger(value) || value < min) {
      throw new InvalidArgumentError(`expected an integer of at least ${min}, got ${text}`);
    }
    return value;
  };

/** An option value that must be a number above `min`. */
export const above =
  (min: number) =>
  (text: string): number => {
    const value = Number(text);
    if (text.trim() === "" || !Number.isFinite(value) || value <= min) {
      throw new InvalidArgumentError(`expected a number above ${min}, got ${text}`);
    }
    return value;
  };
