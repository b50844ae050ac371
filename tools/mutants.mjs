#!/usr/bin/env node
/**
 * Tests the tests: makes one deliberate mistake at a time in a copy of the tree, and demands that the tests see it.
 *
 *   npm run mutants -- [--list] [--only TEXT] [--full] [--jobs N]
 *
 * The working tree is never touched. A mutant counts as killed when a test that passes on the unmutated copy fails by an
 * assertion or an error of its own; a file that cannot be loaded or WGSL that does not compile is no kill.
 * Exits 1 if a mutant survives or proves nothing, 2 if the list no longer fits the sources.
 */
import { execFileSync, spawn } from "node:child_process";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { MUTANTS } from "./mutants.list.mjs";

const ROOT = fileURLToPath(new URL("..", import.meta.url));

/** Ends the program the way the commands do: what was wrong, and what helps. */
function refuse(message, help) {
  console.error(`mutants: ${message}\nhelp: ${help}`);
  process.exit(2);
}

function options() {
  try {
    const { values } = parseArgs({
      options: {
        only: { type: "string" },
        list: { type: "boolean", default: false },
        full: { type: "boolean", default: false },
        jobs: { type: "string", default: "2" },
        help: { type: "boolean", default: false },
      },
    });
    return values;
  } catch (error) {
    return refuse(error.message, "npm run mutants -- --help");
  }
}

const USAGE = `Makes deliberate mistakes in a copy of the sources; each must make a test fail.

  npm run mutants -- [options]

  --list        print the mutants and end
  --only TEXT   only mutants whose name or file contains TEXT
  --full        run every test for each mutant, not just the files that must catch it
  --jobs N      mutants tested at the same time (default 2)`;

/** The mutated text of a file. Ends the program when the list is stale. */
function mutate(mutant, text) {
  const found = text.split(mutant.find).length - 1;
  if (found !== 1) {
    const what = `expected the text of "${mutant.name}" once in ${mutant.file}, got it ${found} times:\n  ${mutant.find}`;
    refuse(what, "the list is stale: bring tools/mutants.list.mjs up to date with the sources");
  }
  return text.replace(mutant.find, () => mutant.replace);
}

const testFile = (name) => `test/${name.includes("/") ? name : `gpu/${name}`}.test.ts`;

/** A copy of everything that git tracks or would track, with the installed packages linked. */
function copyTree(to) {
  const listing = execFileSync("git", ["ls-files", "-z", "--cached", "--others", "--exclude-standard"], { cwd: ROOT });
  for (const file of listing.toString().split("\0")) {
    if (file === "" || file === "node_modules" || !existsSync(join(ROOT, file))) continue; // deleted but still tracked
    mkdirSync(dirname(join(to, file)), { recursive: true });
    cpSync(join(ROOT, file), join(to, file));
  }
  symlinkSync(join(ROOT, "node_modules"), join(to, "node_modules"), "junction");
}

const running = new Set();

/** A regular expression for the text itself. */
const literal = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");

/**
 * Runs vitest in a copy on some files (all of them for an empty list), or on the tests with `only` in their names.
 * @returns what passed and failed, and what it printed
 */
function runTests(folder, files, only) {
  const report = join(folder, "mutants-report.json");
  rmSync(report, { force: true });
  const vitest = join(ROOT, "node_modules", "vitest", "vitest.mjs");
  const args = [vitest, "run", ...files, "--bail", "1", "--reporter", "json", "--outputFile", report];
  if (only !== undefined) args.push("-t", literal(only));
  const child = spawn(process.execPath, args, { cwd: folder, stdio: ["ignore", "pipe", "pipe"] });
  running.add(child);
  let output = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (chunk) => (output += chunk));
  return new Promise((resolve) => {
    child.on("close", (code) => {
      running.delete(child);
      const suites = existsSync(report) ? JSON.parse(readFileSync(report, "utf8")).testResults : [];
      const failures = suites.flatMap((suite) =>
        suite.assertionResults
          .filter((test) => test.status === "failed")
          .map((test) => ({ file: suite.name, test: test.fullName.trim(), message: test.failureMessages.join("\n") })),
      );
      const passed = suites.flatMap((s) => s.assertionResults).filter((test) => test.status === "passed").length;
      resolve({ code, failures, passed, output });
    });
  });
}

/** What a run says of a mutant. */
function verdict({ code, failures, output }) {
  if (code === 0) return { killed: false, text: "SURVIVED" };
  const [first] = failures;
  if (!first) return { killed: false, text: `PROVES NOTHING: no test ran to a failure\n${output.trim().slice(-1500)}` };
  if (/WGSL|ShaderModule/.test(first.message))
    return { killed: false, text: `PROVES NOTHING: ${first.message.slice(0, 300)}` };
  const file = first.file.replaceAll("\\", "/").split("/test/").pop();
  return { killed: true, text: `killed by ${file}: ${first.test}` };
}

