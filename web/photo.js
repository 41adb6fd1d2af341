// A photo in the browser: opened upright, shrunk for the detector, cut from the original for the search.

import { jpegOf, scaledBox } from "./lookalike.js";

// What the models see is smaller than this, so nothing is lost that they could use.
const DETECT_EDGE_PX = 640;
const CROP_EDGE_PX = 512;
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

// Returns the whole photo as a small JPEG, for the detector.
export function shrink(bitmap) {
  return jpegOf(bitmap, [0, 0, bitmap.width, bitmap.height], DETECT_EDGE_PX, DETECT_QUALITY);
}

// Cuts `box` (xyxy, pixels of the photo) from the original pixels, rounded outwards as the service does.
export function cut(bitmap, box) {
  return jpegOf(bitmap, scaledBox(box, 1, bitmap), CROP_EDGE_PX, CROP_QUALITY);
}
