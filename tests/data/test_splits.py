from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemoclap_sb.data.splits import hold_out_speakers, split_fold, stratified_split


def corpus(sessions=3, per_stratum=10, emotions=("ang", "hap", "neu", "sad")):
    return [
        {
            "ID": f"{session}{gender}{emotion}{number}",
            "session": str(session),
            "spk_id": f"{session}{gender}",
            "gender": gender,
            "emotion": emotion,
        }
        for session in range(1, sessions + 1)
        for gender in "FM"
        for emotion in emotions
        for number in range(per_stratum)
    ]


def ids(rows):
    return [row["ID"] for row in rows]


def count(rows, *keys):
    return Counter(tuple(row[key] for key in keys) for row in rows)


row_lists = st.lists(
    st.tuples(st.sampled_from("abcd"), st.sampled_from("vwxyz")), min_size=2, max_size=120
).map(
    lambda pairs: [
        {"ID": f"{number:03d}", "emotion": emotion, "spk_id": speaker}
        for number, (emotion, speaker) in enumerate(pairs)
    ]
)


@settings(max_examples=150, deadline=None)
@given(row_lists, st.floats(0.01, 0.99), st.integers(0, 5), st.randoms(use_true_random=False))
def test_stratified_split_is_in_proportion_whatever_the_order(rows, fraction, seed, shuffler):
    kept, held_out = stratified_split(rows, fraction, ("emotion", "spk_id"), seed)
    assert sorted(ids(kept) + ids(held_out)) == ids(rows)
    assert ids(kept) == sorted(ids(kept))
    total = len(held_out)
    assert total == min(max(round(fraction * len(rows)), 1), len(rows) - 1)
    for (emotion,), size in count(rows, "emotion").items():
        taken = count(held_out, "emotion")[(emotion,)]
        assert abs(taken - size * total / len(rows)) < 1
        for stratum, part in count(rows, "emotion", "spk_id").items():
            if stratum[0] == emotion:
                share = taken * part / size
                assert abs(count(held_out, "emotion", "spk_id")[stratum] - share) < 1

    shuffled = list(rows)
    shuffler.shuffle(shuffled)
    assert set(ids(stratified_split(shuffled, fraction, ("emotion", "spk_id"), seed)[1])) == set(
        ids(held_out)
    )


def test_small_strata_leave_no_class_and_no_speaker_out():
    # Four a stratum: a tenth of each is 0.4 of an utterance, which rounds to none.
    rows = corpus(sessions=4, per_stratum=4)
    for seed in range(20):
        _, held_out = stratified_split(rows, 0.1, ("emotion", "spk_id"), seed)
        assert set(count(held_out, "emotion").values()) <= {3, 4}
        assert set(count(held_out, "spk_id").values()) <= {1, 2}
        assert len(count(held_out, "spk_id")) == 8


