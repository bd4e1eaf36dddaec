// A queue of pictures for the edge: in this page's memory, in order, bounded, and lost with the page.

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

  // Append a picture. Throws an Error if the queue is full.
  add(shot) {
    const bytes = this.#shots.reduce((sum, { jpeg }) => sum + jpeg.size, 0);
    if (this.#shots.length >= MOST || bytes + shot.jpeg.size > MOST_BYTES) {
      throw new Error(`${this.#shots.length} pictures wait, which is all that this page keeps: discard them, or wait for the edge`);
    }
    this.#shots.push(shot);
    this.#changed();
  }

  // Remove and return the first picture, or undefined if the queue is empty.
  take() {
    const shot = this.#shots.shift();
    this.#changed();
    return shot;
  }

  // Return a picture to the front.
  again(shot) {
    this.#shots.unshift(shot);
    this.#changed();
  }

  clear() {
    this.#shots = [];
    this.#changed();
  }
}
