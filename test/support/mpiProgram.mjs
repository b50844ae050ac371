// What test/e2e/mpi.test.ts runs on several ranks: sums, broadcasts and their order, in messages that are cut. A line of JSON a rank.
import koffi from "koffi";
import { MpiGroup } from "../../dist/src/io/mpi/group.js";

if (process.argv[2] === "full heap") {
  await joinWithFullHeap();
  process.exit();
}
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

/** Prints how far joining moves the end of a heap that cannot grow, and that malloc leaves alone: the memory below it is in use. */
async function joinWithFullHeap() {
  koffi.config({ async_stack_size: 4 << 20 }); // as MPI needs it, and no longer possible after the first library
  const libc = koffi.load("libc.so.6");
  const sbrk = libc.func("intptr_t sbrk(intptr_t increment)");
  const mmap = libc.func("intptr_t mmap(intptr_t at, size_t length, int protection, int flags, int file, long offset)");
  const [TRIM_THRESHOLD, PRIVATE, ANONYMOUS, FIXED_NOREPLACE] = [-1, 0x2, 0x20, 0x100000];
  libc.func("int mallopt(int parameter, int value)")(TRIM_THRESHOLD, 2 ** 30);
  const end = Math.ceil(Number(sbrk(0)) / 4096) * 4096;
  if (Number(mmap(end, 4096, 0, PRIVATE | ANONYMOUS | FIXED_NOREPLACE, -1, 0)) !== end) throw new Error("mmap");
  const before = sbrk(0);
  const group = await MpiGroup.join();
  await group.barrier();
  console.log(String(BigInt(sbrk(0)) - BigInt(before)));
  await group.leave();
}
