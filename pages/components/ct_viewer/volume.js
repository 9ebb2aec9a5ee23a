// A CT volume in the browser: read from NIfTI while it arrives, and turned to the patient's axes: to the left, to the
// back, to the head. What the file's own axes are, nothing beyond this file knows.

const AIR_HU = -1024;
const HEADER_BYTES = 348;
const [LEFT, BACK, HEAD] = [0, 1, 2];
const ORDERS = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
const NUMBERS = { 2: Uint8Array, 4: Int16Array }; // as the server writes labels and Hounsfield units
const VOXEL_BYTES = 3; // of both together
const TABLET_BYTES = 600 * 2 ** 20; // browsers of tablets end a page that takes much more, without a word

async function unpacked(address, signal) {
  const answer = await fetch(address, { signal });
  if (!answer.ok) throw new Error(answer.status === 403 ? "You are signed out. Sign in again." : await answer.text());
  if (typeof DecompressionStream === "undefined") throw new Error("This browser is too old to show CT scans. Update it.");
  return answer.body.pipeThrough(new DecompressionStream("gzip")).getReader();
}

class Grid {
  // Of the first 348 bytes of a NIfTI-1 file.
  constructor(bytes) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, HEADER_BYTES);
    const short = (at) => view.getInt16(at, true);
    const real = (at) => view.getFloat32(at, true);
    this.Numbers = NUMBERS[short(70)];
    this.size = [short(42), short(44), short(46)]; // columns, rows, slices
    this.offset = real(108);
    const slope = real(112) || 1;
    if (view.getInt32(0, true) !== HEADER_BYTES || !this.Numbers || !short(254) || slope !== 1 || real(116)) {
      throw new Error("This scan is stored in a form that the viewer does not know. Tell your administrator.");
    }
    // Columns of the affine; NIfTI counts to the right and the front.
    const turned = [-1, -1, 1];
    this.axes = [0, 1, 2].map((axis) => turned.map((sign, row) => sign * real(280 + 16 * row + 4 * axis)));
    this.origin = turned.map((sign, row) => sign * real(280 + 16 * row + 12));
    this.step = 1; // every so many slices are kept
    this.turn();
  }

  // Which axis of the file runs to the left, to the back and to the head, and which way.
  turn() {
    const lengths = this.axes.map((axis) => Math.hypot(...axis));
    const along = (axis, to) => this.axes[axis][to] / lengths[axis];
    const fit = (order) => order.reduce((sum, axis, to) => sum + Math.abs(along(axis, to)), 0);
    this.order = ORDERS.reduce((best, order) => (fit(order) > fit(best) ? order : best));
    this.reversed = this.order.map((axis, to) => along(axis, to) < 0);
    this.spacing = this.order.map((axis) => lengths[axis] * (axis === 2 ? this.step : 1));
    this.tilt = Math.max(...this.order.map((axis, to) => (Math.acos(Math.min(1, Math.abs(along(axis, to)))) * 180) / Math.PI));
    const kept = [this.size[0], this.size[1], Math.ceil(this.size[2] / this.step)];
    const strides = [1, kept[0], kept[0] * kept[1]];
    this.kept = kept;
    this.count = this.order.map((axis) => kept[axis]);
    this.strides = this.order.map((axis, to) => (this.reversed[to] ? -strides[axis] : strides[axis]));
    this.first = this.order.reduce((sum, axis, to) => sum + (this.reversed[to] ? (kept[axis] - 1) * strides[axis] : 0), 0);
  }

  keepEvery(step) {
    this.step = step;
    this.turn();
  }

  get voxels() { return this.kept[0] * this.kept[1] * this.kept[2]; }

  index(point) { return this.first + point[0] * this.strides[0] + point[1] * this.strides[1] + point[2] * this.strides[2]; }

  holds(point) { return point.every((at, to) => at >= 0 && at < this.count[to]); }

  // Columns, rows and slices kept of a point in the patient's axes.
  filed(point) {
    const at = [0, 0, 0];
    this.order.forEach((axis, to) => { at[axis] = this.reversed[to] ? this.count[to] - 1 - point[to] : point[to]; });
    return at;
  }

  // Slice, row and column in the array of the scan, as Python counts them.
  voxel(point) {
    const [column, row, slice] = this.filed(point);
    return [slice * this.step, row, column];
  }

  point([slice, row, column]) {
    const at = [column, row, Math.min(this.kept[2] - 1, Math.round(slice / this.step))];
    return this.order.map((axis, to) => (this.reversed[to] ? this.count[to] - 1 - at[axis] : at[axis]));
  }

  pointAt(index) {
    const [columns, rows] = this.kept;
    return this.point([Math.floor(index / (columns * rows)) * this.step, Math.floor(index / columns) % rows, index % columns]);
  }

  // The point nearest to a place in millimetres; the axes of a scan are as good as at right angles.
  nearest(place) {
    const [column, row, slice] = this.axes.map((axis) => {
      const along = axis.reduce((sum, value, to) => sum + value * (place[to] - this.origin[to]), 0);
      return Math.round(along / axis.reduce((sum, value) => sum + value * value, 0));
    });
    return this.point([slice, row, column]);
  }

  // Millimetres to the patient's left, back and head.
  place(point) {
    const [slice, row, column] = this.voxel(point);
    return this.origin.map((from, to) => from + column * this.axes[0][to] + row * this.axes[1][to] + slice * this.axes[2][to]);
  }
}

