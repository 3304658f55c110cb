"""The reports in a browser: whole, quiet, within the window, and deaf to what strangers wrote."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.binarize.core import BinarizeConfig, binarize
from components.common.asked import Asked
from components.common.report.page import environment
from components.common.results.metrics import Ensemble, Evaluation, Selection, Trial, write_metrics
from components.download.archive import unpack
from components.evaluate import report as evaluation
from components.evaluate.report import Answers, figures
from components.evaluate.report import write_report as evaluation_report
from components.preprocess.core import PreprocessConfig, preprocess
from components.select.core import write_report as sweep_report
from components.train.supervisor.report import write_report as training_report
from pipeline.report import compare, write_comparison, write_index

DESK, PHONE = (1200, 900), (360, 740)
HOSTILE = (
    "</p></article><script>document.title='owned'</script><img src=http://127.0.0.1:9/x"
    " onerror=alert(1)><style>*{display:none}</style>&amp; \x00\x1b[31m\ud800 \u202eright to left"
    ' "quoted" ' + "A" * 300
)

# What JSON that is read back may hold: half of a surrogate pair is refused there.
STRANGE = HOSTILE.replace("\ud800", "")


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory, sample: Path) -> Path:
    """A run's folder with all its reports, with hostile text wherever strangers can write."""
    run = tmp_path_factory.mktemp("runs") / "run & <b>more"
    _write_data(run, sample)
    _write_training(run)
    with pytest.MonkeyPatch.context() as patch:
        # Published figures are shown for test sets of RACE's sizes.
        patch.setattr(evaluation, "OFFICIAL", {"all": 600, "middle": 200, "high": 400})
        _write_evaluation(run)
        _write_selection(run)
    steps = [
        {"name": name, "seconds": 2.0, "cached": name == "binarize", "exit_status": 0}
        for name in ("preprocess", "binarize", "train")
    ]
    steps += [
        {
            "name": f"{name} (seed {seed}, lr 1e-05)",
            "trial": f"seed-{seed}-lr-1e-05",
            "log": "",
            "seconds": 61.0,
            "cached": False,
            "exit_status": 0,
        }
        for seed in (1, 2, 3)
        for name in ("train", "evaluate")
    ]
    steps.append({"name": "gate", "seconds": 0.5, "cached": False, "exit_status": 7})
    parameters = {"hostile": STRANGE, "min_accuracy": 90.0}
    record = {"state": "failed", "runner": "subprocess", "parameters": parameters}
    (run / "run.json").write_text(json.dumps({**record, "steps": steps}))
    write_index(run)
    write_comparison(compare([run, run]), run / "compare.html")
    return run


def _write_data(run: Path, sample: Path) -> None:
    (run / "race").mkdir(parents=True)
    unpack(sample / "RACE.tar.gz", run / "race")
    (run / "race" / "RACE" / "test" / "high" / "1 <b> &.txt").write_text("<script>no</script>")
    preprocess(PreprocessConfig(run / "race", run / "text", invalid="skip"))
    binarize(BinarizeConfig(run / "text", sample / "bpe", run / "data", workers=1))


