/**
 * Table-driven cyclic redundancy checks of 32 bits, reflected, initial value and final xor 0xffffffff.
 * Source: Williams, "A painless guide to CRC error detection algorithms", 1993.
 */
function makeCrc(reversedPolynomial: number): (bytes: Uint8Array) => number {
  const table = Uint32Array.from({ length: 256 }, (_, i) => {
    let c = i;
    for (let bit = 0; bit < 8; bit++) c = c & 1 ? (c >>> 1) ^ reversedPolynomial : c >>> 1;
    return c;
  });
  return (bytes) => {
    let c = 0xffffffff;
    for (let i = 0; i < bytes.length; i++) c = table[(c ^ bytes[i]) & 0xff] ^ (c >>> 8);
    return (c ^ 0xffffffff) >>> 0;
  };
}

/** CRC-32 of zip and PNG (ISO 3309, polynomial 0x04c11db7). */
export const crc32 = makeCrc(0xedb88320);

/** CRC-32C (Castagnoli, RFC 3720 appendix B.4, polynomial 0x1edc6f41). */
export const crc32c = makeCrc(0x82f63b78);
