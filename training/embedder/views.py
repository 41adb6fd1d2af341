"""How a picture is shown in training: plain, by random views that a number names, pasted on other pictures."""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torchvision.transforms import InterpolationMode, v2

from lookalike.preprocessing import Preprocess
from training.embedder.config import Views
from training.embedder.pictures import Picture, open_picture

WHITE = (255, 255, 255)


class ViewMaker:
    """Makes the view of a number: the same picture, seed and number give the same pixels, in any process."""

    def __init__(
        self,
        views: Views,
        preprocess: Preprocess,
        seed: int,
        instances: frozenset[str] = frozenset(),
        backgrounds: Sequence[Picture] = (),
    ) -> None:
        """`instances` names the sets whose pictures get the stronger views and, when transparent, a background."""
        self._preprocess, self._seed = preprocess, seed
        self._instances, self._backgrounds = instances, backgrounds
        self._of_class, self._of_instance = class_view(views), instance_view(views)

    def plain(self, picture: Picture) -> NDArray[np.uint8]:
        """Return `(h, w, 3)` uint8 as the service sees the picture; what is transparent is white."""
        return self._preprocess.fit(flattened(open_picture(picture)))

    def view(self, picture: Picture, number: int) -> NDArray[np.uint8]:
        """Return view `number` of a picture, `(h, w, 3)` uint8."""
        name = f"{self._seed} {picture.set_name} {picture.class_id} {picture.path.name} {number}"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:7]))
            return self._preprocess.fit(self._random(picture))

    def _random(self, picture: Picture) -> Image.Image:
        image = open_picture(picture)
        if picture.set_name not in self._instances:
            return self._of_class(flattened(image))
        if image.mode == "RGBA" and self._backgrounds:
            chosen = int(torch.randint(len(self._backgrounds), ()))
            image = pasted(image, flattened(open_picture(self._backgrounds[chosen])))
        return self._of_instance(flattened(image))


def class_view(views: Views) -> v2.Transform:
    """Return the view of a class's picture: another framing, side and light."""
    return v2.Compose(
        [
            v2.RandomResizedCrop(
                256, scale=(views.smallest_share, 1), ratio=(0.75, 1.33), interpolation=InterpolationMode.BICUBIC
            ),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(views.colour, views.colour, views.colour, views.colour / 10),
        ]
    )


def instance_view(views: Views) -> v2.Transform:
    """Return the view of an instance by another camera: askew, near or far, in other light, blurred, never mirrored."""
    return v2.Compose(
        [
            v2.RandomPerspective(0.25, p=0.7, interpolation=InterpolationMode.BILINEAR, fill=128),
            v2.RandomAffine(8, (0.06, 0.06), (0.85, 1.1), fill=128, interpolation=InterpolationMode.BILINEAR),
            v2.RandomResizedCrop(
                256, scale=(views.smallest_share, 1), ratio=(0.75, 1.33), interpolation=InterpolationMode.BICUBIC
            ),
            v2.ColorJitter(2 * views.colour, 2 * views.colour, 2 * views.colour, views.colour / 10),
            WhiteBalance(views.white_balance),
            v2.RandomApply([v2.GaussianBlur(5, (0.5, 2.5))], 0.4),
            v2.RandomApply([v2.PILToTensor(), v2.JPEG((25, 80)), v2.ToPILImage()], views.compression),
        ]
    )


class WhiteBalance(nn.Module):
    """Scales the channels of a PIL picture by up to `strength`, each by itself: other lamps, other cameras."""

    def __init__(self, strength: float) -> None:
        super().__init__()
        self._strength = strength

    def forward(self, image: Image.Image) -> Image.Image:
        """See the class."""
        if not self._strength:
            return image
        gains = 1 + self._strength * (2 * torch.rand(3) - 1)
        return image.point([min(255, round(level * float(gain))) for gain in gains for level in range(256)])


def flattened(image: Image.Image) -> Image.Image:
    """Return an RGB image; what is transparent becomes white."""
    if image.mode != "RGBA":
        return image.convert("RGB")
    canvas = Image.new("RGB", image.size, WHITE)
    canvas.paste(image, mask=image.getchannel("A"))
    return canvas


def pasted(subject: Image.Image, background: Image.Image) -> Image.Image:
    """Return an RGBA subject on a background that it nearly fills, as a crop around it would."""
    margin = 1.0 + 0.3 * float(torch.rand(()))
    size = (max(1, round(subject.width * margin)), max(1, round(subject.height * margin)))
    canvas = background.resize(size, Image.Resampling.BILINEAR)
    canvas.paste(subject, ((size[0] - subject.width) // 2, (size[1] - subject.height) // 2), subject.getchannel("A"))
    return canvas
