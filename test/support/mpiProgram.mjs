// What test/e2e/mpi.test.ts runs on several ranks: sums, broadcasts and their order, in messages that are cut. A line of JSON a rank.
import { MpiGroup } from "../../dist/src/io/mpi/group.js";

const group = await MpiGroup.join({ chunk: 1000 });
const { rank, size } = group;
const sum = Float32Array.from({ length: 2500 }, (_, i) => i * (rank + 1));
const part = new Float32Array(10).fill(1);
const bytes = Uint8Array.from({ length: 2501 }, (_, i) => (rank === size - 1 ? i % 251 : 0));
let ticks = 0;
const timer = setInterval(() => ticks++, 1);
// None is waited for before the next: they are carried out in their order.
const early = group.allReduce(sum);
await Promise.all([
  early,
  group.broadcast(bytes, size - 1),
  group.allReduce(part.subarray(2, 5)),
  group.allReduce(new Float32Array(0)),
  group.barrier(),
]);
const large = new Float32Array(20_000).fill(rank);
await group.allReduce(large);
clearInterval(timer);
console.log(
  JSON.stringify({
    rank,
    size,
    first: sum[1],
    last: sum[2499],
    part: [...part],
    byte: bytes[2500],
    large: large[19_999],
    ticks: ticks > 0,
    library: group.description,
  }),
);
if (process.argv[2] === "abort" && rank === size - 1) group.abort(7);
if (process.argv[2] === "abort") await group.barrier(); // never ends: the last rank is gone
await group.leave();
