// The camera: a live picture in the finder, and a frame when the shutter is pressed.

export const there = () => Boolean(navigator.mediaDevices?.getUserMedia);

export class Camera {
  #video;
  #stream = null;

  constructor(video) {
    this.#video = video;
  }

  get on() {
    return this.#stream !== null;
  }

  // Start the camera, preferably the one on the back. `ended` is called if it is disconnected.
  async start(ended) {
    const wish = { facingMode: "environment", width: { ideal: 1280 }, height: { ideal: 960 } };
    this.#stream = await navigator.mediaDevices.getUserMedia({ video: wish, audio: false });
    this.#stream.getVideoTracks()[0].addEventListener("ended", ended);
    this.#video.srcObject = this.#stream;
    await this.#video.play();
  }

  stop() {
    this.#stream?.getTracks().forEach((track) => track.stop());
    this.#stream = null;
    this.#video.srcObject = null;
  }

  // The present frame as a bitmap.
  frame() {
    return createImageBitmap(this.#video);
  }
}

// Return a sentence on why there is no camera.
export function why(error) {
  if (error.name === "NotAllowedError") return "The camera was not allowed: allow it in the browser's settings of this page, or choose a picture";
  if (error.name === "NotFoundError" || error.name === "OverconstrainedError") return "There is no camera here: choose a picture";
  if (error.name === "NotReadableError") return "The camera is in use by another program: close that, or choose a picture";
  return `The camera does not start (${error.name}): choose a picture`;
}
