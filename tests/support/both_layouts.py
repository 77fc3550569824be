"""A small category in MVTec AD's layout and one in VisA's, and the backbone that the commands run on them."""

import cv2
import numpy as np

from tests.support.photographs import write_image

BACKBONE = [
    "--model",
    "ViT-tiny-test",
    "--pretrained",
    "none",
    "--layers",
    "1",
    "3",
    "--image-size",
    "64",
    "--device",
    "cpu",
    "--precision",
    "fp32",
    "--workers",
    "0",
]


def draw(generator, defect):
    """A photograph (72,60,3) uint8 and its mask (72,60) of zeros and ones."""
    photo = generator.normal(120, 12, (72, 60, 3)).clip(0, 255).astype(np.uint8)
    mask = np.zeros((72, 60), np.uint8)
    if defect:
        corner = generator.integers(8, 36, 2)
        cv2.rectangle(mask, corner.tolist(), (corner + 18).tolist(), 1, -1)
        photo[mask > 0] = (250, 20, 20)
    return photo, mask


def draw_mvtec(root, generator):
    """Category plate: five references, four good and four defective test images."""
    piece = root / "plate"
    for number in range(5):
        write_image(piece / "train/good" / f"{number:03}.png", draw(generator, False)[0])
    for number in range(4):
        write_image(piece / "test/good" / f"{number:03}.png", draw(generator, False)[0])
        photo, mask = draw(generator, True)
        write_image(piece / "test/spot" / f"{number:03}.png", photo)
        write_image(piece / "ground_truth/spot" / f"{number:03}_mask.png", mask * 255)
    return root


def draw_visa(root, generator):
    """Category board: six references, four good and four defective test images, and the split file."""
    lines = ["object,split,label,image,mask"]
    for number in range(10):
        path = f"board/Data/Images/Normal/{number:04}.JPG"
        write_image(root / path, draw(generator, False)[0])
        lines.append(f"board,{'train' if number < 6 else 'test'},normal,{path},")
    for number in range(4):
        path, truth = (
            f"board/Data/Images/Anomaly/{number:03}.JPG",
            f"board/Data/Masks/Anomaly/{number:03}.png",
        )
        photo, mask = draw(generator, True)
        write_image(root / path, photo)
        write_image(root / truth, mask * 3)
        lines.append(f"board,test,anomaly,{path},{truth}")
    (root / "split_csv").mkdir()
    (root / "split_csv/1cls.csv").write_text("\n".join(lines) + "\n")
    return root
