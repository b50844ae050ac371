/** 0 to n - 1: what the text of an unrolled kernel is made from. */
export const range = (n: number): number[] => Array.from({ length: n }, (_, i) => i);
