/**
 * Half-precision storage: the text of a kernel some of whose buffers hold float16 instead of float32.
 *
 * Kernels are written for float32. Where a buffer that is bound holds halves, its declaration becomes `array<vec4h>` (or `vec2h`, `f16`),
 * what is read from it is widened at once, and what is written is rounded last:
 *
 *   x[i]          ->  vec4f(x[i])
 *   y[i] = v;     ->  y[i] = vec4h(v);
 *   y[i] += v;    ->  y[i] = vec4h(vec4f(y[i]) + (v));
 *
 * so a kernel computes in float32 in every form, which of its buffers are halves is the callers' affair (each combination is a
 * pipeline of its own), and with float32 alone the text is the one that the file shows. Rounding is to nearest even on the adapters
 * tried; what is beyond 65,504 becomes infinite, as loss scaling needs it.
 */

const WIDE = { vec4f: "vec4h", vec2f: "vec2h", f32: "f16" } as const;

interface HalfBuffer {
  readonly name: string;
  readonly wide: keyof typeof WIDE;
}

/** Position after the bracket that closes the one at `open`. */
function closing(text: string, open: number): number {
  let depth = 0;
  for (let i = open; i < text.length; i++) {
    if ("([".includes(text[i])) depth++;
    else if (")]".includes(text[i]) && --depth === 0) return i + 1;
  }
  throw new Error(`half storage: no bracket closes ${text.slice(open, open + 40)}`);
}

/** Comments would hide brackets and semicolons. */
const withoutComments = (source: string): string => source.replace(/\/\/[^\n]*/g, "").replace(/\/\*[^]*?\*\//g, "");

/** Rewrites every access to the buffers in a piece of the source; assignments end within it. */
function rewriteAccesses(text: string, buffers: ReadonlyMap<string, HalfBuffer>): string {
  const access = new RegExp(`(?<![\\w.])(${[...buffers.keys()].join("|")})\\[`, "g");
  let result = "";
  let at = 0;
  for (let match = access.exec(text); match; match = access.exec(text)) {
    const { name, wide } = buffers.get(match[1])!;
    const half = WIDE[wide];
    const after = closing(text, match.index + name.length);
    const index = rewriteAccesses(text.slice(match.index + name.length + 1, after - 1), buffers);
    result += text.slice(at, match.index);
    const assignment = /^\s*([-+*/]?)=(?!=)/.exec(text.slice(after));
    if (assignment) {
      const end = text.indexOf(";", after);
      const value = rewriteAccesses(text.slice(after + assignment[0].length, end).trim(), buffers);
      const [, operator] = assignment;
      const sum = operator ? `${wide}(${name}[${index}]) ${operator} (${value})` : value;
      result += `${name}[${index}] = ${half}(${sum})`;
      at = end;
    } else {
      // A lane of a vec4 that is written, or an operation on the buffer's address, has no such form.
      if (/^\s*(\.\w+|\[[^\]]*\])\s*[-+*/]?=(?!=)/.test(text.slice(after)))
        throw new Error(`half storage: ${name} is written by lanes`);
      result += `${wide}(${name}[${index}])`;
      at = after;
    }
    access.lastIndex = at;
  }
  return result + text.slice(at);
}

/**
 * The source with halves in the buffers of these `@binding` numbers; directives are the caller's.
 * @throws {Error} when a binding is not declared as `array<vec4f>`, `array<vec2f>` or `array<f32>`, or is used otherwise than above: a fault of the
 * kernel, or of who bound it
 */
export function withHalfBindings(source: string, bindings: readonly number[]): string {
  if (bindings.length === 0) return source;
  const buffers = new Map<string, HalfBuffer>();
  let text = withoutComments(source);
  for (const binding of bindings) {
    const declaration = new RegExp(
      `(@binding\\(${binding}\\)\\s*var<storage,\\s*\\w+>\\s*(\\w+)\\s*:\\s*array<)(vec4f|vec2f|f32)(>;)`,
    );
    const found = declaration.exec(text);
    if (!found) throw new Error(`half storage: binding ${binding} is no array of vec4f, vec2f or f32`);
    const [, , name] = found;
    const wide = found[3] as keyof typeof WIDE;
    buffers.set(name, { name, wide });
    text = text.replace(declaration, `$1${WIDE[wide]}$4`);
    if (new RegExp(`[(,]\\s*&${name}\\b`).test(text)) throw new Error(`half storage: the address of ${name} is taken`);
  }
  return rewriteAccesses(text, buffers);
}