def test_seed_decides():
    rows = corpus()
    first, again, other = (
        ids(stratified_split(rows, 0.1, ("emotion", "spk_id"), seed)[1]) for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


@pytest.mark.parametrize("fraction", [0, 1, -0.5, 10])
def test_fraction_out_of_range(fraction):
    with pytest.raises(ValueError, match="between 0 and 1"):
        stratified_split(corpus(), fraction, ("emotion",), 1)


def test_too_few_rows_or_keys():
    with pytest.raises(ValueError, match="at least 2 rows"):
        stratified_split(corpus()[:1], 0.5, ("emotion",), 1)
    with pytest.raises(ValueError, match="at least one column"):
        stratified_split(corpus(), 0.5, (), 1)


@pytest.mark.parametrize(("speakers", "genders"), [(2, {1}), (4, {2}), (3, {1, 2})])
def test_speakers_are_drawn_from_both_sexes(speakers, genders):
    rows = corpus(sessions=5)
    drawn = set()
    for seed in range(10):
        kept, held_out = hold_out_speakers(rows, speakers, seed)
        held = {row["spk_id"] for row in held_out}
        assert len(held) == speakers
        assert held.isdisjoint(row["spk_id"] for row in kept)
        assert set(Counter(name[-1] for name in held).values()) == genders
        assert ids(hold_out_speakers(rows[::-1], speakers, seed)[1]) == ids(held_out)[::-1]
        drawn.add(frozenset(held))
    assert len(drawn) > 1


def test_named_speakers():
    _, held_out = hold_out_speakers(corpus(), ["1F", "3M"], seed=0)
    assert {row["spk_id"] for row in held_out} == {"1F", "3M"}
    with pytest.raises(ValueError, match="9F"):
        hold_out_speakers(corpus(), ["1F", "9F"], seed=0)


@pytest.mark.parametrize("speakers", [0, 6, 7, []])
def test_speakers_on_both_sides(speakers):
    with pytest.raises(ValueError, match="of 6 speakers"):
        hold_out_speakers(corpus(), speakers, seed=0)


@pytest.mark.parametrize("fold", [1, 2, 3])
@pytest.mark.parametrize(
    ("validation", "options"),
    [("random", {}), ("session", {}), ("speaker", {"valid_speakers": 1}), ("test", {})],
)
def test_folds(fold, validation, options):
    rows = corpus()
    splits, notes = split_fold(rows, fold, validation, seed=1, **options)
    assert {row["session"] for row in splits["test"]} == {str(fold)}
    assert len(splits["test"]) == 80
    assert set(ids(splits["train"])).isdisjoint(ids(splits["test"]))
    assert set(ids(splits["train"])).isdisjoint(ids(splits["valid"]))
    if validation == "test":
        assert splits["valid"] == splits["test"]
        assert len(splits["train"]) == 160
        assert len(notes) == 1
        assert "test session" in notes[0]
    else:
        assert sorted(ids(splits["train"] + splits["valid"] + splits["test"])) == sorted(ids(rows))
        assert notes == []
    if validation == "random":
        assert len(splits["valid"]) == 16
        assert set(count(splits["valid"], "emotion").values()) == {4}
    if validation == "session":
        assert {row["session"] for row in splits["valid"]} == {str(fold % 3 + 1)}


def test_development_never_sees_the_test_speakers():
    rows = corpus()
    for fold in (1, 2, 3):
        splits, notes = split_fold(rows, fold, "development", seed=1, valid_speakers=2)
        used = {row["spk_id"] for part in splits.values() for row in part}
        assert used == {row["spk_id"] for row in rows if row["session"] != str(fold)}
        assert splits["test"] == splits["valid"] and notes == []
        # The same speakers as for choosing a checkpoint, and none of them trained on.
        speaker, _ = split_fold(rows, fold, "speaker", seed=1, valid_speakers=2)
        assert (splits["train"], splits["valid"]) == (speaker["train"], speaker["valid"])


def test_valid_session_can_be_named():
    splits, _ = split_fold(corpus(), 1, "session", seed=1, valid_session=3)
    assert {row["session"] for row in splits["valid"]} == {"3"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"fold": 4, "validation": "random"}, "session 4, which has no utterances"),
        ({"fold": 1, "validation": "session", "valid_session": 1}, "validate on session 1"),
        ({"fold": 1, "validation": "session", "valid_session": 9}, "validate on session 9"),
        ({"fold": 1, "validation": "random", "valid_session": 2}, "valid_session=2"),
        ({"fold": 1, "validation": "speaker"}, "valid_speakers"),
        ({"fold": 1, "validation": "none"}, "'none'"),
    ],
)
def test_arguments_that_do_not_fit(arguments, said):
    with pytest.raises(ValueError, match=said):
        split_fold(corpus(), seed=1, **arguments)


def test_one_session_leaves_nothing_to_train_on():
    with pytest.raises(ValueError, match="nothing to train on"):
        split_fold(corpus(sessions=1), 1, "random", seed=1)
    with pytest.raises(ValueError, match="one more to train on"):
        split_fold(corpus(sessions=2), 1, "session", seed=1)


def test_speaker_on_both_sides_is_told():
    rows = corpus()
    assert split_fold(rows, 1, "random", seed=1)[1] == []
    rows = [row | {"spk_id": "1F"} if row["ID"] == "2Fang0" else row for row in rows]
    for fold in (1, 2):
        (note,) = split_fold(rows, fold, "random", seed=1)[1]
        assert f"1 speakers of the test session ({fold})" in note
        assert "1F" in note
    assert split_fold(rows, 3, "random", seed=1)[1] == []


def test_rows_without_speakers_are_shared_by_nobody():
    rows = [
        {"ID": f"{s}{n}", "session": str(s), "spk_id": "", "gender": "", "emotion": "neu"}
        for s in (1, 2)
        for n in range(10)
    ]
    _, notes = split_fold(rows, 1, "random", seed=1)
    assert notes == ["No speakers are named, so none can be said to be on one side only."]
