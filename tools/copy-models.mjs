// Copies the weights that come with the package beside the compiled sources, where src/io/defaultWeights.ts looks for them.
import { cpSync } from "node:fs";

cpSync(new URL("../models", import.meta.url), new URL("../dist/models", import.meta.url), { recursive: true });
