"""The metrics of answers, and the agreement of two raters."""

import pytest

from meshwright.services.evaluations import metrics


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
