"""Bytes of a picture to what a model takes; None where they are no picture. OpenCV lets other threads run meanwhile."""
import cv2
import numpy as np

cv2.setNumThreads(1)


def gray28(blob):
    """28 x 28 grey in [0, 1], as models/fashion-resnet18 takes it."""
    image = cv2.imdecode(np.frombuffer(blob, np.uint8), cv2.IMREAD_GRAYSCALE)
    return None if image is None else (image.astype(np.float32) / 255)[None]


def rgb224(blob):
    """The centre square at 224 x 224, RGB, (x - 127) / 128: EfficientNet-Lite0's input."""
    image = cv2.imdecode(np.frombuffer(blob, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        return None
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    image = cv2.resize(image[top:top + side, left:left + side], (224, 224), interpolation=cv2.INTER_AREA)
    return ((image[:, :, ::-1].astype(np.float32) - 127) / 128).transpose(2, 0, 1)


DECODERS = {"gray28": gray28, "rgb224": rgb224}
