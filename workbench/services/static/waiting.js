// Pictures that wait for the edge: in this page's memory, in their order, bounded, and gone with the page.

const MOST = 100; // pictures
const MOST_BYTES = 32 * 2 ** 20;

export class Waiting {
  #shots = [];
  #changed;

  constructor(changed) {
    this.#changed = changed;
  }

  get length() {
    return this.#shots.length;
  }

  // Put a picture at the end; an Error where there is no room.
  add(shot) {
    const bytes = this.#shots.reduce((sum, { jpeg }) => sum + jpeg.size, 0);
    if (this.#shots.length >= MOST || bytes + shot.jpeg.size > MOST_BYTES) {
      throw new Error(`${this.#shots.length} pictures wait, which is all that this page keeps: discard them, or wait for the edge`);
    }
    this.#shots.push(shot);
    this.#changed();
  }

  // Take the first; undefined where there is none.
  take() {
    const shot = this.#shots.shift();
    this.#changed();
    return shot;
  }

  // Put one back to the front.
  again(shot) {
    this.#shots.unshift(shot);
    this.#changed();
  }

  clear() {
    this.#shots = [];
    this.#changed();
  }
}
