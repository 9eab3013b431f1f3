"""The metrics of answers, and the agreement of two raters."""

import sys
from pathlib import Path

import pytest

from meshwright.core.errors import InvalidInput
from meshwright.parts.evaluations import metrics
from meshwright.parts.evaluations.metrics import Metrics


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The cat sat on the mat.", 116.145),  # the textbook's example
        ("", None),
        ("1 2 3", None),
    ],
)
def test_readability_is_flesch_s_reading_ease(text: str, expected: float | None) -> None:
    found = metrics.readability(text)
    assert found == (None if expected is None else pytest.approx(expected))


def test_longer_words_and_sentences_are_harder_to_read() -> None:
    easy = metrics.readability("We fix it. You see it. It works.")
    hard = metrics.readability(
        "Organizational considerations necessitate comprehensive reconsideration of institutional "
        "responsibilities notwithstanding administrative simplification."
    )
    assert easy is not None and hard is not None and easy > 90 > 0 > hard


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The food was great!", 0.6588),
        ("The food was not great.", -0.5096),
        ("The food was great!\nThe food was awful.", (0.6588 - 0.4588) / 2),
        ("The food is at the door.", 0.0),
        ("good " * 300 + "bad " * 100, 0.5),  # piece by piece: one sentence of that length would take long
        ("", None),
        ("1 2 3", None),
    ],
)
def test_sentiment_is_the_mean_of_vader_s_scores_of_the_sentences(text: str, expected: float | None) -> None:
    found = metrics.sentiment(text)
    assert found == (None if expected is None else pytest.approx(expected, abs=0.01))


def test_sentiment_without_its_package_is_refused_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vaderSentiment.vaderSentiment", None)
    metrics.sentence_sentiment.cache_clear()
    with pytest.raises(InvalidInput, match="vaderSentiment, which is not installed") as refused:
        Metrics({}, tmp_path).check(["length", "sentiment"])
    assert "[sentiment]" in refused.value.remedy and refused.value.field == "metrics"
    Metrics({"sentiment": "json:dumps"}, tmp_path).check(["sentiment"])  # a name of the settings counts first


CONTEXT = "Meshwright keeps 300 tasks in SQLite. Ada Lovelace wrote the first release in March."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ada Lovelace wrote the release.", 1.0),
        ("It keeps 300 tasks in SQLite.", 1.0),
        (
            "It keeps 400 tasks in SQLite.",
            1 / 3,
        ),  # the sentence and its number do not stand there, SQLite does
        ("It keeps 300 tasks. Grace Hopper wrote it.", 1 / 2),  # of Grace, first in its sentence, no name
        ("", None),
    ],
)
def test_factuality_is_the_share_that_stands_in_the_context(text: str, expected: float | None) -> None:
    found = metrics.factuality(text, CONTEXT)
    assert found == (None if expected is None else pytest.approx(expected))


def test_exact_and_contained_answers() -> None:
    assert (metrics.exact("4 2\n", "4  2"), metrics.exact("four", "Four")) == (1.0, 0.0)
    assert (
        metrics.contains("It is\nPARIS, France.", "paris, france"),
        metrics.contains("Rome", "Paris"),
    ) == (1, 0)
    assert metrics.length("two words") == 2


def test_kappa_is_that_of_the_textbook_and_of_no_agreement() -> None:
    table = [(1, 1)] * 20 + [(1, 0)] * 5 + [(0, 1)] * 10 + [(0, 0)] * 15
    assert metrics.kappa(table) == pytest.approx(0.4)
    assert metrics.kappa([(1, 1), (0, 0), (7, 7)]) == pytest.approx(1.0)
    assert metrics.kappa([(1, 0), (0, 1)]) == pytest.approx(-1.0)
    assert metrics.kappa([(3, 3), (3, 3)]) is None and metrics.kappa([(1, 1)]) is None
    # quadratic weights by hand: observed (0 + 1 + 4) / 3, by chance the mean of all nine squares
    assert metrics.kappa([(1, 1), (2, 3), (3, 1)]) == pytest.approx(1 - (5 / 3) / (15 / 9))
