"""The benchmark of heads that generalise: what its heads see and learn from, and that its shortcuts judge as
the product's own detector does."""

import json

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch.testing import assert_close

import benchmarks.heads as benchmark
from benchmarks.heads import Product, main, parse
from benchmarks.judgement import Setting, products
from benchmarks.trial_heads import PLUS, VARIANTS, Judge
from data.images import image_to_pixels, open_image
from fdsl.calibration import set_scales
from fdsl.scoring import Scorer
from fdsl.turning import show
from models.detector import Detector
from models.methods.plus import unlike_the_rest
from models.methods.registry import METHODS
from tests.support.small_runs import BACKBONE, draw_dataset, write_model_config
from utils.config import MethodConfig

TRIED = ["maps", "one head, distances", "fdsl, mixed"]
HOW = {"": TRIED, " x plus": TRIED, " + plus": TRIED, " + nearest": ["fdsl, mixed"]}


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    """Two products, a tiny backbone, one reference, two steps."""
    place = tmp_path_factory.mktemp("heads")
    data, configs = draw_dataset(place / "data", ("cup", "nut")), write_model_config(place / "configs")
    backbone = BACKBONE[: BACKBONE.index("--image-size")]
    tower = [*backbone, "--image-size", "64", "--device", "cpu", "--precision", "fp32"]
    few = ["--steps", "2", "--drawn", "3", "--seeds", "0", "--variants", *TRIED]
    return [f"mvtec={data}", "--model-config", str(configs), *tower, "--cache", str(place / "cache"), *few]


@pytest.fixture(scope="module")
def both_products(flags):
    args = parse(flags)
    with torch.no_grad():
        yield [Product(args, *parts) for _, *parts in products(args)]


def test_every_variant_is_judged_on_each_product_and_goes_on(flags, tmp_path, capsys, monkeypatch):
    file = tmp_path / "rows.json"
    main([*flags, "--json", str(file), "--held-out", "nut"])
    names = {text + how for how, own in HOW.items() for text in own} | {PLUS, "nearest"}
    assert {row["category"] for row in json.loads(file.read_text())} == {"nut"}
    main([*flags, "--json", str(file)])
    rows = json.loads(file.read_text())
    assert sorted((row["method"], row["category"]) for row in rows) == sorted(
        (name, category) for name in names for category in ("cup", "nut")
    )
    assert all(0 <= value <= 100 for row in rows for value in row["metrics"].values())
    capsys.readouterr()
    monkeypatch.setattr(benchmark, "fitted", None)  # nothing is left to be trained
    main([*flags, "--json", str(file)])
    told = capsys.readouterr().out
    values = {row["category"]: row["metrics"] for row in rows if row["method"] == "fdsl, mixed x plus"}
    line = next(one for one in told.splitlines() if one.startswith("| fdsl, mixed x plus"))
    for category in ("cup", "nut"):
        assert f"{values[category]['ap_px']:.1f} / {values[category]['aupro']:.1f}" in line
    assert told.count("Points above") == 2 and json.loads(file.read_text()) == rows
    main([*flags, "--json", str(file), "--held-out", "nut"])
    assert "cup" not in capsys.readouterr().out


def test_heads_learn_on_the_other_products_alone(flags, monkeypatch, tmp_path):
    learnt = []
    plain = benchmark.fitted

    def fitted(variant, examples, *rest):
        learnt.append([shown.tokens.sum().item() for shown, _ in examples])
        return plain(variant, examples, *rest)

    monkeypatch.setattr(benchmark, "fitted", fitted)
    main([*flags, "--variants", "maps", "fdsl, mixed", "fdsl, drawn", "--json", str(tmp_path / "rows.json")])
    assert [len(one) for one in learnt] == [6, 6, 9, 9, 3, 3]  # six test images, three drawn ones
    for cup, nut in zip(learnt[::2], learnt[1::2]):
        assert not set(cup) & set(nut)


def test_examples_have_masks_of_half_the_side(both_products):
    drawn = both_products[0].examples(VARIANTS["fdsl, drawn"])
    assert len(drawn) == 3 and all(mask.shape == (1, 32, 32) for _, mask in drawn)
    real = both_products[0].examples(VARIANTS["maps"])
    assert [bool(mask.any()) for _, mask in real] == both_products[0].labels.tolist()


def test_what_heads_see(both_products):
    references, photographs = both_products[0].shown(1, 0)
    shown, bank = photographs[0], references.memory.bank
    normal = (bank.centred + bank.mean).double()
    for block, tokens in enumerate(shown.tokens.double()):
        likeness = np.sort((tokens @ normal[block].T).numpy())[:, ::-1]
        for number, count in enumerate((1, 3, 9)):
            expected = (1 - likeness[:, :count].mean(1)) / 2
            assert_allclose(shown.near[block, number].double(), expected, atol=1e-6)
    assert_close(shown.residuals.square().sum(-1) / 4, shown.near[:, 0], atol=1e-6, rtol=1e-4)
    unlike = unlike_the_rest(shown.tokens[:, None])[:, 0]
    assert_close(shown.unlike.exp(), unlike, atol=2e-3, rtol=0.05)


def test_judged_as_by_the_products_own_detector(both_products):
    product = both_products[0]
    references, photographs = product.shown(1, 0)
    backbone, variant = product.backbone, VARIANTS["fdsl, drawn"]
    torch.manual_seed(1)
    head = variant.head(backbone.width, len(backbone.layers)).eval()
    found = Judge(variant, head, references)(photographs)
    pixels = [image_to_pixels(open_image(path), product.side) for path in product.paths(product.records)]
    for name, how in (("fdsl", ""), ("both", " + nearest")):
        method = METHODS[name].of_heads(
            backbone.width, len(backbone.layers), MethodConfig(), head.state_dict()
        )
        scorer = Scorer(Detector(backbone, method, product.side))
        turned = show(scorer, references.photographs, references.turned)
        set_scales(scorer, references.photographs, turned)
        own = scorer(torch.stack(pixels), ["a photograph"] * len(pixels))
        assert_allclose(found[how].maps, own.base, atol=2e-6)
        assert_allclose(found[how].scores, own.base_score, atol=2e-6)
    scorer = Scorer(Setting.read(PLUS, references.turned).detector(backbone, product.side))
    show(scorer, references.photographs, references.turned)
    own = scorer(torch.stack(pixels), ["a photograph"] * len(pixels))
    assert_allclose(found[" x plus"].maps, np.sqrt(found[""].maps.numpy() * own.base), atol=2e-6)
