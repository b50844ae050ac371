/** Puts the page together. */
import type { Trouble } from "./app/calls.js";
import { Client } from "./app/client.js";
import { LevelsView } from "./explain/levels.js";
import { TrainingView } from "./explain/training.js";
import { button, byId } from "./ui/dom.js";
import { Editor } from "./ui/editor.js";

function guide(title: string, why: string): void {
  byId("guidance", HTMLElement).hidden = false;
  byId("guidance-title", HTMLElement).textContent = title;
  byId("guidance-why", HTMLElement).textContent = why;
  byId("adapter", HTMLElement).textContent = "GPU: none";
  button("train").disabled = true;
}

const NO_ADAPTER = "This browser has WebGPU, but no GPU for it";

/** Says what is missing before the visitor puts work into a mask. */
async function checkGpu(): Promise<void> {
  if (!window.isSecureContext) {
    const why = "Browsers give pages the GPU only over https or from localhost, and this page came otherwise.";
    guide("This page may not use the GPU", why);
  } else if (!("gpu" in navigator)) {
    const why = "Filling needs it: the network runs on your GPU, and nowhere else. These browsers have it:";
    guide("This browser has no WebGPU", why);
  } else if (!(await navigator.gpu.requestAdapter())) {
    const why =
      "Hardware acceleration may be off in its settings, or the graphics driver too old. What is known to work:";
    guide(NO_ADAPTER, why);
  }
}

const client = new Client();
const levels = new LevelsView(client);
const editor = new Editor(client, {
  mask: (mask) => levels.show(mask),
  adapter: (name) => (byId("adapter", HTMLElement).textContent = `GPU: ${name}`),
  noGpu: ({ problem }: Trouble) => guide(NO_ADAPTER, `${problem}. What is known to work:`),
});
new TrainingView(client, () => editor.picture);

void checkGpu();
