import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwright.agents.context.text import clip, count_tokens

ENGLISH = (
    "A turn is a unit of work. An actor gets a message, reads and changes its own state, "
    "and asks for effects."
)
CODE = 'def encode(self) -> bytes:\n    return json.dumps({"id": self.id, "n": 1024}).encode()\n'
CHINESE = "我们昨天讨论了这个系统的架构，认为应该使用消息队列来处理任务。"


@pytest.mark.parametrize(
    ("text", "true_count"), [(ENGLISH, 24), (CODE, 27), (CHINESE, 20)], ids=["english", "code", "chinese"]
)
def test_an_estimate_is_near_the_count_of_a_real_vocabulary_and_rather_above_it(
    text: str, true_count: int
) -> None:
    assert 0.95 * true_count <= count_tokens(text) <= 1.7 * true_count


def test_no_text_has_no_tokens() -> None:
    assert count_tokens("") == 0


@given(st.text())
def test_a_text_never_has_more_tokens_than_characters(text: str) -> None:
    assert count_tokens(text) <= len(text)


@given(st.text(), st.integers(min_value=0, max_value=50))
def test_a_clipped_text_fits_and_begins_like_the_whole(text: str, max_tokens: int) -> None:
    clipped = clip(text, max_tokens)
    assert count_tokens(clipped) <= max_tokens
    assert clipped == text or text.startswith(clipped.removesuffix("…"))


def test_a_text_that_fits_is_not_clipped() -> None:
    assert clip(ENGLISH, count_tokens(ENGLISH)) == ENGLISH


def test_a_clipped_text_says_that_it_was_clipped() -> None:
    assert clip(ENGLISH, 5) == "A turn is a…"
