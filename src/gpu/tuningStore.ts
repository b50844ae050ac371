/** Where measurements of a GPU are kept between runs: a file on Node, whatever the page provides in a browser. */
export interface TuningStore {
  /** For messages: a path, a key. */
  readonly name: string;
  /** What was written last, or null where there is nothing. */
  read(): Promise<string | null>;
  /** Replaces what {@link TuningStore.read} gives. */
  write(text: string): Promise<void>;
}
