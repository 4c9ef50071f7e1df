"""Parity refuses what a user would notice and lets through what nobody can: noise, ties, infinities, thinned records."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from satchel_runtimes.errors import IntegrityError
from satchel_runtimes.golden import records_from_bytes, records_to_bytes
from satchel_runtimes.parity import CLASSES, RAW, Limits, Parity, judge, numeric_class, record, spread_positions
from satchel_runtimes.tasks.task import DISTRIBUTION, INDEPENDENT, NUMBER, VECTOR

often = settings(max_examples=60, deadline=None, derandomize=True)
classes = st.sampled_from(sorted(CLASSES))
seeds = st.integers(0, 2**32 - 1)


def compare(
    kind: str,
    reference: Sequence[np.ndarray],
    answers: Sequence[np.ndarray],
    limits: Limits,
    *,
    keep: int | None = None,
) -> Parity:
    """Judge one array per sample against the record of another, beside a probability that agrees."""
    seen = [np.array([place % 10 / 10], np.float32) for place in range(len(reference))]
    samples = [
        {"x": record(kind, each, keep=keep, seed=place), "seen": record(INDEPENDENT, seen[place])}
        for place, each in enumerate(reference)
    ]
    return judge(samples, [{"x": each, "seen": seen[place]} for place, each in enumerate(answers)], limits)


def alone(kind: str, values: np.ndarray) -> Parity:
    """Judge a reference of one array per sample against itself."""
    return judge([{"x": record(kind, each)} for each in values], [{"x": each} for each in values], CLASSES["fp32"])


def distributions(seed: int, samples: int = 64, labels: int = 5) -> np.ndarray:
    """From sure to undecided, with near ties among them."""
    random = np.random.default_rng(seed)
    found: np.ndarray = random.dirichlet(np.full(labels, random.choice([0.2, 1.0, 20.0])), samples).astype(np.float32)
    return found


def moved(values: np.ndarray, seed: int, variation: float) -> np.ndarray:
    """Each row mixed with another distribution, so that their total variation is at most `variation`."""
    other = np.random.default_rng(seed + 1).dirichlet(np.ones(values.shape[1]), len(values))
    found: np.ndarray = ((1 - variation) * values + variation * other).astype(np.float32)
    return found


class TestDistributions:
    @often
    @given(classes, seeds)
    def test_noise_below_the_limits_is_never_refused(self, name: str, seed: int) -> None:
        limits, reference = CLASSES[name], distributions(seed)

        found = compare(DISTRIBUTION, reference, moved(reference, seed, 0.45 * limits.margin), limits)

        assert found.passed or found.figures["flipped_answers"] == 0, found.why
        if 0.45 * limits.margin <= limits.variation_mean:
            assert found.passed, found.why

    @often
    @given(classes, seeds, st.integers(0, 63))
    def test_a_flip_against_a_clear_lead_is_always_refused(self, name: str, seed: int, place: int) -> None:
        limits, reference = CLASSES[name], distributions(seed)
        row = reference[place]
        first, second = np.argsort(-row)[:2]
        row[first], row[second] = 0.5 + limits.margin, 0.5 - limits.margin
        row[[each for each in range(5) if each not in (first, second)]] = 0
        answers = reference.copy()
        answers[place, [first, second]] = 0.4999, 0.5001

        found = compare(DISTRIBUTION, reference, answers, limits)

        assert not found.passed
        assert found.why == "the top answer differs where the reference is not near a tie"
        assert found.where == f"sample {place}, x, single"

    @often
    @given(classes, seeds)
    def test_a_flip_near_a_tie_passes(self, name: str, seed: int) -> None:
        limits, reference = CLASSES[name], distributions(seed)
        lead = 0.9 * min(limits.margin, limits.variation_mean)
        reference[::4, :] = 0
        reference[::4, :2] = 0.5 + lead / 2, 0.5 - lead / 2
        answers = reference.copy()
        answers[::4, :2] = answers[::4, 1::-1]

        found = compare(DISTRIBUTION, reference, answers, limits)

        assert found.passed, found.why

    @often
    @given(seeds, st.integers(0, 63))
    def test_a_flip_is_seen_where_every_other_figure_is_fine(self, seed: int, place: int) -> None:
        """One wrong label of 64: the mean and the 95th percentile do not move, and the label is wrong all the same."""
        reference = distributions(seed)
        reference[place] = 0.65, 0.35, 0, 0, 0
        answers = reference.copy()
        answers[place] = 0.49, 0.51, 0, 0, 0

        found = compare(DISTRIBUTION, reference, answers, CLASSES["int8"])

        assert found.figures["total_variation_mean"] < 0.01
        assert found.figures["total_variation_p95"] < 0.01
        assert not found.passed

    @often
    @given(classes, seeds)
    def test_noise_above_the_limits_is_refused(self, name: str, seed: int) -> None:
        limits, reference = CLASSES[name], distributions(seed)
        uniform = np.full_like(reference, 0.2)
        distance = np.abs(reference - uniform).sum(axis=1).mean() / 2
        share = min(1.5 * limits.variation_mean / distance, 1.0)
        answers = ((1 - share) * reference + share * uniform).astype(np.float32)

        found = compare(DISTRIBUTION, reference, answers, limits)

        assert found.passed == (share * distance <= limits.variation_mean)


class TestOtherKinds:
    @often
    @given(classes, seeds, st.sampled_from([0.5, 2.0]))
    def test_vectors_are_judged_by_their_cosine(self, name: str, seed: int, times: float) -> None:
        limits, random = CLASSES[name], np.random.default_rng(seed)
        reference = random.normal(size=(64, 384)).astype(np.float32)
        # Noise of relative size r turns a vector by a cosine of about 1 - r*r/2.
        noise = math.sqrt(2 * times * (1 - limits.cosine_mean)) * random.normal(size=reference.shape)

        found = compare(VECTOR, reference, (reference + noise).astype(np.float32), limits)

        assert found.passed == (times < 1), found.why

    @often
    @given(classes, seeds)
    def test_a_single_bad_vector_in_ten_is_refused(self, name: str, seed: int) -> None:
        reference = np.random.default_rng(seed).normal(size=(64, 384)).astype(np.float32)
        answers = reference.copy()
        answers[::10] *= -1

        assert not compare(VECTOR, reference, answers, CLASSES[name]).passed

    @pytest.mark.parametrize("name", sorted(CLASSES))
    def test_independent_probabilities_must_stay_on_their_side_of_one_half(self, name: str) -> None:
        limits = CLASSES[name]
        reference = np.array([[0.9, 0.1], [0.5 + limits.margin, 0.2], [0.3, 0.7]], np.float32)
        crossed, near = reference.copy(), reference.copy()
        crossed[1, 0] = 0.5 - 1e-4
        tied = reference.copy()
        tied[1, 0], near[1, 0] = 0.5 + 1e-5, 0.5 - 1e-5

        assert not compare(INDEPENDENT, reference, crossed, limits).passed
        assert compare(INDEPENDENT, tied, near, limits).passed

    @pytest.mark.parametrize("name", sorted(CLASSES))
    def test_numbers_are_judged_against_the_spread_of_the_reference(self, name: str) -> None:
        limits = CLASSES[name]
        reference = np.linspace(-3, 3, 64, dtype=np.float32)[:, None]
        spread = float(reference.std())

        assert compare(NUMBER, reference, reference + 0.9 * limits.number_error * spread, limits).passed
        assert not compare(NUMBER, reference, reference + 1.1 * limits.number_error * spread, limits).passed

    @pytest.mark.parametrize("name", ["fp32", "fp16"])
    def test_raw_outputs_of_float_schemes_stay_near_the_reference(self, name: str) -> None:
        limit = CLASSES[name].relative_error
        assert limit is not None
        reference = np.random.default_rng(0).normal(size=(4, 32)).astype(np.float32)
        peaks = np.abs(reference).max(axis=1, keepdims=True)

        assert compare(RAW, reference, reference + 0.9 * limit * peaks, CLASSES[name]).passed
        assert not compare(RAW, reference, reference + 1.1 * limit * peaks, CLASSES[name]).passed

    def test_raw_outputs_of_int8_are_not_judged(self) -> None:
        reference = np.random.default_rng(0).normal(size=(4, 32)).astype(np.float32)

        assert compare(RAW, reference, 2 * reference, CLASSES["int8"]).passed


class TestValuesThatAreNotNumbers:
    @pytest.mark.parametrize("kind", [RAW, VECTOR])
    def test_equal_infinities_are_equal(self, kind: str) -> None:
        reference = np.random.default_rng(0).normal(size=(4, 32)).astype(np.float32)
        reference[:, 3], reference[:, 5] = np.inf, -np.inf

        found = compare(kind, reference, reference.copy(), CLASSES["fp32"])

        assert found.passed, found.why

    @pytest.mark.filterwarnings("ignore:invalid value")
    def test_two_answers_with_equal_infinities_are_not_alike(self) -> None:
        reference = np.random.default_rng(0).normal(size=(4, 32)).astype(np.float32)
        reference[:, 3] = np.inf

        found = alone(VECTOR, reference)

        assert found.passed, found.why

    @pytest.mark.parametrize("kind", [RAW, VECTOR])
    @pytest.mark.parametrize("other", [-np.inf, 1.0])
    def test_an_infinity_for_something_else_is_a_difference(self, kind: str, other: float) -> None:
        reference = np.random.default_rng(0).normal(size=(4, 32)).astype(np.float32)
        reference[:, 3] = np.inf
        answers = reference.copy()
        answers[:, 3] = other

        assert not compare(kind, reference, answers, CLASSES["fp32"]).passed

    @pytest.mark.parametrize("kind", [VECTOR, DISTRIBUTION, INDEPENDENT, NUMBER, RAW])
    def test_nan_is_refused_in_every_kind_and_class(self, kind: str) -> None:
        reference = distributions(0)
        answers = reference.copy()
        answers[17, 2] = np.nan

        found = compare(kind, reference, answers, CLASSES["int4"])

        assert (found.passed, found.why, found.where) == (False, "the answer holds NaN", "sample 17, x, single")

    def test_a_reference_with_nan_proves_nothing(self) -> None:
        reference = distributions(0)
        reference[5, 0] = np.nan

        found = compare(DISTRIBUTION, reference, reference, CLASSES["int8"])

        assert not found.passed
        assert "the reference model itself answers NaN" in found.why

    @pytest.mark.parametrize("kind", [VECTOR, DISTRIBUTION, INDEPENDENT, NUMBER])
    def test_a_reference_that_is_always_the_same_proves_nothing(self, kind: str) -> None:
        reference = np.tile(np.float32([0.7, 0.3]), (64, 1))

        found = alone(kind, reference)

        assert not found.passed
        assert "the same answer to every sample" in found.why

    def test_answers_that_are_raw_alone_are_judged_by_them(self) -> None:
        """As a finished compile kit records its own: what a user sees takes a tokenizer, which is not there."""
        values = np.random.default_rng(7).standard_normal((4, 6)).astype(np.float32)
        reference = [{"x": record(RAW, each)} for each in values]

        assert alone(RAW, values).passed
        assert not judge(reference, [{"x": each * 1.01} for each in values], CLASSES["fp32"]).passed
        assert "the same answer to every sample" in alone(RAW, values[[0, 0, 0]]).why

    def test_no_sample_proves_nothing(self) -> None:
        assert not judge([], [], CLASSES["fp32"]).passed

    def test_an_output_that_is_missing_or_of_another_shape_is_refused(self) -> None:
        reference = [{"x": record(VECTOR, each)} for each in np.eye(4, dtype=np.float32)]

        missing = judge(reference, [{}] * 4, CLASSES["int8"])
        shorter = judge(reference, [{"x": np.ones(3)}] * 4, CLASSES["int8"])

        assert "the output 'x' is missing" in missing.why
        assert "the shape is (3,), the reference's is (4,)" in shorter.why


class TestThinnedRecords:
    @often
    @given(seeds, st.sampled_from([0.2, 20.0]), st.sampled_from(["int8", "fp16"]))
    def test_part_of_a_vector_tells_what_all_of_it_does(self, seed: int, times: float, name: str) -> None:
        limits, random = CLASSES[name], np.random.default_rng(seed)
        reference = random.normal(size=(64, 16, 384)).astype(np.float32)
        noise = math.sqrt(2 * times * (1 - limits.cosine_mean)) * random.normal(size=reference.shape)
        answers = (reference + noise).astype(np.float32)

        whole = compare(VECTOR, reference, answers, limits)
        part = compare(VECTOR, reference, answers, limits, keep=400)

        assert whole.passed == part.passed == (times < 1)

    @often
    @given(seeds, st.booleans())
    def test_the_likeliest_words_tell_what_all_of_them_do(self, seed: int, wrong: bool) -> None:
        reference = np.random.default_rng(seed).dirichlet(np.full(3000, 0.01), 64).astype(np.float32)
        leads = -np.diff(-np.sort(-reference, axis=1)[:, :2], axis=1)[:, 0]
        clear = int(leads.argmax())
        answers = reference.copy()
        if wrong:
            first, second = np.argsort(-reference[clear])[:2]
            answers[clear, [first, second]] = answers[clear, [second, first]]

        whole = compare(DISTRIBUTION, reference[:, None], answers[:, None], CLASSES["fp32"])
        part = compare(DISTRIBUTION, reference[:, None], answers[:, None], CLASSES["fp32"], keep=64)

        assert whole.passed == part.passed == (not wrong)

    @often
    @given(st.integers(1, 10_000), st.integers(1, 500), st.integers(0, 100))
    def test_positions_are_spread_evenly_and_found_again(self, size: int, keep: int, seed: int) -> None:
        found = spread_positions(size, keep, seed)

        assert len(found) == min(size, keep)
        assert (np.diff(found) > 0).all()
        assert 0 <= found[0] and found[-1] < size
        assert (np.diff(found) <= 2 * size // min(size, keep) + 2).all()
        assert (found == spread_positions(size, keep, seed)).all()


finite = st.floats(-1e6, 1e6, width=32)
samples = st.lists(
    st.dictionaries(
        st.text("ab/ü ", min_size=1, max_size=6),
        st.tuples(
            st.sampled_from([VECTOR, DISTRIBUTION, INDEPENDENT, NUMBER, RAW]),
            arrays.arrays(np.float32, arrays.array_shapes(min_dims=1, max_dims=3, max_side=9), elements=finite),
        ),
        min_size=1,
        max_size=3,
    ),
    max_size=6,
)


class TestRecordsInFiles:
    @often
    @given(samples, st.sampled_from([None, 1, 7, 40]))
    def test_what_is_written_is_read_again(
        self, given_: Sequence[Mapping[str, tuple[str, np.ndarray]]], keep: int | None
    ) -> None:
        written = [
            {name: record(kind, array, keep=keep, seed=place) for name, (kind, array) in each.items()}
            for place, each in enumerate(given_)
        ]

        read = records_from_bytes(records_to_bytes(written), "golden/reference.safetensors")

        assert [list(each) for each in read] == [list(each) for each in written]
        for ours, theirs in zip(written, read, strict=True):
            for name in ours:
                for field in dataclasses.fields(ours[name]):
                    np.testing.assert_array_equal(getattr(ours[name], field.name), getattr(theirs[name], field.name))

    @often
    @given(st.binary(max_size=200), st.integers(0, 10_000))
    def test_a_damaged_file_is_an_integrity_error_and_nothing_else(self, noise: bytes, place: int) -> None:
        whole = records_to_bytes([{"x": record(DISTRIBUTION, each)} for each in distributions(0)])
        place %= len(whole)
        data = whole[:place] + noise

        try:
            records_from_bytes(data, "golden/reference.safetensors")
        except IntegrityError as error:
            assert "golden/reference.safetensors" in str(error)


@pytest.mark.parametrize(
    ("scheme", "kind"),
    [("fp32", "fp32"), ("fp16", "fp16"), ("int8-dynamic", "int8"), ("int8-weights", "int8"), ("int4-weights", "int4")],
)
def test_a_scheme_belongs_to_the_class_of_its_numbers(scheme: str, kind: str) -> None:
    assert numeric_class(scheme) == kind
