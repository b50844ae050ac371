/** The page's end of the calls: a worker where it has WebGPU, else the page itself. */
import { CallError, type CallName, type Calls, type FromWorker, type ToWorker } from "./calls.js";

interface Waiting {
  onEvent(event: unknown): void;
  resolve(result: unknown): void;
  reject(error: CallError): void;
}

type Send = (message: ToWorker) => void;

export class Client {
  private readonly waiting = new Map<number, Waiting>();
  private lastId = 0;
  private readonly send: Promise<Send>;

  constructor() {
    this.send = this.start();
  }

  private start(): Promise<Send> {
    const worker = new Worker(new URL("../worker/main.ts", import.meta.url), { type: "module" });
    return new Promise((resolve, reject) => {
      worker.onerror = (event) => {
        reject(
          new CallError({
            kind: "failed",
            problem: event.message || "The worker did not start.",
            help: "reload the page",
          }),
        );
      };
      worker.onmessage = ({ data: hello }: MessageEvent<{ webgpu: boolean }>) => {
        // Some browsers have WebGPU in pages only; without any, the worker does what needs none.
        if (!hello.webgpu && "gpu" in navigator) {
          worker.terminate();
          resolve(this.startHere());
          return;
        }
        worker.onmessage = ({ data: message }: MessageEvent<FromWorker>) => this.receive(message);
        resolve((message) => worker.postMessage(message));
      };
    });
  }

  private async startHere(): Promise<Send> {
    const { serve } = await import("../worker/serve.js");
    const take = serve((message) => this.receive(message));
    return (message) => void take(message);
  }

  private receive(message: FromWorker): void {
    const waiting = this.waiting.get(message.id);
    if (!waiting) return;
    if ("event" in message) {
      waiting.onEvent(message.event);
      return;
    }
    this.waiting.delete(message.id);
    if ("result" in message) waiting.resolve(message.result);
    else waiting.reject(new CallError(message.trouble));
  }

  /** @throws {CallError} with what the other side says, `cancelled` after the signal */
  async call<K extends CallName>(
    call: K,
    request: Calls[K]["request"],
    o: { readonly onEvent?: (event: Calls[K]["event"]) => void; readonly signal?: AbortSignal } = {},
  ): Promise<Calls[K]["result"]> {
    const send = await this.send;
    const id = ++this.lastId;
    const answered = new Promise<unknown>((resolve, reject) => {
      const onEvent = (event: unknown) => o.onEvent?.(event as Calls[K]["event"]);
      this.waiting.set(id, { onEvent, resolve, reject });
    });
    // Whoever cancels need not wait for the tile in work.
    const cancel = () => {
      send({ id, cancel: true });
      this.receive({ id, trouble: { kind: "cancelled", problem: "Cancelled.", help: "" } });
    };
    send({ id, call, request } as ToWorker);
    if (o.signal?.aborted) cancel();
    o.signal?.addEventListener("abort", cancel);
    try {
      return (await answered) as Calls[K]["result"];
    } finally {
      o.signal?.removeEventListener("abort", cancel);
    }
  }
}
