"""Float tensors that were normalised for a network give what the photographs that they were give."""

import numpy as np
import pytest
import torch
from open_clip.constants import IMAGENET_MEAN, IMAGENET_STD
from PIL import Image

from data.demo import defective_image, normal_image
from fdsl.api import AnomalyDetector, DataError

pytestmark = pytest.mark.usefixtures("one_thread")


def normalised(image):
    values = torch.from_numpy(image).permute(2, 0, 1).float() / 255
    return (values - torch.tensor(IMAGENET_MEAN)[:, None, None]) / torch.tensor(IMAGENET_STD)[:, None, None]


@pytest.fixture
def make(tiny_configs):
    def made(references, false_alarm_rate=0.01, method="nearest", grey_range=None):
        detector = AnomalyDetector.from_backbone(
            model="ViT-tiny-test", pretrained="none", layers=(1, 3), image_size=64, device="cpu",
            precision="fp32", model_config=tiny_configs, method=method, grey_range=grey_range,
        )  # fmt: skip
        detector.fit(references, false_alarm_rate=false_alarm_rate)
        return detector

    return made


def found_by(detector, images):
    return [(one.score, one.is_anomalous, one.reason) for one in detector.predict(images)]


@pytest.mark.parametrize("product", ["gear", "fabric"])
def test_the_scores_are_those_of_eight_bits_to_the_bit(make, product, tmp_path):
    references = [normal_image(product, "train", 0, number) for number in range(3)]
    images = [normal_image(product, "test", 0, 0), defective_image(product, 0, 0)[0]]
    eight, tensors = make(references), make([normalised(one) for one in references])
    expected = found_by(eight, images)
    assert found_by(tensors, [normalised(one) for one in images]) == expected == found_by(tensors, images)
    assert found_by(tensors, torch.stack([normalised(one) for one in images])) == expected
    tensors.save(tmp_path / "part.safetensors")
    again = AnomalyDetector.load(tmp_path / "part.safetensors")
    assert again.reader.normalisation == tensors.reader.normalisation
    assert found_by(again, [normalised(one) for one in images]) == expected


def test_references_and_calibration_images_are_read_likewise(make):
    drawn = [normal_image("gear", "train", 0, number) for number in range(6)]
    eight, tensors = make(drawn[:2]), make([normalised(one) for one in drawn[:2]])
    eight.add_references(drawn[2:4])
    tensors.add_references([normalised(one) for one in drawn[2:4]])
    assert [one.digest for one in tensors.stored] == [one.digest for one in eight.stored]
    for detector, images in ((eight, drawn[1:]), (tensors, [normalised(one) for one in drawn[1:]])):
        detector.calibrate(0.2, images)
    assert tensors.threshold == eight.threshold and tensors.reader.normalisation is not None


def test_what_does_not_belong_together_is_refused(make):
    image = normal_image("gear", "train", 0, 0)
    with pytest.raises(DataError, match="references\\[0\\] has floats outside 0 to 1"):
        make([torch.from_numpy(image).permute(2, 0, 1).float()])
    with pytest.raises(DataError, match="images\\[0\\] has floats outside 0 to 1"):
        make([image], false_alarm_rate=None).predict(normalised(image))
    with pytest.raises(DataError, match="has values that the references' normalisation does not give"):
        make([normalised(image)], false_alarm_rate=None).predict(9 * normalised(image))


def test_images_of_more_than_eight_bits_in_memory_are_stored_as_they_are(make):
    drawn = [np.float32(normal_image("gear", "train", 0, number)[..., 0]) / 127.5 - 1 for number in range(3)]
    images = [Image.fromarray(one) for one in drawn]
    whole, grown = make(images, false_alarm_rate=None), make(images[:2], false_alarm_rate=None)
    grown.add_references(images[2], false_alarm_rate=None)
    assert grown.reader.grey == whole.reader.grey
    assert found_by(grown, images) == found_by(whole, images)


@pytest.mark.parametrize("product", ["gear", "leather"])
def test_with_a_range_that_is_given_floats_have_the_threshold_of_eight_bits(make, product):
    drawn = [normal_image(product, "train", 0, number)[..., 0] for number in range(3)]
    floats = [Image.fromarray((one.astype(np.float32) - 91.7) / 42.5) for one in drawn]
    eight = make(drawn[:2], method="plus")
    given = make(floats[:2], method="plus", grey_range=f"{-91.7 / 42.5}:{(255 - 91.7) / 42.5}")
    assert given.decision.normal.prior is not None and given.threshold == eight.threshold
    assert found_by(given, floats) == found_by(eight, drawn)
