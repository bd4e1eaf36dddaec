// A worker that encodes bitmaps as JPEG. On the page's own thread a browser delays this until the page is idle, which takes
// several times as long as the encoding.

let canvas = null;
let pen = null;

self.onmessage = async ({ data: { id, bitmap, side, quality, keep } }) => {
  try {
    const start = performance.now();
    if (canvas === null || canvas.width !== side) {
      canvas = new OffscreenCanvas(side, side);
      pen = canvas.getContext("2d", { alpha: false });
      pen.imageSmoothingQuality = "high";
    }
    const edge = Math.min(bitmap.width, bitmap.height);
    pen.fillStyle = "#fff"; // the background of transparent pixels, like at the edge
    pen.fillRect(0, 0, side, side);
    pen.drawImage(bitmap, (bitmap.width - edge) / 2, (bitmap.height - edge) / 2, edge, edge, 0, 0, side, side);
    if (keep) {
      self.postMessage({ id, bitmap: canvas.transferToImageBitmap() });
    } else {
      const jpeg = await canvas.convertToBlob({ type: "image/jpeg", quality: quality / 100 });
      self.postMessage({ id, jpeg, milliseconds: performance.now() - start });
    }
  } catch (error) {
    self.postMessage({ id, error: error.message });
  } finally {
    bitmap.close();
  }
};
