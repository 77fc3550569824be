"""Records of images that need not be there."""

from data.records import Record


def records(count: int, category: str = "cup") -> list[Record]:
    """Normal training images of a category, numbered from 0."""
    return [Record(f"{category}/train/good/{i}.png", "", category, "good", False) for i in range(count)]
