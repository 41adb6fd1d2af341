// A photo from the device's camera, in a dialog; where a page may not use it, the file chooser opens instead.

import { element } from "./dom.js";

export function watchCamera(button, dialog, onPhoto) {
  const video = dialog.querySelector("video");
  let stream = null;

  const stop = () => {
    stream?.getTracks().forEach((track) => track.stop());
    stream = null;
  };

  button.addEventListener("click", async () => {
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 2560 } } });
    } catch {
      return chooseFromCamera(onPhoto); // no camera, no permission, or no secure connection
    }
    video.srcObject = stream;
    await video.play(); // first, so that there is a picture when the button can be pressed
    dialog.showModal();
  });
  dialog.addEventListener("close", stop);
  dialog.querySelector("#camera-close").addEventListener("click", () => dialog.close());
  dialog.querySelector("#shoot").addEventListener("click", async () => {
    const canvas = element("canvas", { width: video.videoWidth, height: video.videoHeight });
    canvas.getContext("2d").drawImage(video, 0, 0);
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
    dialog.close();
    onPhoto(new File([blob], "camera.jpg", { type: "image/jpeg" }));
  });
}

function chooseFromCamera(onPhoto) {
  const input = element("input", { type: "file", accept: "image/*", capture: "environment" });
  input.addEventListener("change", () => input.files[0] && onPhoto(input.files[0]));
  input.click();
}
