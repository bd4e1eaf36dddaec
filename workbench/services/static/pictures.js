// Pictures: files and camera frames to squares, squares to JPEG. A file's metadata never leaves the phone.

const MOST_FILE = 64 * 2 ** 20; // bytes of a chosen file
const MOST_KEPT = 64e6; // pixels of all squares of a batch

const asked = new Map();
let last = 0;
let worker = started();

function started() {
  const made = new Worker("/encoder.js", { type: "module" });
  made.onmessage = ({ data }) => {
    const { resolve, reject } = asked.get(data.id);
    asked.delete(data.id);
    if (data.error) reject(new Error(`This browser cannot make a JPEG of the picture (${data.error})`));
    else resolve(data);
  };
  made.onerror = () => {
    made.terminate();
    worker = null; // the next picture starts another: perhaps the script only failed to load
    const why = "The page's JPEG encoder did not start: try again, and if that fails too, use a newer browser";
    for (const { reject } of asked.values()) reject(new Error(why));
    asked.clear();
  };
  return made;
}

function ask(message, transfer) {
  return new Promise((resolve, reject) => {
    last += 1;
    asked.set(last, { resolve, reject });
    worker ??= started();
    worker.postMessage({ ...message, id: last }, transfer);
  });
}

// An upright bitmap of a file. Throws an error with the file's name for anything but a picture.
export async function bitmapOf(file) {
  if (file.size > MOST_FILE) throw new Error(`${file.name} is larger than ${MOST_FILE / 2 ** 20} MiB: choose a smaller picture`);
  try {
    return await createImageBitmap(file);
  } catch {
    throw new Error(`${file.name} is no picture that this browser can read: choose a JPEG, PNG or WebP file`);
  }
}

// A JPEG of a bitmap's central square, and its encoding time in milliseconds. The bitmap is transferred.
export async function jpegOf(bitmap, { side, quality }) {
  const { jpeg, milliseconds } = await ask({ bitmap, side, quality }, [bitmap]);
  return { jpeg, milliseconds };
}

// Squares of files, decoded once, each of which can be encoded repeatedly.
export async function squaresOf(files, side, signal) {
  const most = Math.floor(MOST_KEPT / side ** 2);
  if (files.length > most) {
    throw new Error(`${files.length} pictures of ${side} pixels are more than this page keeps: choose at most ${most}, or a smaller size`);
  }
  const squares = [];
  for (const file of files) {
    signal.throwIfAborted();
    const bitmap = await bitmapOf(file);
    squares.push((await ask({ bitmap, side, keep: true }, [bitmap])).bitmap);
  }
  return squares;
}

// A JPEG of a stored square.
export async function jpegAgain(square, { side, quality }) {
  const { jpeg, milliseconds } = await ask({ bitmap: square, side, quality }, []);
  return { jpeg, milliseconds };
}