const seconds = (ms) => `${Math.round(ms / 1000)} s`;

async function main() {
  const given = options();
  if (given.help) return console.log(USAGE);
  const jobs = Number(given.jobs);
  if (!Number.isInteger(jobs) || jobs < 1)
    refuse(`--jobs: expected a positive integer, got ${given.jobs}`, "npm run mutants -- --jobs 1");
  const wanted = MUTANTS.filter((m) => !given.only || m.name.includes(given.only) || m.file.includes(given.only));
  if (wanted.length === 0)
    refuse(`--only: expected a part of a mutant's name or file, got ${given.only}`, "npm run mutants -- --list");
  if (given.list) {
    for (const m of wanted) console.log(`${m.name}\n  ${m.file}: ${m.why}; ${m.tests.join(", ")}`);
    return console.log(`${wanted.length} mutants`);
  }
  const names = new Set(wanted.map((m) => m.name));
  if (names.size !== wanted.length) refuse("two mutants have one name", "give each its own");

  const home = mkdtempSync(join(tmpdir(), "pconv-mutants-"));
  process.on("exit", () => rmSync(home, { recursive: true, force: true }));
  for (const signal of ["SIGINT", "SIGTERM"]) {
    process.on(signal, () => {
      for (const child of running) child.kill();
      process.exit(130);
    });
  }
  const folders = Array.from({ length: Math.min(jobs, wanted.length) }, (_, i) => join(home, String(i)));
  for (const folder of folders) copyTree(folder);
  // All of them before the first run: a stale list is known at once. The copy is read, as the tree may change meanwhile.
  const mutated = wanted.map((m) => ({ ...m, text: mutate(m, readFileSync(join(folders[0], m.file), "utf8")) }));
  for (const m of wanted) {
    const missing = m.tests.find((name) => !existsSync(join(folders[0], testFile(name))));
    if (missing)
      refuse(`"${m.name}" names ${testFile(missing)}, which is missing`, "bring tools/mutants.list.mjs up to date");
  }

  const started = Date.now();
  // Files that read the build need one: as `npm test` does, only for all tests.
  if (given.full) {
    for (const cwd of folders) execFileSync(process.execPath, [join(ROOT, "node_modules/typescript/bin/tsc"), "-p", "tsconfig.build.json"], { cwd, stdio: "inherit" }); // prettier-ignore
  }
  const files = (m) => (given.full ? [] : m.tests.map(testFile));
  const only = (m) => (given.full ? undefined : m.only);
  const whole = new Set(wanted.filter((m) => only(m) === undefined).flatMap(files));
  const parts = new Map(wanted.filter((m) => only(m) !== undefined).map((m) => [`${files(m)} ${m.only}`, m]));
  console.log(
    `testing the unmutated copy: ${given.full ? "all tests" : `${whole.size} files, parts of ${parts.size}`}`,
  );
  const runs = [...(given.full || whole.size > 0 ? [{ files: [...whole] }] : [])];
  for (const m of parts.values()) runs.push({ files: files(m), only: m.only });
  let passed = 0;
  for (const run of runs) {
    const clean = await runTests(folders[0], run.files, run.only);
    if (clean.code !== 0 || clean.passed === 0) {
      const [first] = clean.failures;
      const what = first ? `${first.file}: ${first.test}\n${first.message}` : clean.output.slice(-3000);
      refuse(`expected the unmutated tests to pass, got\n${what}`, "mend the tests first: npm test");
    }
    passed += clean.passed;
  }
  console.log(`unmutated: ${passed} tests pass (${seconds(Date.now() - started)})`);

  const mutantsStarted = Date.now();
  let next = 0;
  let done = 0;
  const survivors = [];
  const worker = async (folder) => {
    for (let i = next++; i < mutated.length; i = next++) {
      const m = mutated[i];
      const path = join(folder, m.file);
      const original = readFileSync(path, "utf8");
      writeFileSync(path, m.text);
      const { killed, text } = verdict(await runTests(folder, files(m), only(m)));
      writeFileSync(path, original);
      done++;
      if (!killed) survivors.push(m.name);
      const left = ((Date.now() - mutantsStarted) / done) * (mutated.length - done);
      console.log(`[${done}/${mutated.length}, ${seconds(left)} left] ${m.name}: ${text}`);
    }
  };
  await Promise.all(folders.map(worker));
  console.log(
    `${mutated.length - survivors.length} killed, ${survivors.length} not, in ${seconds(Date.now() - started)}`,
  );
  if (survivors.length > 0) {
    console.log(`not killed: ${survivors.join("; ")}`);
    process.exitCode = 1;
  }
}

await main();
