"""Where a picture has something for a flow or a matcher to hold on to.

Where all is of one colour any motion looks right, and along an edge any motion along it; a flow that is smooth says
that nothing moves there, and comes back where it began.

Source: Shi and Tomasi, "Good Features to Track", 1994: the smaller eigenvalue of the structure tensor.
"""

from __future__ import annotations

import cv2
import numpy as np

LONGEST = 640  # larger pictures are made smaller first: what a flow looks at
SMOOTH = 1.0  # standard deviation of the blur before derivatives, px: takes more away of noise than of texture
SPREAD = 1.5  # of the neighbourhood, px; reaches about 4 px
LEAST_CONTRAST = 0.8  # grey levels a pixel, in the direction of the least change; noise of 5 levels makes 0.5


def textured(image: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """(H, W) bool, the pixels of a region around which grey changes in every direction, by what is in the region alone.

    Args:
        image: (H, W, 3) uint8. inside: (H, W) bool.
    """
    height, width = inside.shape
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY).astype(np.float32)
    region = inside.astype(np.uint8)
    scale = LONGEST / max(height, width)
    if scale < 1:
        size = max(round(width * scale), 1), max(round(height * scale), 1)
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
        region = (cv2.resize(region.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.999).astype(np.uint8)
    blurred = cv2.GaussianBlur(grey * region, (0, 0), SMOOTH)
    grey = blurred / np.maximum(cv2.GaussianBlur(region.astype(np.float32), (0, 0), SMOOTH), 1e-6)
    own = cv2.erode(region, np.ones((3, 3), np.uint8), borderValue=1) > 0  # derivatives look one pixel around
    dx, dy = (np.where(own, cv2.Scharr(grey, cv2.CV_32F, *order) / 32, 0) for order in ((1, 0), (0, 1)))
    xx, xy, yy = (cv2.GaussianBlur(each, (0, 0), SPREAD) for each in (dx * dx, dx * dy, dy * dy))
    least = (xx + yy) / 2 - np.hypot((xx - yy) / 2, xy)
    found = (least >= LEAST_CONTRAST**2).astype(np.uint8)
    if scale < 1:
        found = cv2.resize(found, (width, height), interpolation=cv2.INTER_NEAREST)
    return inside & (found > 0)
