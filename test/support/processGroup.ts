/** Ranks in one process that meet in promises, and trainers on them: each with a device of its own, as under MPI. */
import type { Gpu } from "../../src/gpu/gpu.js";
import { openGpu } from "../../src/gpu/node.js";
import type { ProcessGroup } from "../../src/optim/processGroup.js";

/** One call of all ranks. */
interface Meeting {
  readonly what: string;
  readonly came: (Uint8Array | Float32Array)[];
  readonly over: Promise<void>;
  readonly end: () => void;
}

/** Every rank's nth call must be the same one: another kind, length or root is a fault and throws on all ranks. */
class Room {
  private readonly meetings = new Map<number, Meeting>();
  private readonly calls: number[];

  constructor(private readonly size: number) {
    this.calls = new Array<number>(size).fill(0);
  }

  async meet(rank: number, what: string, values: Uint8Array | Float32Array, join: (all: Meeting["came"]) => void) {
    const index = this.calls[rank]++;
    const meeting = this.meetings.get(index) ?? Room.open(what);
    this.meetings.set(index, meeting);
    if (meeting.what !== what) throw new Error(`call ${index}: rank ${rank} does ${what}, others ${meeting.what}`);
    meeting.came[rank] = values;
    if (Object.keys(meeting.came).length === this.size) {
      join(meeting.came);
      this.meetings.delete(index);
      // Later than the others' next calls, some of the time: nobody may rely on an answer at once.
      setTimeout(meeting.end, index % 3);
    }
    await meeting.over;
  }

  private static open(what: string): Meeting {
    let end!: () => void;
    const over = new Promise<void>((resolve) => (end = resolve));
    return { what, came: [], over, end };
  }
}

/** Sums in float64 and in the order of the ranks, as exact as can be and equal on all of them. */
function sumAll(all: readonly ArrayLike<number>[]): void {
  for (let i = 0; i < all[0].length; i++) {
    let sum = 0;
    for (const values of all) sum += values[i];
    for (const values of all) (values as Float32Array)[i] = sum;
  }
}

/** The group as each of `size` ranks sees it. */
export function localGroup(size: number): ProcessGroup[] {
  const room = new Room(size);
  return Array.from({ length: size }, (_, rank) => ({
    rank,
    size,
    allReduce: (values) => room.meet(rank, `allReduce of ${values.length}`, values, sumAll),
    broadcast: (bytes, root) =>
      room.meet(rank, `broadcast of ${bytes.length} from ${root}`, bytes, (all) => {
        all.forEach((to, r) => r !== root && to.set(all[root]));
      }),
    barrier: () => room.meet(rank, "barrier", new Uint8Array(0), () => undefined),
  }));
}

/** Opens devices as they are asked for, and closes them all. */
export class Devices {
  private readonly open: Promise<Gpu>[] = [];

  get(index: number): Promise<Gpu> {
    while (this.open.length <= index) this.open.push(openGpu());
    return this.open[index];
  }

  async close(): Promise<void> {
    for (const gpu of await Promise.all(this.open)) gpu.close();
  }
}
