/** Puts the page together. */
import type { Trouble } from "./app/calls.js";
import { Client } from "./app/client.js";
import { LevelsView } from "./explain/levels.js";
import { TrainingView } from "./explain/training.js";
import { button, byId } from "./ui/dom.js";
import { Editor } from "./ui/editor.js";

function guide(why: string): void {
  byId("guidance", HTMLElement).hidden = false;
  byId("guidance-why", HTMLElement).textContent = why;
  byId("adapter", HTMLElement).textContent = "GPU: none";
  button("train").disabled = true;
}

const client = new Client();
const levels = new LevelsView(client);
const editor = new Editor(client, {
  mask: (mask) => levels.show(mask),
  adapter: (name) => (byId("adapter", HTMLElement).textContent = `GPU: ${name}`),
  noGpu: ({ problem }: Trouble) => guide(`${problem}.`),
});
new TrainingView(client, () => editor.picture);

if (!window.isSecureContext)
  guide("Browsers give pages the GPU only over https or from localhost, and this page came otherwise.");
else if (!("gpu" in navigator)) guide("Filling needs it: the network runs on your GPU, and nowhere else.");
