/** The eight EXIF orientations: how stored pixels are turned and mirrored for display. */

/** 1 = as stored; 3 = turned by 180 degrees; 6 = to be turned clockwise; 8 = counterclockwise; the others mirror. */
export type Orientation = number;

/** Whether width and height change places between the stored and the displayed picture. */
export const swapsSides = (orientation: Orientation): boolean => orientation >= 5;

/**
 * For each pixel of the displayed picture, row by row, the number of the stored pixel that is shown there.
 *
 * @param width of the stored picture, in pixels; the same for `height`
 */
export function displayOrder(orientation: Orientation, width: number, height: number): Uint32Array {
  const order = new Uint32Array(width * height);
  // Displayed (x, y) comes from stored (a, b) or, with the sides swapped, (b, a); some count from the far end.
  const swap = swapsSides(orientation);
  const flipX = [2, 3, 7, 8].includes(orientation);
  const flipY = [3, 4, 6, 7].includes(orientation);
  const across = swap ? height : width;
  for (let i = 0; i < order.length; i++) {
    const [x, y] = [i % across, Math.floor(i / across)];
    const [a, b] = swap ? [y, x] : [x, y];
    order[i] = (flipY ? height - 1 - b : b) * width + (flipX ? width - 1 - a : a);
  }
  return order;
}
