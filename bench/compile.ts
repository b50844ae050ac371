/** Pipeline compile times, cold. */
import { fork } from "node:child_process";
import { fileURLToPath } from "node:url";
import { GpuError } from "../src/errors.js";
import type { CompileTime } from "./compileProgram.js";

export type { CompileTime };

/** What switches the disk caches of Mesa and of NVIDIA's driver off. */
const COLD = { MESA_SHADER_CACHE_DISABLE: "true", __GL_SHADER_DISK_CACHE: "0" };

/**
 * Measures them in a process of their own.
 * @param each gets every case as soon as it is known
 * @throws {GpuError} when that process fails
 */
export async function compileTimes(each: (time: CompileTime) => void): Promise<void> {
  const child = fork(fileURLToPath(new URL("compileProgram.js", import.meta.url)), [], {
    env: { ...process.env, ...COLD },
    stdio: ["ignore", "ignore", "pipe", "ipc"],
  });
  let stderr = "";
  child.stderr!.on("data", (text) => (stderr = `${stderr}${text}`.slice(-2000)));
  child.on("message", (message) => each(message as CompileTime));
  const code = await new Promise<number | null>((resolve, reject) => child.once("error", reject).once("exit", resolve));
  if (code === 0) return;
  throw new GpuError("--compile", `its process ended with status ${code}: ${stderr.trim()}`, "run `pconv doctor`");
}
