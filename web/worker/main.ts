/** The worker's entry. */
import type { ToWorker } from "../app/calls.js";
import { serve } from "./serve.js";

const take = serve((message, transfer) => self.postMessage(message, { transfer }));
self.addEventListener("message", (event: MessageEvent<ToWorker>) => void take(event.data));
self.postMessage({ webgpu: "gpu" in navigator });