// Reads a file; `ready` gets its grid once the header is there, to choose what is kept of it and where, and `arrived`
// the number of slices after each piece.
async function readNifti(address, { signal, ready, arrived }) {
  const reader = await unpacked(address, signal);
  let head = new Uint8Array(0);
  let grid, bytes, into, sliceBytes;
  let at = 0; // bytes of voxels read
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    let piece = value;
    if (!grid) {
      const joined = new Uint8Array(head.length + piece.length);
      joined.set(head);
      joined.set(piece, head.length);
      head = joined;
      if (head.length < HEADER_BYTES || head.length < new DataView(head.buffer).getFloat32(108, true)) continue;
      grid = new Grid(head);
      into = ready(grid);
      bytes = new Uint8Array(into.buffer);
      sliceBytes = grid.size[0] * grid.size[1] * into.BYTES_PER_ELEMENT;
      piece = head.subarray(grid.offset);
    }
    while (piece.length) { // at most to the end of a slice
      const slice = Math.floor(at / sliceBytes);
      if (slice >= grid.size[2]) break;
      const part = piece.subarray(0, (slice + 1) * sliceBytes - at);
      if (slice % grid.step === 0) bytes.set(part, (slice / grid.step) * sliceBytes + (at % sliceBytes));
      at += part.length;
      piece = piece.subarray(part.length);
    }
    arrived(Math.floor(at / sliceBytes));
  }
  if (!grid || at < sliceBytes * grid.size[2]) throw new Error("The scan broke off on its way. Reload the page.");
  return grid;
}

// How many slices must be left out between two for the rest to fit on this device.
function stepFor(grid) {
  const small = navigator.deviceMemory ? navigator.deviceMemory <= 4 : matchMedia("(pointer: coarse)").matches;
  return small ? Math.max(1, Math.ceil((grid.voxels * VOXEL_BYTES) / TABLET_BYTES)) : 1;
}

class CtVolume {
  constructor() {
    this.stopping = new AbortController();
    this.labels = null; // label in the two low bits, number of the lesion in the others
    this.arrived = 0; // slices of the file
  }

  async read(address, arrived) {
    await readNifti(address, {
      signal: this.stopping.signal,
      ready: (grid) => {
        if (grid.Numbers !== Int16Array) throw new Error("This scan is stored in a form that the viewer does not know.");
        for (let step = stepFor(grid); !this.hu; step += 1) {
          grid.keepEvery(step);
          try {
            this.hu = new Int16Array(grid.voxels).fill(AIR_HU);
          } catch (error) {
            if (!(error instanceof RangeError) || step > 8) throw new Error("This device has too little memory for the scan.");
          }
        }
        this.grid = grid;
        return this.hu;
      },
      arrived: (slices) => { this.arrived = slices; arrived(); },
    });
  }

  async readLabels(address) {
    this.stoppingLabels?.abort();
    const stopping = new AbortController();
    this.stoppingLabels = stopping;
    let read;
    const grid = await readNifti(address, {
      signal: stopping.signal,
      ready: (own) => {
        if (own.Numbers !== Uint8Array || own.size.some((side, axis) => side !== this.grid.size[axis])) throw new Error("The labels do not fit the scan.");
        own.keepEvery(this.grid.step);
        read = new Uint8Array(own.voxels);
        return read;
      },
      arrived: () => {},
    });
    if (stopping.signal.aborted || !grid) return false;
    this.labels = read;
    this.survey();
    return true;
  }

  // In which planes of each direction each label lies, for the marks beside the pictures; bits as `1 << label`.
  survey() {
    const { grid, labels } = this;
    this.marks = grid.count.map((count) => new Uint8Array(count));
    const [columns, rows] = grid.kept;
    const filed = grid.kept.map((count) => new Uint8Array(count));
    const fours = new Uint32Array(labels.buffer, 0, labels.length >> 2);
    const note = (index) => {
      const bit = labels[index] ? 1 << (labels[index] & 3) : 0;
      filed[0][index % columns] |= bit;
      filed[1][Math.floor(index / columns) % rows] |= bit;
      filed[2][Math.floor(index / (columns * rows))] |= bit;
    };
    for (let four = 0; four < fours.length; four += 1) if (fours[four]) for (let index = 4 * four; index < 4 * four + 4; index += 1) note(index);
    for (let index = 4 * fours.length; index < labels.length; index += 1) note(index);
    this.marks = grid.order.map((axis, to) => (grid.reversed[to] ? filed[axis].reverse() : filed[axis]));
  }

  // Gives the lesion around a voxel a number; where it begins it must have none. Voxels that meet at a corner belong together.
  number(index, number) {
    const { labels, grid } = this;
    const label = labels[index] & 3;
    const [columns, rows, slices] = grid.kept;
    const waiting = [index];
    labels[index] = label | (number << 2);
    while (waiting.length) {
      const at = waiting.pop();
      const column = at % columns;
      const row = Math.floor(at / columns) % rows;
      const slice = Math.floor(at / (columns * rows));
      for (let z = Math.max(0, slice - 1); z <= Math.min(slices - 1, slice + 1); z += 1) {
        for (let y = Math.max(0, row - 1); y <= Math.min(rows - 1, row + 1); y += 1) {
          for (let x = Math.max(0, column - 1); x <= Math.min(columns - 1, column + 1); x += 1) {
            const beside = (z * rows + y) * columns + x;
            if (labels[beside] === label) {
              labels[beside] = label | (number << 2);
              waiting.push(beside);
            }
          }
        }
      }
    }
  }

  stop() {
    this.stopping.abort();
    this.stoppingLabels?.abort();
  }
}
