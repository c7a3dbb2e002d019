"""Whatever the schema lets through can be planned, and whatever it does not has one sentence."""

import fuzz_settings


def test_mutated_configurations_end_in_a_sentence_or_a_plan_and_in_little_time(tmp_path):
    ends = list(fuzz_settings.results(seed=7, count=200, folder=tmp_path))
    wrong = [(name, end.text) for name, _, end in ends if end.outcome in ("traceback", "hang")]
    assert wrong == []
    counts = [end.outcome for _, _, end in ends]
    assert counts.count("planned") > 10 and counts.count("refused") > 100
