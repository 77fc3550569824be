"""The papers' numbers: plausible, with a source, and what keeps a run from standing beside them."""

from data import mvtec
from fdsl.config.run_config import RunConfig
from fdsl.metrics.exact import METRIC_NAMES
from fdsl.report import published
from tests.support.run_config import a_config
from utils.options import from_stored


def a_run(*seed, **changes):
    return from_stored(RunConfig, a_config(*seed, **changes))


def test_published_numbers_are_plausible_and_have_a_source():
    for dataset in ("mvtec", "visa"):
        rows = {shots: published.published_rows(dataset, shots) for shots in (1, 2, 4)}
        assert [[row["method"] for row in found] for found in rows.values()] == [
            ["FDSL", *(rival.method for rival in published.RIVALS)]
        ] * 3
        for found in rows.values():
            for row in found:
                assert row["source"] and set(METRIC_NAMES) <= set(row)
                pairs = [row[name] for name in METRIC_NAMES if row[name]]
                assert pairs and all(25 < mean < 100 and (std is None or 0 <= std < 6) for mean, std in pairs)
        for less, more in zip(
            rows[1] + rows[2], rows[2] + rows[4]
        ):  # nowhere do more references cost a point
            assert all(
                more[name][0] > less[name][0] - 1 for name in METRIC_NAMES if less[name] and more[name]
            )
    assert published.published_rows("folder", 1) == published.published_rows("mvtec", 3) == []
    assert published.published_rows("visa", 2)[0]["auroc_sp"] == (93.0, 0.3)
    assert [len(published.CATEGORIES[name]) for name in ("mvtec", "visa")] == [15, 12]
    assert set(published.CATEGORIES["mvtec"]) == set(mvtec.OFFICIAL_COUNTS)


def test_the_papers_row_in_a_report_says_what_does_not_compare():
    every = published.CATEGORIES["mvtec"]
    alike = published.published_row(a_run(14), every)
    assert alike["auroc_px"] == (96.8, 0.2) and alike["source"] == published.PAPER.source
    reported = published.published_row(a_run(14, backbone__image_size=448, image_score="max"), every[:2])[
        "source"
    ]
    assert "This run is not comparable with the published rows: 2 of MVTec AD's 15 categories" in reported
    assert "Unlike the paper: --image-size 448, --image-score max." in reported
    assert published.published_row(a_run(14, backbone__pretrained="none"), every) is None
    assert published.published_row(a_run(14, k_shot=3), every) is None


def test_only_a_datasets_own_categories_are_called_by_its_name():
    assert (
        published.dataset_title("mvtec", ["bottle", "gear"])
        == "MVTec AD"
        == published.dataset_title("mvtec", ["zipper"])
    )
    assert published.dataset_title("visa", ["circuit"]) == "Products in VisA's layout"
    assert (
        published.dataset_title("mvtec", []) == "Products in MVTec AD's layout"
        and published.dataset_title("–", ["a"]) == "–"
    )
