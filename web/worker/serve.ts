/** Takes messages in and gives messages out, whatever carries them. */
import type { CallName, FromWorker, ToWorker } from "../app/calls.js";
import { Engine, troubleOf } from "./engine.js";

/** Memory that a message hands over instead of copying it: pixels, which nobody here needs any more. */
function handedOver(result: unknown): Transferable[] {
  const picture = (result as { picture?: { rgba?: Uint8ClampedArray<ArrayBuffer> } } | null)?.picture;
  return picture?.rgba ? [picture.rgba.buffer] : [];
}

/** Returns what takes a message; answers go to `post`. */
export function serve(
  post: (message: FromWorker, transfer: Transferable[]) => void,
): (message: ToWorker) => Promise<void> {
  const engine = new Engine();
  const running = new Map<number, AbortController>();

  const answer = async <K extends CallName>(id: number, call: K, request: unknown): Promise<void> => {
    const controller = new AbortController();
    running.set(id, controller);
    // The union of calls has lost which request belongs to which name; ToWorker guarantees it.
    const handler = engine.handlers[call] as (
      request: unknown,
      post: (event: unknown) => void,
      signal: AbortSignal,
    ) => Promise<unknown>;
    try {
      const result = await handler(request, (event) => post({ id, event }, []), controller.signal);
      post({ id, result }, handedOver(result));
    } catch (error) {
      const trouble = troubleOf(error, controller.signal);
      if (trouble.kind === "failed") console.error(error);
      post({ id, trouble }, []);
    } finally {
      running.delete(id);
    }
  };

  return async (message) => {
    if ("cancel" in message) running.get(message.id)?.abort();
    else await answer(message.id, message.call, message.request);
  };
}
