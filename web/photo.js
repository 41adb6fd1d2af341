// A photo in the browser: opened upright, shrunk for the detector, cut from the original for the search.

// What the models see is smaller than this, so nothing is lost that they could use.
export const DETECT_EDGE_PX = 640;
export const CROP_EDGE_PX = 512;
const DETECT_QUALITY = 0.82;
const CROP_QUALITY = 0.9;

// A photo that the browser cannot draw (HEIC in most of them) is sent whole and searched as it is.
export class UndrawablePhoto extends Error {}

export async function openPhoto(file) {
  try {
    return await createImageBitmap(file, { imageOrientation: "from-image" });
  } catch (error) {
    throw new UndrawablePhoto(`${file.name || "the photo"} cannot be shown by this browser`, { cause: error });
  }
}

// Returns a JPEG of at most `edgePx` along its longer side, and what a pixel of it is worth in the photo.
export async function shrink(bitmap, edgePx = DETECT_EDGE_PX) {
  const whole = [0, 0, bitmap.width, bitmap.height];
  const { canvas, scale } = draw(bitmap, whole, edgePx);
  return { blob: await encode(canvas, DETECT_QUALITY), scale };
}

// Cuts `box` (xyxy, pixels of the photo) from the original pixels.
export async function cut(bitmap, box) {
  return encode(draw(bitmap, wholePixels(box, bitmap), CROP_EDGE_PX).canvas, CROP_QUALITY);
}

// Rounds outwards as the service does, stays inside of the photo, and keeps at least one pixel.
export function wholePixels([x1, y1, x2, y2], { width, height }) {
  const left = Math.min(Math.max(Math.floor(x1), 0), width - 1);
  const top = Math.min(Math.max(Math.floor(y1), 0), height - 1);
  const right = Math.min(Math.max(Math.ceil(x2), left + 1), width);
  const bottom = Math.min(Math.max(Math.ceil(y2), top + 1), height);
  return [left, top, right, bottom];
}

function draw(bitmap, [x1, y1, x2, y2], edgePx) {
  const width = x2 - x1;
  const height = y2 - y1;
  const scale = Math.max(1, Math.max(width, height) / edgePx);
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(width / scale));
  canvas.height = Math.max(1, Math.round(height / scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff"; // as the service does with transparency
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, x1, y1, width, height, 0, 0, canvas.width, canvas.height);
  return { canvas, scale: width / canvas.width };
}

function encode(canvas, quality) {
  return new Promise((resolve, reject) => {
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("the browser could not encode the picture"))), "image/jpeg", quality);
  });
}
