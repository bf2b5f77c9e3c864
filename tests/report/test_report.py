import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from itpn_ray.report import write_report
from tests.report import runs

VOID = {"meta", "img"}


class Page(HTMLParser):
    """Checks nesting; collects headings, addresses and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.addresses: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [v or "" for n, v in attributes if n in ("src", "href", "srcset")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings.append(data)


def page_of(folder: Path) -> Page:
    return Page(write_report(folder).read_text())


@pytest.mark.parametrize(
    "make",
    [
        runs.pretraining,
        runs.finetuning,
        runs.detection,
        runs.evaluation,
        runs.sweep,
        runs.prepared,
        runs.demo,
    ],
)
def test_every_kind_of_run_gets_one_file_that_needs_nothing_else(make, tmp_path: Path) -> None:
    path = write_report(make(tmp_path / "run"))
    text = path.read_text()
    page = Page(text)
    assert path == tmp_path / "run" / "report.html"
    assert {"script", "link", "iframe", "object"}.isdisjoint(page.tags)
    assert all(a.startswith("data:") or a.endswith("/report.html") for a in page.addresses)
    assert not re.search(r"url\(|@import|https?://", text)
    assert "prefers-color-scheme:dark" in text
    assert "hunter2" not in text
    assert "nan" not in re.findall(r'[\w-]+="[^"]*"', text)
    assert list(path.parent.glob(".report*")) == []


def test_an_empty_folder_says_how_it_ran_and_no_more(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    folder.mkdir()
    page = page_of(folder)
    assert page.headings == ["new", "How it ran"]
    assert "torch" in page.text


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_report(tmp_path / "nothing")


def test_pretraining_shows_loss_terms_probe_images_and_restarts(tmp_path: Path) -> None:
    page = page_of(runs.pretraining(tmp_path / "nano", restarted=True))
    assert page.headings == ["nano", "Curves", "Images", "Restarts", "How it ran"]
    for words in ("Pre-training", "finished", "masked pixels", "features, stage 3", "kNN top-1"):
        assert words in page.text
    assert "itpn-ray pretrain nano --workers 2" in page.text
    assert "Went on from a checkpoint 2 times; 18 s were lost" in page.text
    assert "Steps skipped because they were not finite: 1." in page.text
    assert "global_batch" in page.text
    assert sum(a.startswith("data:image/png;base64,") for a in page.addresses) == 1


def test_finetuning_shows_the_classes_worst_first(tmp_path: Path) -> None:
    page = page_of(runs.finetuning(tmp_path / "nano", status="FAILED"))
    assert "Classes, worst first" in page.headings
    assert "failed" in page.text
    order = [page.text.rindex(name) for name in ("weave", "leaf", "brick")]
    assert order == sorted(order)
    assert "80.5 %" in page.text
    assert "s3://***@bucket/w" in page.text


def test_detection_shows_average_precision_and_the_classes_worst_first(tmp_path: Path) -> None:
    page = page_of(runs.detection(tmp_path / "nano"))
    assert "Detection" in page.text
    assert "average precision of boxes on held-out images" in page.text
    assert "average precision of masks on held-out images" in page.text
    assert "AR100" not in page.text  # of 24 figures those are shown that sum the others up
    assert "31.0 %" in page.text
    assert "1.24x" in page.text
    order = [page.text.rindex(name) for name in ("ball", "cup", "pen")]
    assert order == sorted(order)


def test_many_classes_are_folded_away(tmp_path: Path) -> None:
    rows = [
        {"name": f"class {i}", "count": 5, "recall": i / 100, "precision": 0.5} for i in range(100)
    ]
    runs.write_json(tmp_path / "results.json", {"per_class": rows})
    page = page_of(tmp_path)
    assert "70 more classes" in page.text
    assert page.text.index("class 29") < page.text.index("70 more") < page.text.index("class 30")


def test_a_sweep_shows_its_front_and_its_failures(tmp_path: Path) -> None:
    folder = runs.sweep(tmp_path / "tune")
    text = write_report(folder).read_text()
    page = Page(text)
    trials = json.loads((folder / "results.json").read_text())["trials"]
    assert page.headings == ["tune", "Answer", "Accuracy against speed", "Trials", "How it ran"]
    assert "79.0 ± 0.6 %" in page.text
    assert "50% to 90%" in page.text
    front = [trial["trial"] for trial in trials if trial.get("front")]
    assert text.count('<tr class="marked">') == len(front)
    assert all(text.count(name) >= 3 for name in front)  # table, dot and its name
    assert "Trials that failed: 1." in page.text
    assert "worker died" in page.text
    assert "λ" in page.text
    assert "data:image/png" not in text  # the front is drawn anew, in the page's colours


def test_an_evaluation_shows_what_migration_gains(tmp_path: Path) -> None:
    page = page_of(runs.evaluation(tmp_path / "evaluate"))
    assert "Token migration" in page.headings
    assert "1.19x" in page.text
    assert "r = 0.4" in page.text


def test_prepared_data_lists_its_quarantine(tmp_path: Path) -> None:
    page = page_of(runs.prepared(tmp_path / "prepared"))
    assert "Images prepared" in page.headings
    assert "2 files in quarantine" in page.text
    assert "train/dots/<b>bad</b>.jpg" in page.text


def test_a_demo_tells_its_stages(tmp_path: Path) -> None:
    folder = runs.demo(tmp_path / "demo")
    write_report(folder / "pretrain")
    page = page_of(folder)
    assert page.headings == [
        *("demo", "Side by side", "Images", "Images prepared"),
        *("Pre-training: pretrain", "Fine-tuning: finetune", "Classes, worst first"),
        *("Evaluation: evaluate", "Token migration", "Sweep: tune", "Answer", "Trials"),
        *("Job", "How it ran"),
    ]
    assert [a for a in page.addresses if not a.startswith("data:")] == ["pretrain/report.html"]
    assert "linear probe on pixels" in page.text
    assert "evaluate on a local cluster" in page.text


def test_a_table_stands_before_its_many_runs_whose_images_are_in_their_own_reports(
    tmp_path: Path,
) -> None:
    cell = {"row": "r = 0", "column": "AP", "metric": "box_AP", "paper": 0.5, "value": 0.02}
    cell |= {"half": 0.01, "values": [0.01, 0.03], "epochs": [3], "images": [9], "hours": 0.1}
    found = {"held": "all else", "cells": [cell], "claims": [], "missing": []}
    runs.pretraining(tmp_path / "pretrain")
    for count, pictured in ((8, True), (9, False)):
        stages = [str(tmp_path / "pretrain")] * count
        runs.write_json(tmp_path / "table/results.json", {**found, "stages": stages})
        page = page_of(tmp_path / "table")
        assert page.headings.index("Beside the paper") < page.headings.index(
            "Pre-training: pretrain"
        )
        assert ("img" in page.tags) == pictured


def test_text_of_others_stays_text(tmp_path: Path) -> None:
    evil = "</style><script>alert(1)</script>"
    runs.write_json(
        tmp_path / "results.json",
        {"per_class": [{"name": evil, "count": 1, "recall": 1.0, "precision": 1.0}]},
    )
    runs.write_json(tmp_path / "config.json", {"run": evil, evil: evil, "command": evil})
    runs.write_lines(
        tmp_path / "metrics.jsonl", [{"split": evil, "step": 1, "epoch": 1.0, "top1": 0.5}]
    )
    runs.write_lines(tmp_path / "events.jsonl", [{"time": 1.0, "event": "end", "status": evil}])
    assert "script" not in page_of(tmp_path).tags


def test_values_of_secret_variables_and_fields_are_hidden(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "canary-77aa")
    runs.write_json(
        tmp_path / "config.json",
        {
            "run": "x",
            "storage": {"secret_key": "abcdef"},
            "command": "itpn-ray pretrain canary-77aa",
        },
    )
    text = write_report(tmp_path).read_text()
    assert "canary-77aa" not in text
    assert "abcdef" not in text


def test_a_report_is_written_over_the_last_one(tmp_path: Path) -> None:
    runs.write_json(tmp_path / "config.json", {"run": "one-before"})
    write_report(tmp_path)
    runs.write_json(tmp_path / "config.json", {"run": "another"})
    text = write_report(tmp_path).read_text()
    assert "another" in text
    assert "one-before" not in text
