/**
 * As much of vitest as the kernels' tests use, for a page: they run in a browser as they are, with this in vitest's place. A matcher
 * that is not here fails the test that asks for it.
 */
type Run = (...row: never[]) => unknown;

interface Case {
  readonly name: string;
  readonly run: () => unknown;
}

/** What the test file that was imported last has asked for. */
export const registered: { cases: Case[]; before: Run[]; after: Run[] } = { cases: [], before: [], after: [] };

const titles: string[] = [];

export const beforeAll = (run: Run): number => registered.before.push(run);
export const afterAll = (run: Run): number => registered.after.push(run);

/** A title with its placeholders filled: %s and the like in turn, $name from the row. */
function title(text: string, row: readonly unknown[]): string {
  let next = 0;
  const named = text.replace(/\$(\w+)/g, (_, key: string) => String((row[0] as Record<string, unknown>)[key]));
  return named.replace(/%[sijfd]/g, () => {
    const value = row[next++];
    return typeof value === "string" ? value : JSON.stringify(value);
  });
}

/** `each(rows)(title, run)`: an array is spread over the arguments. */
const each =
  (add: (name: string, run: Run) => void) =>
  (rows: readonly unknown[]) =>
  (text: string, run: Run): void => {
    for (const row of rows) {
      const values = (Array.isArray(row) ? row : [row]) as never[];
      add(title(text, values), () => run(...values));
    }
  };

function addGroup(name: string, run: Run): void {
  titles.push(name);
  run();
  titles.pop();
}

const addCase = (name: string, run: Run): void => {
  registered.cases.push({ name: [...titles, name].join(" > "), run: () => run() });
};

export const describe = Object.assign(addGroup, { each: each(addGroup) });
export const it = Object.assign(addCase, { each: each(addCase) });

const show = (value: unknown): string => JSON.stringify(value, (_, v: unknown) => (ArrayBuffer.isView(v) ? Array.from(v as never) : v)) ?? String(value); // prettier-ignore

function check(holds: boolean, actual: unknown, what: string): void {
  if (!holds) throw new Error(`expected ${show(actual)} ${what}`);
}

export function expect(actual: unknown) {
  return {
    toBe: (want: unknown) => check(Object.is(actual, want), actual, `to be ${show(want)}`),
    toBeNull: () => check(actual === null, actual, "to be null"),
    toBeGreaterThanOrEqual: (least: number) => check((actual as number) >= least, actual, `to be at least ${least}`),
    toBeLessThan: (limit: number) => check((actual as number) < limit, actual, `to be below ${limit}`),
    toBeCloseTo: (want: number, digits = 2) =>
      check(Math.abs((actual as number) - want) < 10 ** -digits / 2, actual, `to be close to ${want}`),
    toContain: (want: unknown) => check((actual as unknown[]).includes(want), actual, `to contain ${show(want)}`),
    toEqual: (want: unknown) => check(show(actual) === show(want), actual, `to equal ${show(want)}`),
    toThrow: (want: string | RegExp | (new (...args: never[]) => Error)) => {
      let thrown: unknown;
      try {
        (actual as () => unknown)();
      } catch (error) {
        thrown = error;
      }
      const text = String(thrown);
      const fits =
        typeof want === "string"
          ? text.includes(want)
          : want instanceof RegExp
            ? want.test(text)
            : thrown instanceof want;
      check(thrown !== undefined && fits, thrown, `to be an error like ${String(want)}`);
    },
  };
}
