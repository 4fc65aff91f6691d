"""SaliencyMix (Uddin, Monira, Shin, Chung and Bae, ICLR 2021): CutMix's box around the most salient point of the donor.

The authors take OpenCV's saliency; here it is the spectral residual (Hou and Zhang, CVPR 2007), which needs nothing but a Fourier
transform, batched on the device.
"""

from typing import Literal

from lapml.common.lazy import Tensor, torch
from lapml.common.sections import Positive
from lapml.mixing import cutmix
from lapml.mixing.boxes import Mixed, area, paste
from lapml.mixing.protocol import Draws, Evidence, Mixer

SIZE = 64  # pixels a side of the image whose spectrum is taken
SIGMA = 2.5  # of the last blur, in its pixels
REACH = 7  # pixels that the blur reaches


class Settings(Mixer):
    name: Literal["saliencymix"] = "saliencymix"
    alpha: Positive

    summary = "the box around the donor’s most salient point, in place, labelled by area"


def saliency(images: Tensor) -> Tensor:
    """(B, 64, 64) fp32 spectral residual of (B, 3, H, H) images: |F⁻¹ exp(L − mean₃ₓ₃ L + iP)|², blurred, with L and P the
    logarithm of the amplitude and the phase of the spectrum of the mean over the colours."""
    from torchvision.transforms.v2.functional import gaussian_blur  # slow to import, and not needed to read settings

    functional = torch.nn.functional
    with torch.autocast(images.device.type, enabled=False):
        grey = images.float().mean(1, keepdim=True)
        grey = functional.interpolate(grey, (SIZE, SIZE), mode="bilinear", antialias=True, align_corners=False)
        spectrum = torch.fft.fft2(grey)
        amplitude = spectrum.abs().clamp_min(1e-8).log()
        around = functional.pad(amplitude, (1, 1, 1, 1), mode="circular")  # a spectrum repeats itself
        residual = amplitude - functional.avg_pool2d(around, 3, stride=1)
        found = torch.fft.ifft2(torch.polar(residual.exp(), spectrum.angle())).abs().square()
        return gaussian_blur(found, [2 * REACH + 1] * 2, [SIGMA] * 2)[:, 0]


def mix(batch: Draws, evidence: Evidence, settings: Settings) -> Mixed:
    """Paste every donor's box of area 1 − λ around its most salient point at the same place, clipped to the image as CutMix's
    is; the label's share is its area."""
    images, side = batch.images, batch.images.shape[-1]
    peak = saliency(images[batch.donors]).flatten(1).argmax(1)
    centre = (torch.stack([peak % SIZE, peak // SIZE], 1) + 0.5) / SIZE
    box = cutmix.boxes(batch.lam, centre, side)
    share = area(box, side)
    return Mixed(paste(images, batch.donors, box, box), batch.donors, 1 - share, share, share, box, box)
