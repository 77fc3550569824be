"""A camera of given frames in the place of OpenCV's, and clips that OpenCV writes."""

import time

import cv2


class Camera:
    """Gives each of its frames (H,W,3) RGB once, and then nothing more, or the last one for ever."""

    def __init__(self, frames, endless=False):
        self.frames, self.endless, self.place, self.released = list(frames), endless, 0, False

    def __call__(self, given, *_how):
        self.given = given
        return self

    def isOpened(self):
        return True

    def grab(self):
        time.sleep(0.002)
        return self.endless or self.place < len(self.frames)

    def retrieve(self):
        frame = self.frames[min(self.place, len(self.frames) - 1)]
        self.place += 1
        return True, frame[..., ::-1]

    def release(self):
        self.released = True


def write_clip(file, frames, rate=10.0):
    """Frames (H,W,3) uint8 RGB of one size as a clip of so many a second."""
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"mp4v"), rate, (width, height))
    for frame in frames:
        writer.write(frame[..., ::-1])
    writer.release()
    return file
