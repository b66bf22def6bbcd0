from __future__ import annotations

import pytest

from diffuse_dials.adapters.stills_processor import Outcome
from diffuse_dials.algorithms.integration import Result, check_any
from diffuse_dials.algorithms.wording import clause, sentence


@pytest.mark.parametrize("text", ["a blank", "a blank.", "a blank?", ValueError("a blank!"), "a blank. "])
def test_a_sentence_ends_with_one_mark_and_a_clause_without_a_full_stop(text):
    assert sentence(text) == str(text).strip() + ("." if str(text) == "a blank" else "")
    assert clause(text) == str(text).strip().rstrip(".")


@pytest.mark.parametrize("reason", ["12 spots were found: a blank?", "No reflection was left.", "an error"])
def test_images_that_all_failed_are_named_in_sentences(reason):
    result = Result("a.cbf", 0, "mark", Outcome("too few spots", reason))
    with pytest.raises(ValueError) as caught:
        check_any([result])
    assert f": {sentence(reason)} stills.csv" in str(caught.value) and "?." not in str(caught.value)
