/** Storages made from others by kernels, such as a transposed weight, kept as long as nothing writes to what they were made from. */
import type { Storage } from "./pool.js";

/** A storage whose contents follow from those of others. */
export interface Derivation {
  /** What is made, with its sizes: what tells it from others made from the same. */
  readonly what: string;
  readonly from: readonly Storage[];
  readonly bytes: number;
  /** Records the making. */
  make(to: Storage): void;
}

interface Kept {
  readonly key: string;
  readonly sources: readonly number[];
  readonly storage: Storage;
  /** Not yet where it was first asked for by a rehearsal, which runs nothing. */
  made: boolean;
  /** Uses under way. */
  pins: number;
}

const partKey = ({ id, offset = 0, bytes }: Storage): string => `${id}+${offset}:${bytes}`;

export class DerivedStorages {
  private readonly byKey = new Map<string, Kept>();
  /** By the buffers that they were made from. */
  private readonly bySource = new Map<number, Set<Kept>>();

  constructor(private readonly pool: { alloc(bytes: number, what: string): Storage; free(storage: Storage): void }) {}

  /** Runs `use` with what is kept, or made now. Nothing is made in a rehearsal. */
  use(d: Derivation, rehearsing: boolean, use: (storage: Storage) => void): void {
    const key = `${d.what} ${d.from.map(partKey).join()}`;
    const kept = this.byKey.get(key) ?? this.keep(key, d);
    kept.pins++;
    try {
      if (!kept.made) d.make(kept.storage);
      kept.made = !rehearsing || kept.made;
      use(kept.storage);
    } finally {
      if (--kept.pins === 0 && this.byKey.get(key) !== kept) this.pool.free(kept.storage);
    }
  }

  private keep(key: string, d: Derivation): Kept {
    const storage = this.pool.alloc(d.bytes, d.what);
    const kept: Kept = { key, sources: d.from.map(({ id }) => id), storage, made: false, pins: 0 };
    this.byKey.set(key, kept);
    for (const id of kept.sources) this.bySource.set(id, (this.bySource.get(id) ?? new Set()).add(kept));
    return kept;
  }

  /** A buffer gets other contents, or another owner: what was made from it is given back. */
  changed({ id }: Storage): void {
    for (const kept of this.bySource.get(id) ?? []) this.drop(kept);
  }

  /** Gives back all that is not in use. */
  clear(): void {
    for (const kept of this.byKey.values()) if (kept.pins === 0) this.drop(kept);
  }

  private drop(kept: Kept): void {
    this.byKey.delete(kept.key);
    for (const id of kept.sources) {
      const others = this.bySource.get(id)!;
      others.delete(kept);
      if (others.size === 0) this.bySource.delete(id);
    }
    if (kept.pins === 0) this.pool.free(kept.storage);
  }
}
