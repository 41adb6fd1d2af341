// A few pictures of the catalogue, for whoever has no photo at hand: one of them is searched as if it were a photo.

import { element, refill } from "./dom.js";

// As large as the service gives pictures: what is searched is cut from it.
const PICTURE_PX = 1024;

// Shows the samples in `section`, and hands the one that is clicked to `onPhoto` as a File; `onError` gets what fails.
export async function showSamples(section, service, { showThumbnail, onPhoto, onError }) {
  const samples = await service.samples();
  const choose = (sample) => fetchPhoto(service, sample).then(onPhoto, onError);
  refill(section.querySelector("ul"), samples.map((sample) => element("li", {}, sampleButton(sample, showThumbnail, choose))));
  section.hidden = samples.length === 0;
}

function sampleButton(sample, showThumbnail, choose) {
  const title = sample.title || sample.item_id;
  const picture = element("img", { alt: `Search by ${title}`, width: 128, height: 128 });
  showThumbnail(picture, sample.item_id);
  return element("button", { type: "button", className: "sample", title, onclick: () => choose(sample) }, picture);
}

async function fetchPhoto(service, sample) {
  const picture = await service.thumbnail(sample.item_id, { edge: PICTURE_PX });
  return new File([picture], sample.title || sample.item_id, { type: picture.type });
}
