"""Parameters refuse invalid values by name, and presets are checked before anything runs."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from spann import config
from spann.config import CODE_BITS, MAX_BEAM, BuildParams, SearchParams, load_toml
from spann.errors import InputError, MissingError
from spann.format.kinds import CodedPostings, ExactPostings
from spann.search.decision import SearchDecision
from spann.types import Metric

EXACT, CODED = ExactPostings(4, "uint8", 128), CodedPostings(4, "uint8", 128, 2, 4)
WHOLE = [(kind, f.name) for kind in (BuildParams, SearchParams) for f in dataclasses.fields(kind) if "int" in f.type]
REAL = [(kind, f.name) for kind in (BuildParams, SearchParams) for f in dataclasses.fields(kind) if "float" in f.type]


def field(kind, name):
    return next(f for f in dataclasses.fields(kind) if f.name == name)


def test_every_parameter_is_described():
    assert len(WHOLE) + len(REAL) == len(dataclasses.fields(BuildParams)) + len(dataclasses.fields(SearchParams))
    for kind, name in WHOLE + REAL:
        f = field(kind, name)
        assert f.metadata["low"] < f.metadata["high"]
        assert f.default is None or f.metadata["low"] <= f.default <= f.metadata["high"]


@pytest.mark.parametrize(("kind", "name"), WHOLE + REAL)
def test_both_ends_of_the_range_and_not_beyond(kind, name):
    low, high = field(kind, name).metadata["low"], field(kind, name).metadata["high"]
    assert getattr(kind(**{name: low}), name) == low
    assert getattr(kind(**{name: high}), name) == high
    beyond = [low - 1, -math.inf] + ([] if math.isinf(high) else [high + 1, math.inf])
    for value in beyond:
        with pytest.raises(InputError, match=f"{name} is {value!r}; it must be a"):
            kind(**{name: value})


@pytest.mark.parametrize(("kind", "name"), WHOLE + REAL)
@pytest.mark.parametrize("value", [math.nan, "8", True, [8], 8 + 0j])
def test_values_that_are_not_numbers_are_refused(kind, name, value):
    with pytest.raises(InputError, match=f"{name} is .*; it must be a"):
        kind(**{name: value})


@pytest.mark.parametrize(("kind", "name"), WHOLE)
def test_a_whole_number_is_kept_as_one(kind, name):
    """A count of 8.0, which a preset can hold, is either refused or taken as 8: it must not surface later."""
    with pytest.raises(InputError, match=f"{name} is 8.5; it must be a whole number"):
        kind(**{name: 8.5})
    try:
        made = kind(**{name: 8.0})
    except InputError as error:
        assert f"{name} is 8.0; it must be a whole number" in str(error)  # noqa: PT017 - either way is right
    else:
        assert type(getattr(made, name)) is int


@pytest.mark.parametrize(("kind", "name"), WHOLE + REAL)
def test_numbers_of_numpy_are_numbers(kind, name):
    """They are what a program has that computes its parameters; manifests and messages hold plain ones."""
    low = field(kind, name).metadata["low"]
    value = np.int64(max(low, 2)) if (kind, name) in WHOLE else np.float64(0.25)
    made = getattr(kind(**{name: value}), name)
    assert made == value
    assert isinstance(made, int | float)


def test_none_is_only_for_parameters_that_may_be_left_open():
    open_ = BuildParams(posting_size=None, centroids=None, max_replicas=None, code_bits=None)
    assert open_ == BuildParams()
    assert SearchParams(navigate=None).navigate is None
    for kind, name in ((BuildParams, "epsilon1"), (BuildParams, "seed"), (SearchParams, "epsilon2")):
        with pytest.raises(InputError, match=f"{name} is None"):
            kind(**{name: None})


def test_parameters_do_not_change():
    params = BuildParams()
    with pytest.raises(dataclasses.FrozenInstanceError):
        params.seed = 4
    changed = params.with_(seed=4, max_replicas=2)
    assert (changed.seed, changed.max_replicas, params.seed) == (4, 2, 0)
    with pytest.raises(InputError, match="BuildParams has no parameter 'sed'; it has calibration_queries, "):
        params.with_(sed=4)
    with pytest.raises(InputError, match="seed is -1"):
        params.with_(seed=-1)


@pytest.mark.parametrize(
    ("given", "count", "expected"),
    [
        ({"centroids": 0.1}, 1000, 100),
        ({"centroids": 0.1}, 1, 1),
        ({"centroids": 1e-6}, 1000, 1),
        ({"posting_size": 50}, 1000, 20),
        ({"posting_size": 50}, 10, 1),
        ({"posting_size": 1}, 10, 10),
        ({"posting_size": 50, "centroids": 0.1}, 1000, 100),
    ],
)
def test_centroids_for_a_collection(given, count, expected):
    assert BuildParams(code_bits=0, **given).decide("uint8", 8, Metric.L2, count).centroids == expected


@pytest.mark.parametrize(
    ("given", "dtype", "dim", "metric", "expected"),
    [
        # bits, posting_size, centroids, max_replicas
        ({}, "uint8", 63, "l2", (0, 31, 0.14, 8)),
        ({}, "uint8", 64, "l2", (2, 125, None, 1)),
        ({}, "float32", 15, "l2", (0, 31, 0.14, 8)),
        ({}, "float32", 16, "l2", (4, 125, None, 1)),
        ({}, "float32", 64, "l2", (2, 192, None, 1)),
        ({}, "uint8", 128, "l2", (2, 125, None, 1)),
        ({}, "uint8", 128, "cosine", (2, 192, None, 1)),
        ({}, "float32", 384, "cosine", (2, 192, None, 1)),
        ({}, "float16", 512, "ip", (1, 384, None, 1)),
        ({}, "float32", 1536, "cosine", (1, 384, None, 1)),
        ({"code_bits": 8}, "float32", 384, "l2", (8, 125, None, 1)),
        ({"code_bits": 0}, "float32", 384, "l2", (0, 31, 0.14, 8)),
        ({"code_bits": 1}, "uint8", 8, "l2", (1, 192, None, 1)),
        ({"code_bits": 0, "posting_size": 9}, "uint8", 128, "l2", (0, 9, None, 8)),
        ({"code_bits": 0, "centroids": 0.1}, "uint8", 128, "l2", (0, 31, 0.1, 8)),
        ({"code_bits": 2, "centroids": 0.1}, "uint8", 128, "l2", (2, 10, 0.1, 1)),
        ({"code_bits": 2, "centroids": 1e-6}, "uint8", 128, "l2", (2, 32_767, 1e-6, 1)),
        ({"code_bits": 2, "centroids": 0.1, "posting_size": 9}, "uint8", 128, "l2", (2, 9, 0.1, 1)),
        ({"code_bits": 4, "max_replicas": 3}, "uint8", 128, "l2", (4, 125, None, 3)),
    ],
)
def test_open_parameters_are_decided_from_the_vectors(given, dtype, dim, metric, expected):
    decision = BuildParams(seed=3, **given).decide(dtype, dim, Metric(metric), 10**6)
    bits, size, share, replicas = expected
    assert (decision.code_bits, decision.posting_size, decision.max_replicas) == (bits, size, replicas)
    assert decision.seed == 3
    assert decision.centroids == round(10**6 / size if share is None else share * 10**6)
    assert all(value is not None for value in dataclasses.asdict(decision).values())
    made = decision.recorded
    assert (made.code_bits, made.posting_size, made.centroids, made.max_replicas, made.seed) == (*expected, 3)
    assert made.decide(dtype, dim, Metric(metric), 10**6) == decision


def test_parameters_that_are_not_decided_answer_with_no_default():
    wish = BuildParams(code_bits=2)
    assert [wish.max_replicas, wish.directions, wish.posting_size, wish.calibration_queries] == [None] * 4
    assert not {"replicas", "bits", "shaped", "means", "posting_bound"} & set(dir(wish))


@pytest.mark.parametrize(("count", "queries"), [(100, 2000), (10**6, 2000), (4 * 10**6, 1000), (10**9, 200)])
def test_large_collections_are_calibrated_with_fewer_queries(monkeypatch, count, queries):
    monkeypatch.setattr(config, "DEFAULT_CALIBRATION", 2000)
    monkeypatch.setattr(config, "FEWEST_CALIBRATION", 200)
    assert BuildParams().decide("uint8", 128, Metric.L2, count).calibration_queries == queries
    assert BuildParams(calibration_queries=7).decide("uint8", 128, Metric.L2, count).calibration_queries == 7


def test_codes_have_only_known_numbers_of_bits():
    assert [BuildParams(code_bits=bits).code_bits for bits in CODE_BITS] == list(CODE_BITS) == [0, 1, 2, 3, 4, 8]
    for bits in (5, 6, 7):
        with pytest.raises(InputError, match=f"code_bits is {bits}; it must be one of 0, 1, 2, 3, 4, 8"):
            BuildParams(code_bits=bits)


def test_the_bound_is_twice_the_size_and_fits_the_format():
    largest = field(BuildParams, "posting_size").metadata["high"]
    for size in (50, largest):
        decision = BuildParams(posting_size=size).decide("uint8", 128, Metric.L2, 10**6)
        assert decision.posting_bound == 2 * size < 2**16


@pytest.mark.parametrize("max_postings", [1, 64, 1000, MAX_BEAM // 3, MAX_BEAM // 2, MAX_BEAM, 2**31])
def test_the_beam_follows_postings_and_kind(max_postings):
    """At least what is read, up to a limit that `navigate` has too; where that is given, it is the beam."""
    for kind in (EXACT, CODED):
        beam = SearchDecision.of(SearchParams(max_postings=max_postings), kind, 10).navigate
        assert max_postings <= beam <= MAX_BEAM or (beam == MAX_BEAM <= max_postings)
        for navigate in (1, 10, MAX_BEAM):
            given = SearchParams(max_postings=max_postings, navigate=navigate)
            assert SearchDecision.of(given, kind, 10) == SearchDecision(10, max_postings, math.inf, navigate, 100, 1.0)


def test_search_defaults_depend_on_codes_and_k():
    open_ = SearchParams()
    for kind, postings, beam in ((EXACT, 64, 192), (CODED, 128, 128)):
        decided = SearchDecision.of(open_, kind, 10)
        assert (decided.max_postings, decided.navigate) == (postings, beam)
    assert [SearchDecision.of(open_, CODED, k).rerank for k in (1, 10, 11, 500)] == [100, 100, 110, 5000]
    assert SearchDecision.of(SearchParams(rerank=7), CODED, 10).rerank == 7


def test_a_preset_gives_parameters(tmp_path):
    file = tmp_path / "a.toml"
    file.write_text('[build]\nposting_size = 64\nmetric = "cosine"\n[search]\nmax_postings = 8\n')
    assert load_toml(file) == {"build": {"posting_size": 64, "metric": "cosine"}, "search": {"max_postings": 8}}
    file.write_text("")
    assert load_toml(file) == {"build": {}, "search": {}}


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[build]\nsize = 3\n", r"\[build\] has no parameter 'size'; it has calibration_queries, "),
        ("[search]\nmetric = 'l2'\n", r"\[search\] has no parameter 'metric'"),
        ("[serve]\n", r"table \[serve\] is unknown"),
        ("build = 3\n", "build must be a table"),
        ("[build\n", "not a TOML file"),
    ],
)
def test_invalid_presets_are_refused(tmp_path, text, match):
    file = tmp_path / "a.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=match) as caught:
        load_toml(file)
    assert str(file) in str(caught.value)


def test_unreadable_presets_are_refused(tmp_path):
    with pytest.raises(MissingError, match=r"none\.toml"):
        load_toml(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not a TOML file"):
        load_toml(tmp_path / "binary.toml")
    with pytest.raises((InputError, MissingError)):
        load_toml(tmp_path)
