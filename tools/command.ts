/** What all commands share: error output, exit codes, parsing of option values. */
import { setTimeout as sleep } from "node:timers/promises";
import { type Command, CommanderError, InvalidArgumentError } from "commander";
import { UserError } from "../src/errors.js";
import { launchOf } from "../src/io/mpi/launcher.js";

/** This process ends without a word, because another one of the same MPI job says what is wrong. */
export class EndedElsewhere extends Error {
  constructor(
    /** Of the process that says it. */
    readonly exitCode: number,
  ) {
    super(`another process ended with ${exitCode}`);
  }
}

/** How long other ranks wait with their message, in milliseconds. */
const TURN_MS = 1500;

/**
 * Waits before an error is printed that most likely every process of an MPI job has met: when the first one ends with it, the
 * launcher ends the others before they say it again.
 */
export async function inTurn(): Promise<void> {
  if ((launchOf()?.rank ?? 0) > 0) await sleep(TURN_MS);
}

/** What shells report for a program that wrote to a pipe nobody reads any more: 128 plus SIGPIPE's 13. */
const CLOSED_PIPE = 141;

/**
 * Runs a command. Wrong input prints its two lines and exits with 2, an internal fault exits with 1; `--debug` shows the
 * stack. A reader of the output that goes away (`| head`) ends the command quietly.
 */
export async function runCommand(command: Command, argv: readonly string[] = process.argv): Promise<void> {
  for (const c of [command, ...command.commands]) {
    // Commander's own messages are printed below, in this library's form.
    c.exitOverride()
      .showHelpAfterError(false)
      .configureOutput({ outputError: () => undefined });
  }
  for (const stream of [process.stdout, process.stderr]) stream.on("error", onStreamError);
  try {
    await command.parseAsync([...argv]);
  } catch (error) {
    if (error instanceof CommanderError) {
      process.exitCode = error.exitCode === 0 ? 0 : 2;
      // For --help, --version, and a missing subcommand it has printed what there is to say.
      // Of the processes of an MPI job, which all have the same command line, the first one speaks.
      const quiet = error.exitCode === 0 || error.code === "commander.help" || (launchOf()?.rank ?? 0) > 0;
      if (!quiet) console.error(usageError(command, argv, error).message);
    } else process.exitCode = printError(error);
  }
}

/** The exit status of a failure: 2 for wrong input, 1 for an internal fault, or what another process has given. */
export function exitCodeOf(error: unknown): number {
  if (error instanceof EndedElsewhere) return error.exitCode;
  return error instanceof UserError ? 2 : 1;
}

/** Says what went wrong, unless another process does. @returns the exit status */
export function printError(error: unknown): number {
  const debug = process.argv.includes("--debug");
  if (error instanceof UserError) console.error(debug ? error.stack : error.message);
  else if (!(error instanceof EndedElsewhere)) {
    const text = error instanceof Error ? (debug ? error.stack : error.message) : String(error);
    console.error(`internal fault: ${text}\nhelp: run again with --debug and report what it prints`);
  }
  return exitCodeOf(error);
}

/** A terminal that is closed gives EIO. */
function onStreamError(error: NodeJS.ErrnoException): void {
  if (error.code !== "EPIPE" && error.code !== "EIO") throw error;
  // Node ignores the signal itself, so that a command which must tidy up can learn of it in this way.
  if (!process.emit("SIGPIPE", "SIGPIPE")) process.exit(CLOSED_PIPE);
}

/** One of commander's complaints about the command line in this library's words. */
function usageError(command: Command, argv: readonly string[], error: CommanderError): UserError {
  const sub = command.commands.find((c) => c.name() === argv[2] || c.aliases().includes(argv[2]));
  const called = sub ? `${command.name()} ${sub.name()}` : command.name();
  const help = `see ${called} --help`;
  const message = error.message.replace(/^error: /, "");
  const quoted = [...message.matchAll(/'([^']*)'/g)].map((match) => match[1]);
  // `-o, --out <dir>`: the long name is the one that people look up.
  const option = /--[\w-]+/.exec(quoted[0] ?? "")?.[0] ?? quoted[0] ?? called;
  const guess = /\(Did you mean (.*?)\?\)/s.exec(message)?.[1];
  const perhaps = guess === undefined ? help : `perhaps ${guess} is meant; ${help}`;
  switch (error.code) {
    case "commander.invalidArgument": {
      // Of an argument without an option's name: command-argument value '' is invalid for argument 'in'. Why
      const [, argument, whyNot] = /^command-argument value .* argument '(.*?)'\. (.*)$/s.exec(message) ?? [];
      if (argument !== undefined) return new UserError(`<${argument}>`, whyNot, help);
      const [, got, why] = /argument '(.*)' is invalid\. (.*)$/s.exec(message) ?? ["", "", message];
      const choices = /^Allowed choices are (.*)\.$/s.exec(why)?.[1];
      return new UserError(option, choices === undefined ? why : `expected one of ${choices}, got ${got}`, help);
    }
    case "commander.optionMissingArgument":
      return new UserError(option, "expected a value after it, got none", help);
    case "commander.missingMandatoryOptionValue":
      return new UserError(option, "expected this option, got none", help);
    case "commander.missingArgument":
      return new UserError(called, `expected <${quoted[0]}>, got none`, help);
    case "commander.unknownOption":
      return new UserError(option, `expected an option of ${called}, got an unknown one`, perhaps);
    case "commander.unknownCommand":
      return new UserError(option, `expected a command of ${called}, got an unknown one`, perhaps);
    case "commander.excessArguments": {
      const [, expected, got] = /Expected (\d+) arguments? but got (\d+)/.exec(message) ?? ["", "fewer", "more"];
      return new UserError(called, `expected ${expected} arguments without an option's name, got ${got}`, help);
    }
    default:
      return new UserError(called, message, help);
  }
}

/** An option value that is a path: an unset shell variable must not become the working folder, or a message without a name. */
export function path(text: string): string {
  if (text === "") throw new InvalidArgumentError("expected a path, got an empty text");
  return text;
}

/** The same of an argument that may be given several times. */
export const paths = (text: string, before: readonly string[] = []): string[] => [...before, path(text)];

/** An option value that must be an integer from `min` to `max`. */
export const integer =
  (min: number, max = Number.MAX_SAFE_INTEGER) =>
  (text: string): number => {
    const value = Number(text);
    if (!/^[+-]?\d+$/.test(text.trim()) || !Number.isSafeInteger(value) || value < min || value > max) {
      const upTo = max === Number.MAX_SAFE_INTEGER ? `of at least ${min}` : `from ${min} to ${max}`;
      throw new InvalidArgumentError(`expected an integer ${upTo}, got ${text}`);
    }
    return value;
  };

/** An option value that must be a number above `min`, and no more than `max`. */
export const above =
  (min: number, max = Number.MAX_VALUE) =>
  (text: string): number => {
    const value = Number(text);
    if (text.trim() === "" || !Number.isFinite(value) || value <= min || value > max) {
      const upTo = max === Number.MAX_VALUE ? "" : ` and up to ${max}`;
      throw new InvalidArgumentError(`expected a number above ${min}${upTo}, got ${text}`);
    }
    return value;
  };
