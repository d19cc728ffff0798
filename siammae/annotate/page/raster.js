// Pixels of a map of ids: discs, polygons, fill; and which of them a stroke has changed.

export const KEEP = 255; // the server leaves such a pixel as it is

/** Collects what one stroke changes in a map of ids. */
export class Stroke {
  /** @param {Uint8Array} labels @param {number} width @param {number} height */
  constructor(labels, width, height) {
    this.labels = labels; this.width = width; this.height = height;
    this.touched = new Uint8Array(width * height);
    this.left = width; this.top = height; this.right = 0; this.bottom = 0;
  }

  /** Set a run of pixels. @param {number} y @param {number} from @param {number} to not set any more @param {number} id */
  run(y, from, to, id) {
    if (y < 0 || y >= this.height) return;
    from = Math.max(0, from); to = Math.min(this.width, to);
    if (from >= to) return;
    const start = y * this.width;
    for (let i = start + from; i < start + to; i++) {
      if (this.labels[i] !== id) { this.labels[i] = id; this.touched[i] = 1; }
    }
    this.left = Math.min(this.left, from); this.right = Math.max(this.right, to);
    this.top = Math.min(this.top, y); this.bottom = Math.max(this.bottom, y + 1);
  }

  /** Set a disc. Pixel centres have whole coordinates. @param {number} x @param {number} y @param {number} radius @param {number} id */
  disc(x, y, radius, id) {
    if (radius <= 0.5) return this.run(Math.round(y), Math.round(x), Math.round(x) + 1, id);
    for (let row = Math.ceil(y - radius); row <= y + radius; row++) {
      const half = Math.sqrt(radius * radius - (row - y) ** 2);
      this.run(row, Math.ceil(x - half), Math.floor(x + half) + 1, id);
    }
  }

  /** Set discs along a line. @param {number[]} a @param {number[]} b @param {number} radius @param {number} id */
  line(a, b, radius, id) {
    const length = Math.hypot(b[0] - a[0], b[1] - a[1]);
    const steps = Math.max(1, Math.ceil(length / Math.max(0.5, radius / 3)));
    for (let i = 0; i <= steps; i++) {
      this.disc(a[0] + ((b[0] - a[0]) * i) / steps, a[1] + ((b[1] - a[1]) * i) / steps, radius, id);
    }
  }

  /** Fill a polygon, even-odd. @param {number[][]} corners @param {number} id */
  polygon(corners, id) {
    const ys = corners.map(corner => corner[1]);
    for (let y = Math.max(0, Math.ceil(Math.min(...ys))); y <= Math.min(this.height - 1, Math.max(...ys)); y++) {
      /** @type {number[]} */ const crossings = [];
      corners.forEach(([x0, y0], i) => {
        const [x1, y1] = corners[(i + 1) % corners.length];
        if ((y0 <= y) !== (y1 <= y)) crossings.push(x0 + ((y - y0) * (x1 - x0)) / (y1 - y0));
      });
      crossings.sort((a, b) => a - b);
      for (let i = 0; i + 1 < crossings.length; i += 2) this.run(y, Math.ceil(crossings[i]), Math.floor(crossings[i + 1]) + 1, id);
    }
  }

  /** Fill the area of one id around a pixel, up to what has another id. @param {number} x @param {number} y @param {number} id */
  fill(x, y, id) {
    const {labels, width, height} = this;
    x = Math.round(x); y = Math.round(y);
    if (x < 0 || y < 0 || x >= width || y >= height) return;
    const old = labels[y * width + x];
    if (old === id) return;
    const rows = [[x, y]];
    while (rows.length) {
      const [seed, row] = /** @type {number[]} */ (rows.pop());
      const start = row * width;
      if (labels[start + seed] !== old) continue;
      let from = seed, to = seed + 1;
      while (from > 0 && labels[start + from - 1] === old) from--;
      while (to < width && labels[start + to] === old) to++;
      this.run(row, from, to, id);
      for (const near of [row - 1, row + 1]) {
        if (near < 0 || near >= height) continue;
        let inside = false;
        for (let i = from; i < to; i++) {
          const same = labels[near * width + i] === old;
          if (same && !inside) rows.push([i, near]);
          inside = same;
        }
      }
    }
  }

  /** Return what was changed, null where nothing was. */
  patch() {
    const {left, top, right, bottom, width} = this;
    const patch = {left, top, width: right - left, height: bottom - top, pixels: new Uint8Array(0)};
    if (patch.width <= 0 || patch.height <= 0) return null;
    const pixels = new Uint8Array(patch.width * patch.height).fill(KEEP);
    let any = false;
    for (let y = 0; y < patch.height; y++) {
      for (let x = 0; x < patch.width; x++) {
        const i = (top + y) * width + left + x;
        if (this.touched[i]) { pixels[y * patch.width + x] = this.labels[i]; any = true; }
      }
    }
    patch.pixels = pixels;
    return any ? patch : null;
  }
}