def _write_training(run: Path) -> None:
    rng = random.Random(1)
    records: list[dict[str, Any]] = []
    for update in range(10, 2001, 10):
        records.append(
            {
                "split": "train",
                "epoch": 1 + (update > 1000),
                "update": update,
                "loss": 1.4 - update / 2000 + rng.gauss(0, 0.1),
                "accuracy": 25 + update / 40,
                "seconds": update / 10,
                "learning_rate": 1e-5,
                "gradient_norm": None if update == 50 else rng.random() * 20,
                "loss_scale": 4.0 * 2 ** (update // 500),
                "questions_per_second": 94.0,
            }
        )
        if update in (1000, 2000):
            figures = {"epoch": update // 1000, "update": update, "seconds": update / 10 + 1}
            records.append({"split": "valid", "loss": 0.7, "accuracy": 81.5, **figures})
            records.append({"split": "train_epoch", "loss": 0.9, "accuracy": 70.0, **figures})
    metrics = {
        "best_valid_accuracy": 81.5,
        "best_valid_update": 2000,
        "final_valid_loss": 0.7,
        "final_train_loss": 0.9,
        "updates": 2000,
        "skipped_updates": 3,
        "questions": 16000,
        "options": 4,
        "questions_per_second": 94.06,
        "seconds": 205.0,
        "processes": 2,
        "device": "cuda",
        "update_freq": 8,
        "parameters": {
            "arch": "roberta_large",
            "encoder_layers": 0,
            "encoder_embed_dim": 0,
            "effective_batch_size": 16,
            "data": STRANGE,
        },
        "hardware": {"GPU": "a GPU <b>"},
        "versions": {"torch": "2.13.0"},
    }
    (run / "model").mkdir()
    (run / "model" / "metrics.json").write_text(json.dumps(metrics))
    report = training_report(metrics, records)
    (run / "model" / "report.html").write_text(report, encoding="utf-8")


def _answers() -> Answers:
    rng = np.random.default_rng(1)
    n = 600
    gold = rng.integers(0, 4, n)
    logits = rng.normal(size=(n, 4))
    logits[np.arange(n), gold] += 2
    exp = np.exp(2 * logits)
    ids = [f"middle/{STRANGE}#{i}" for i in range(n)]
    return Answers(
        ids,
        gold,
        exp / exp.sum(axis=1, keepdims=True),
        ["middle"] * 200 + ["high"] * 400,
        rng.integers(50, 700, n),
        [Asked(name, f"What is {HOSTILE}?", (HOSTILE, "b", "c", "d")) for name in ids],
    )


def _write_evaluation(run: Path) -> None:
    answers = _answers()
    metrics = {
        **answers.scores({"middle": 200, "high": 400}).to_metrics(),
        "loss": 0.5,
        "chance": 25.0,
        "device": "cpu",
        "precision": "fp32",
        "parameters": {"model": STRANGE},
        **figures(answers),
    }
    (run / "report").mkdir()
    (run / "report" / "metrics.json").write_text(json.dumps(metrics))
    answers.write(run / "report" / "predictions.jsonl")
    report = evaluation_report(answers, dict.fromkeys(answers.worst(), HOSTILE), metrics)
    (run / "report" / "report.html").write_text(report, encoding="utf-8")


def _write_selection(run: Path) -> None:
    """What select makes of three trials with the same evaluation, one of them without figures."""
    scores = Evaluation.read(run / "report").scores
    spread = {"mean": 80.0, "deviation": 1.5, "median": 80.0, "min": 78.0, "max": 82.0}
    accuracies = {name: group.accuracy for name, group in scores.groups.items()}
    trials = [
        Trial(
            label=f"seed {seed}, lr 1e-05",
            collapsed=STRANGE if seed == 3 else "",
            updates=2000,
            validation_accuracy=None if seed == 3 else 81.0,
            validation_loss=None if seed == 3 else 0.5,
            accuracies=dict.fromkeys(accuracies) if seed == 3 else accuracies,
            interval={} if seed == 3 else scores.interval,
        )
        for seed in (1, 2, 3)
    ]
    labels = [trial.label for trial in trials]
    selection = Selection(
        scores=scores,
        chance=25.0,
        interval=scores.interval,
        selected=labels[0],
        validation_accuracy=81.0,
        median_accuracy=80.0,
        mean_accuracy=80.0,
        collapsed=1,
        trials=tuple(trials),
        spread=dict.fromkeys(("validation", "all", "middle", "high"), spread),
        parameters={"ensemble": 2},
        ensemble=Ensemble(labels[:2], scores, scores.interval, 0.04),
        ensemble_accuracy=scores.all.accuracy,
    )
    (run / "selection").mkdir()
    write_metrics(run / "selection", selection.to_metrics())
    (run / "selection" / "report.html").write_text(sweep_report(selection), encoding="utf-8")


PAGES = {
    "data/report.html": ["Data report", "sequences cut", "62,445", "Skipped files", "not JSON"],
    "model/report.html": ["81.5 %", "94.1", "Loss scale", "3 min 25 s", "3 updates skipped"],
    "report/report.html": ["83.2", "86.5", "81.3", "Surest mistakes", "✗ chosen", "A is right"],
    "selection/report.html": ["best of 3 trials", "ensemble of 2", "1 of 3 trials", "83.2", "1.50"],
    "index.html": ["not as good as was asked for (90 %)", "1 min 01 s", "failed (7)", "selected"],
    "compare.html": ["2 runs side by side", "None.", "right in the first only"],
}
# Charts by the title in their caption.
CHARTS = {
    "data/report.html": ["Train", "Dev", "Test, middle", "Test, high"],
    "model/report.html": [
        *("Loss", "Accuracy", "Learning rate", "Norm of the gradient", "Loss scale", "Throughput")
    ],
    "report/report.html": ["Accuracy by confidence", "Questions by confidence"],
    "selection/report.html": ["Validation accuracy", "Accuracy on all test questions"],
}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
@pytest.mark.parametrize("name", PAGES)
def test_a_report_is_whole_quiet_and_within_the_window(
    browser: Any, reports: Path, name: str, size: tuple[int, int], dark: bool, tmp_path: Path
) -> None:
    page = browser.open(reports / name, size, dark=dark)
    assert page.errors == []
    assert page.requests == []
    said = page.evaluate("document.body.innerText").replace("\xa0", " ")
    for figure in PAGES[name]:
        assert figure in said
    captions = page.evaluate(
        "[...document.querySelectorAll('figcaption')].map(e => e.firstChild.textContent)"
    )
    assert captions == CHARTS.get(name, [])
    assert page.evaluate("document.querySelectorAll('script, img, iframe, object').length") == 0
    assert page.evaluate("document.title").find("owned") == -1
    assert page.evaluate("document.documentElement.scrollWidth") == size[0]
    for figure in page.evaluate(
        "[...document.querySelectorAll('figure svg')].map(e => e.getBoundingClientRect().height)"
    ):
        assert figure > 100
    brightness = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (int(brightness.removeprefix("rgb(").partition(",")[0]) < 128) == dark
    page.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 10_000


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_text_stands_out_from_its_background(
    browser: Any, reports: Path, name: str, dark: bool
) -> None:
    """WCAG 2's contrast of at least 4.5 : 1, for every text on the page and in its charts."""
    page = browser.open(reports / name, DESK, dark=dark)
    pairs = page.evaluate(
        """(() => {
          const pairs = new Set();
          const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
          for (let node; (node = walker.nextNode());) {
            const element = node.parentElement;
            if (!node.data.trim() || element.closest('title')) continue;
            const style = getComputedStyle(element);
            let behind = element, ground = 'rgba(0, 0, 0, 0)';
            while (behind && ground === 'rgba(0, 0, 0, 0)') {
              ground = getComputedStyle(behind).backgroundColor;
              behind = behind.parentElement;
            }
            pairs.add((element.closest('svg') ? style.fill : style.color) + '|' + ground);
          }
          const canvas = document.createElement('canvas').getContext('2d',
            {willReadFrequently: true});
          const rgb = color => {
            canvas.fillStyle = color;
            canvas.fillRect(0, 0, 1, 1);
            return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
          };
          return [...pairs].map(pair => [pair, ...pair.split('|').map(rgb)]);
        })()"""
    )
    assert len(pairs) >= 2
    for pair, ink, ground in pairs:
        light, deep = sorted((_luminance(ink), _luminance(ground)), reverse=True)
        assert (light + 0.05) / (deep + 0.05) >= 4.5, pair


def _luminance(rgb: list[int]) -> float:
    def linear(value: float) -> float:
        return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4

    red, green, blue = (linear(value / 255) for value in rgb)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_what_strangers_wrote_is_shown_as_they_wrote_it(browser: Any, reports: Path) -> None:
    page = browser.open(reports / "report" / "report.html")
    passage = page.evaluate("document.querySelector('.passage').textContent")
    assert passage == HOSTILE.replace("\x00\x1b", "\ufffd\ufffd").replace("\ud800", "\ufffd")
    skipped = browser.open(reports / "data" / "report.html")
    assert "1 <b> &.txt" in skipped.evaluate("document.body.innerText")


def test_the_index_leads_to_every_report_and_file_that_is_there(
    browser: Any, reports: Path
) -> None:
    page = browser.open(reports / "index.html")
    links = page.evaluate("[...document.links].map(e => e.getAttribute('href'))")
    folders = ("data", "model", "report", "selection")
    assert {f"{folder}/report.html" for folder in folders} <= set(links)
    assert all((reports / link).is_file() for link in links)


def test_a_script_and_a_picture_that_got_in_would_do_nothing(browser: Any, tmp_path: Path) -> None:
    made = environment().from_string(
        """{% extends "base.html" %}
        {% block kind %}test{% endblock %}{% block title %}quiet{% endblock %}{% block main %}
        <script>document.title = 'owned'</script>
        <img src='http://127.0.0.1:9/x'><a onclick='x()'>y</a>{% endblock %}"""
    )
    (tmp_path / "page.html").write_text(made.render())
    opened = browser.open(tmp_path / "page.html")
    assert opened.evaluate("document.title") == "quiet – test"
    assert any("Content Security Policy" in error for error in opened.errors)
