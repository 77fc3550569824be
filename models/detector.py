"""The detector: from k normal photographs and a query to anomaly maps and scores (docs/design.md,
section 2)."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from models.backbone import NOTHING_MORE, Backbone
from models.branches import AtOnce, Branch, Query, Tiles, WholeImages, Windows, windows_of
from models.encoder import KEPT_BYTES, Encoder
from models.features import Features, OfBranches, ScoreMaps
from models.matching.candidates import Matching
from models.method import Memories, Memory, Method, Seen
from models.views.counted_patches import CountedPatches
from models.views.tile_maps import FINER
from utils.config import WHOLE_IMAGE, WindowConfig
from utils.errors import ModelError
from utils.memory import Halving
from utils.tile_layout import TileLayout, tiles_for
from utils.views import Views

logger = logging.getLogger("fdsl")
# Window patches encoded at once, to begin with.
WINDOW_CHUNK_PATCHES = {"cpu": 8 * 169, "mps": 42 * 169, "cuda": 169 * 169}
NO_WINDOWS = WindowConfig(winmode="nan")


class Detector(nn.Module):
    """A frozen backbone, a method, and the method's memories of one category's references: of whole images,
    and of their windows or tiles where it looks at these too (models/branches.py). What adds to a method's
    maps is a method around it (models/ensemble/).

    `fit` comes before `forward`, unless the method needs no references. Images come as Views, with tiles
    where it has a `layout` of them; a tensor (B,3,S,S) uint8 stands for whole images alone.
    """

    def __init__(
        self,
        backbone: Backbone,
        method: Method,
        image_size: int,
        windows: WindowConfig = NO_WINDOWS,
        at_once: AtOnce | None = None,
    ) -> None:
        """`at_once`: what another detector on this device knows of its memory."""
        super().__init__()
        if (method.width, method.blocks) != (backbone.width, len(backbone.layers)):
            raise ModelError(
                f"The heads are for {method.blocks} blocks of width {method.width}; the backbone gives "
                f"{len(backbone.layers)} of width {backbone.width}: use the backbone they were trained on."
            )
        self.backbone, self.method = backbone, method.to(backbone.device).eval()
        self.encode = Encoder(backbone)
        self.image_size, self.settings, self.grid = image_size, windows, backbone.grid(image_size)
        default = WINDOW_CHUNK_PATCHES["cpu"]
        self.at_once = at_once or AtOnce(WINDOW_CHUNK_PATCHES.get(backbone.device.type, default))
        self.whole = WholeImages(self.grid)
        self.windows: Windows | None = windows_of(windows, self.grid, backbone.patch_size, self.at_once)
        self.layout: TileLayout | None = None
        self.memories = Memories()
        self.counted = CountedPatches(None, backbone.device)

    @property
    def of_distances(self) -> bool:
        """Whether its maps are distances to the references, not fused with those of windows."""
        return self.method.of_distances and self.windows is None

    @contextmanager
    def encoding_once(self) -> Iterator[None]:
        """Within it a batch that comes again, to this detector or to one `without` a reference, is encoded
        once."""
        before, self.encode = self.encode, Encoder(self.backbone, KEPT_BYTES)
        try:
            yield
        finally:
            self.encode = before

    @torch.no_grad()
    def forward(self, images: Views | Tensor, match: Matching | None = None) -> ScoreMaps:
        """Anomaly maps and raw scores of B images; what one image gets does not depend on the others, but for
        the rounding of products, for which a device may choose a kernel by their size.

        `match` stands in for the usual ways of matching, for whole images, windows and tiles.
        """
        views = self.encode.moved(Views.of(images))
        features = self.method.features(self.encode, views, self.memories.whole)
        found = self.method.combine(self.final_maps(views, features, match), self.side, features)
        return replace(found, base=self.counted.only(found.base, views.roi))

    def final_maps(self, views: Views, features: Features, match: Matching | None = None) -> OfBranches:
        """The method's final maps of images, whose whole images have these features, in each branch."""
        query, final = Query(views, features, match), dict[str, Tensor]()
        for name, branch in self.branches.items():
            raw = branch.raw_maps(self.method, self.encode, self.memory_of(name), query)
            final[name] = self.counted_final(raw, views.roi)
            if branch is self.whole:
                query = query._replace(raw=raw, final=final[name])
        return OfBranches(**final)

    @torch.no_grad()
    def raw_maps(self, images: Views | Tensor, match: Matching | None = None) -> Tensor:
        """The method's raw maps of whole images: (M,B,G,G)."""
        views = Views.of(images)
        query = Query(views, self.encode(views, self.method.want), match)
        return self.whole.raw_maps(self.method, self.encode, self.memories.whole, query)

    @torch.no_grad()
    def scale_maps(self, images: Views | Tensor, match: Matching | None = None) -> Tensor:
        """One map (S,B,G,G) for each of the method's `scales`, before they are brought together: the mean of
        the maps of that group."""
        views = Views.of(images)
        refined = self.counted.only(self.method.refine(self.raw_maps(views, match)), views.roi)
        return torch.stack([group.mean(0) for group in refined.chunk(len(self.method.scales))])

    def counted_final(self, raw: Tensor, roi: Tensor | None = None) -> Tensor:
        """Raw maps (M,B,G,G) -> refined ones on one scale, zero where patches do not count."""
        return self.counted.only(self.method.final(self.method.refine(raw)), roi)

    def restrict(self, roi: Tensor | None) -> None:
        """From now on patches count where `roi` (S,S) uint8 is 255, by the larger part of their area: in the
        memory bank, in maps and in scores. None: everywhere. ModelError, and nothing changes, where it leaves
        no patch."""
        counted = CountedPatches(roi, self.backbone.device)
        if not counted.of_grid(self.grid, self.grid).any():
            raise ModelError(
                "The region of interest covers no patch by half: draw it larger, or take a larger "
                "--image-size."
            )
        self.counted = counted

    @torch.no_grad()
    def fit(self, references: Views | Tensor, inside: OfBranches | None = None) -> None:
        """Fills the memories from one category's K references; what they held before is forgotten. `inside`
        (K,R,n) bool: which patches of each one's R rotated copies show the photograph and count (None: all).
        """
        if not self.method.needs_references:
            return
        if len(references) == 0:
            raise ModelError("There is no reference; only --fd none works without.")
        self.memories = Memories()  # free the old ones before the new ones are made
        self.method.forget()
        views, memories = Views.of(references), dict[str, Memory]()
        for name, branch in self.branches.items():
            if not self._shares_memory(name):
                patches = None if inside is None else getattr(inside, name)
                memories[name] = branch.fit(self.method, self.encode, views, patches)
        self.memories = Memories(**memories)

    @torch.no_grad()
    def take_test_images(self, batches: Iterable[Views], count: int) -> None:
        """Gives the method the `count` test images that it compares; what it saw before is forgotten."""

        def tokens_of_tiles(views: Views) -> Tensor:
            (features,) = self.tiles.encoded(self.encode, views, NOTHING_MORE)
            return features.tokens

        join = partial(torch.cat, dim=1)  # tokens (L,b,n,C) of several batches
        whole, tiles = Halving(lambda batch: self.encode(batch).tokens, join), Halving(tokens_of_tiles, join)

        def seen() -> Iterator[Seen]:
            for views in batches:
                yield Seen(views.digests(), whole(views), map(tiles, [] if views.tiles is None else [views]))

        self.memories = self.method.take_test_images(seen(), count, self.backbone.device)

    @property
    def takes_test_images(self) -> bool:
        """Whether `take_test_images` has to be called before `forward`."""
        return self.method.takes_test_images

    def lay_tiles(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Decides how photographs are cut into tiles from the references' sizes (width, height); forgets
        its memory."""
        self.memories = Memories()
        patch = self.backbone.patch_size
        self.layout = tiles_for(sizes, self.settings.tiles, self.grid, patch) if sizes else None

    def with_method(
        self, method: Method, memories: Memories | None = None, windows: WindowConfig | None = None
    ) -> Detector:
        """A detector of the same backbone and settings, or with other `windows`, of another method and its
        memories."""
        other = Detector(self.backbone, method, self.image_size, windows or self.settings, self.at_once)
        other.encode, other.layout, other.counted = self.encode, self.layout, self.counted
        other.memories = memories or Memories()
        return other

    def another(self, windows: WindowConfig | None = None) -> Detector:
        """A detector of the same backbone and settings, or with other `windows`, without memory and test
        images; trained heads are shared."""
        other = self.with_method(self.method.unfitted(), windows=windows)
        other.layout = None
        return other

    def copied(self) -> Detector:
        """A detector with the same memories, that goes its own way from now on."""
        return self.with_method(self.method.copied(), self.memories)

    def without(self, reference: int, references: int) -> Detector:
        """A detector as this one, but for one of its `references`, which it has never seen."""
        memories = self.memories.each(lambda memory: memory.without(reference, references))
        return self.with_method(self.method, memories)

    def of_whole_images(self) -> Detector:
        """It without windows and mutual scoring, and with its memory of whole images."""
        return self.with_method(self.method.alone().copied(), Memories(self.memories.whole), NO_WINDOWS)

    @property
    def side(self) -> int:
        """Patches along a side of its maps: with tiles FINER times the backbone's."""
        return self.grid if self.settings.tiles == 1 else FINER * self.grid

    @property
    def tiles(self) -> Tiles:
        """How its tiles lie; ValueError for a detector without."""
        if self.layout is None:
            raise ValueError("The detector has no layout of tiles: call lay_tiles() first.")
        return Tiles(self.layout)

    @property
    def branches(self) -> dict[str, Branch]:
        """Its branches by their names in Memories and OfBranches, that of whole images first."""
        found: dict[str, Branch] = {"whole": self.whole}
        if self.layout is not None:
            found["tiles"] = self.tiles
        if self.windows is not None:
            found["windows"] = self.windows
        return found

    def memory_of(self, branch: str) -> Memory | None:
        """What a branch is matched with: its own memory, or windows with that of the whole images."""
        return self.memories.whole if self._shares_memory(branch) else getattr(self.memories, branch)

    def _shares_memory(self, branch: str) -> bool:
        return branch == "windows" and self.settings.window_memory == WHOLE_IMAGE

    @property
    def looks_for(self) -> frozenset[str]:
        """All that it wants of the backbone besides tokens, of whole images or of windows."""
        return self.method.want | (NOTHING_MORE if self.windows is None else self.windows.match.want)

    @property
    def bytes_of_test_image(self) -> int:
        """What the tokens of one test image take, without tiles."""
        return (
            self.backbone.dtype.itemsize * len(self.backbone.layers) * self.whole.tokens * self.backbone.width
        )

    @property
    def window_patches(self) -> int:
        """Patches that all windows of an image have together."""
        return 0 if self.windows is None else self.windows.tokens

    def spare(self, images: int = 0) -> bool:
        """Takes less memory from now on: what was encoded is forgotten, or half as many windows are encoded
        at once. False where it is one window already, there are none, or they have fewer patches than so
        many whole images that are encoded at once."""
        if self.encode.forget():
            logger.warning("Out of memory: going on without what was encoded before.")
            return True
        return self.windows is not None and self.windows.halve(images * self.whole.tokens)
