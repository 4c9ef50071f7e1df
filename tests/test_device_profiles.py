"""A device is data: what its files may say, what they inherit, and how a mistake in one is refused."""

from __future__ import annotations

import re
import tempfile
from dataclasses import FrozenInstanceError, fields
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet

from satchel_device_profiles import Budget, DeviceProfile, Engine, Measured, list_profiles, load_profile
from satchel_runtimes.errors import UsageError

REQUIRED = {
    "generic-x86-64", "generic-arm64",
    "raspberry-pi-5", "raspberry-pi-4", "raspberry-pi-3b-plus", "raspberry-pi-zero-2w", "jetson-orin-nano",
    "android-flagship", "android-mid", "iphone", "browser-mobile",
    "inf1", "inf2", "trn1", "trn2",
}  # fmt: skip

COMPLETE = """
name = "box"
title = "A box"
kind = "arm64"
formats = ["onnx"]
schemes = ["int8-dynamic", "fp32"]
engines = [{name = "onnxruntime", version = ">=1.17", python = ">=3.9"}]
"""


def written(folder: Path, text: str, name: str = "box.toml") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(UsageError) as caught:
        load_profile(written(folder, text))
    return str(caught.value)


def test_every_device_that_is_promised_has_a_profile() -> None:
    assert set(list_profiles()) >= REQUIRED


@pytest.mark.parametrize("name", list_profiles())
def test_every_shipped_profile_loads_under_the_name_of_its_file(name: str) -> None:
    profile = load_profile(name)

    assert profile.name == name
    assert profile.formats
    assert profile.schemes
    assert profile.engines
    assert list(profile.sequence_buckets) == sorted(set(profile.sequence_buckets))


@pytest.mark.parametrize("name", list_profiles())
def test_every_shipped_engine_range_means_the_same_to_pip_as_to_us(name: str) -> None:
    for engine in load_profile(name).engines:
        oldest = ".".join(map(str, engine.oldest))

        assert SpecifierSet(engine.version).contains(oldest)
        assert engine.python is None or SpecifierSet(engine.python)


@pytest.mark.parametrize("name", list_profiles())
def test_every_shipped_number_says_where_it_comes_from(name: str) -> None:
    text = (resources.files("satchel_device_profiles") / "data" / f"{name}.toml").read_text(encoding="utf-8")

    numbers = [line for line in text.splitlines() if re.match(r"\w+\s*=\s*[-+\d]", line)]

    assert not [line for line in numbers if not re.search(r"#.*[A-Za-z]{3}", line)]


def test_only_generic_profiles_may_be_judged_on_the_converting_machine() -> None:
    generic = {name for name in list_profiles() if load_profile(name).generic}

    assert generic == {"generic-x86-64", "generic-arm64"}


def test_nothing_is_called_measured_that_we_did_not_measure() -> None:
    assert all(load_profile(name).measured == Measured() for name in list_profiles())


def test_a_profile_cannot_be_changed_after_it_was_read() -> None:
    profile = load_profile("raspberry-pi-5")

    with pytest.raises(FrozenInstanceError):
        profile.memory_mb = 8192  # type: ignore[misc]  # the point of the test


def test_an_unknown_fact_is_absent() -> None:
    profile = load_profile("generic-x86-64")

    assert (profile.cores, profile.memory_mb, profile.peak_fp32_gflops_per_core) == (None, None, None)


def test_x86_int8_runs_without_the_fusion_that_was_measured_slow_and_fp32_is_left_alone() -> None:
    options = load_profile("generic-x86-64").session_options

    assert options == {"int8-dynamic": {"optimization.disable_specified_optimizers": "SkipLayerNormFusion"}}


@pytest.mark.parametrize(
    ("version", "oldest"),
    [(">=1.17", (1, 17)), ("==1.13.*", (1, 13)), (">=2.9,<2.10", (2, 9)), ("~=1.19.2, !=1.19.4", (1, 19, 2))],
)
def test_an_engine_knows_the_oldest_version_it_promises(version: str, oldest: tuple[int, ...]) -> None:
    assert Engine("onnxruntime", version).oldest == oldest


def test_an_unknown_device_is_refused_with_the_names_close_to_it_and_all_there_are() -> None:
    with pytest.raises(UsageError, match=r"did you mean .*raspberry-pi-5") as caught:
        load_profile("Raspbery-Pi-5")

    assert caught.value.exit_code == 2
    assert all(name in caught.value.fix for name in list_profiles())


@pytest.mark.parametrize("name", ["", "..", "../data/inf2", "data/inf2", "zzzz"])
def test_a_name_is_never_taken_for_a_path(name: str) -> None:
    with pytest.raises(UsageError, match="no device has that name"):
        load_profile(name)


def test_a_device_of_your_own_is_a_file_that_extends_a_shipped_one(tmp_path: Path) -> None:
    path = written(tmp_path, 'extends = "raspberry-pi-5"\nname = "shop"\ntitle = "Shop counter"\nmemory_mb = 8192\n')

    mine, shipped = load_profile(path), load_profile("raspberry-pi-5")

    assert (mine.name, mine.title, mine.memory_mb) == ("shop", "Shop counter", 8192)
    assert (mine.engines, mine.clock_mhz, mine.kind) == (shipped.engines, shipped.clock_mhz, "arm64")


def test_a_path_is_found_from_the_folder_one_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, COMPLETE, "my-device.toml")
    monkeypatch.chdir(tmp_path)

    assert load_profile("my-device.toml").name == "box"


def test_a_parent_is_found_beside_the_file_that_extends_it(tmp_path: Path) -> None:
    (tmp_path / "parents").mkdir()
    written(tmp_path / "parents", COMPLETE + "threads = 3\n", "grandparent.toml")
    written(tmp_path / "parents", 'extends = "grandparent.toml"\ncores = 5\n', "parent.toml")
    path = written(tmp_path, 'extends = "parents/parent.toml"\nname = "child"\ntitle = "Child"\n')

    profile = load_profile(path)

    assert (profile.threads, profile.cores, profile.schemes) == (3, 5, ("int8-dynamic", "fp32"))


def test_a_child_overrides_tables_key_by_key_and_lists_as_a_whole(tmp_path: Path) -> None:
    written(
        tmp_path, COMPLETE + "[budget]\nsize_mb = 30\nlatency_ms = 50\n[parity.int8]\ncosine_mean = 0.9\n", "p.toml"
    )
    path = written(
        tmp_path,
        'extends = "p.toml"\nname = "c"\ntitle = "C"\nschemes = ["fp32"]\n'
        "[budget]\nlatency_ms = 20\n[parity.int8]\ncosine_p05 = 0.8\n",
    )

    profile = load_profile(path)

    assert profile.schemes == ("fp32",)
    assert profile.budget == Budget(size_mb=30.0, latency_ms=20.0)
    assert (profile.parity.int8.cosine_mean, profile.parity.int8.cosine_p05) == (0.9, 0.8)


def test_a_child_does_not_inherit_what_names_its_parent_or_was_measured_on_it(tmp_path: Path) -> None:
    written(tmp_path, COMPLETE + 'generic = true\n[measured]\nwhere = "a box"\nfp32_gflops_per_core = 9\n', "p.toml")
    path = written(tmp_path, 'extends = "p.toml"\nname = "c"\ntitle = "C"\n')

    profile = load_profile(path)

    assert not profile.generic
    assert profile.measured == Measured()
    with pytest.raises(UsageError, match="'name' is missing"):
        load_profile(written(tmp_path, 'extends = "p.toml"\n'))


BUDGETS = st.dictionaries(
    st.sampled_from([field.name for field in fields(Budget)]),
    st.floats(min_value=0, max_value=1e9, allow_nan=False) | st.integers(min_value=0, max_value=10**9),
)


@settings(max_examples=30, deadline=None)
@given(parent=BUDGETS, child=BUDGETS)
def test_whatever_a_child_leaves_unsaid_its_parent_says(parent: dict[str, float], child: dict[str, float]) -> None:
    def table(budget: dict[str, float]) -> str:
        return "[budget]\n" + "".join(f"{key} = {value!r}\n" for key, value in budget.items())

    with tempfile.TemporaryDirectory() as folder:
        written(Path(folder), COMPLETE + table(parent), "parent.toml")
        path = written(Path(folder), 'extends = "parent.toml"\nname = "c"\ntitle = "C"\n' + table(child))
        profile = load_profile(path)

    assert profile.budget == Budget(**{**parent, **child})


@pytest.mark.parametrize(
    ("line", "key", "accepted"),
    [
        ("memory_gb = 4", "'memory_gb'", "memory_mb"),
        ("[budget]\nlatency = 4", "'latency' in 'budget'", "latency_ms"),
        ("[parity]\nint9 = {}", "'int9' in 'parity'", "int8"),
        ("[parity.int8]\ncosine = 0.9", "'cosine' in 'parity.int8'", "cosine_mean"),
        ('[session_options.fp32]\n"session.x" = "1"', "'session.x' in 'session_options.fp32'", "optimization."),
    ],
)
def test_an_unknown_key_is_refused_by_name_with_those_that_are_known(
    tmp_path: Path, line: str, key: str, accepted: str
) -> None:
    message = refusal(tmp_path, COMPLETE + line)

    assert f"the key {key}" in message
    assert accepted in message
    assert "box.toml" in message


def test_an_unknown_key_of_an_engine_is_refused_by_name(tmp_path: Path) -> None:
    message = refusal(tmp_path, COMPLETE.replace("python =", "pyton ="))

    assert "the key 'pyton' in 'engines.0' is not known" in message
    assert "name, python, version" in message


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('threads = "four"', "'threads' is 'four', not a whole number"),
        ("threads = 0", "'threads' is 0"),
        ("threads = true", "'threads' is True"),
        ("cores = 4.5", "'cores' is 4.5"),
        ("generic = 1", "'generic' is 1, not true or false"),
        ('instruction_sets = "neon"', "'instruction_sets' is 'neon', not a list"),
        ("sequence_buckets = [16, -1]", "'sequence_buckets.1' is -1"),
        ("memory_bandwidth_gb_s = nan", "'memory_bandwidth_gb_s' is nan"),
        ("budget = 3", "'budget' is 3, not a table"),
        ("[budget]\nsize_mb = -1", "'budget.size_mb' is -1, not a number of at least 0"),
        ("[budget]\nlatency_ms = inf", "'budget.latency_ms' is inf"),
        ('int8_weights = "s8"', "'int8_weights' is 's8', not one of 'int8', 'int8-reduced', 'uint8'"),
        ("extends = 3", "'extends' is 3, not a string"),
        ("[session_options]\nfp32 = 1", "'session_options.fp32' is 1, not a table"),
    ],
)
def test_a_wrong_value_is_refused_with_its_key_and_its_file(tmp_path: Path, line: str, why: str) -> None:
    message = refusal(tmp_path, COMPLETE + line)

    assert why in message
    assert "box.toml" in message


@pytest.mark.parametrize("version", ["1.17", "latest", "<2", ">=1.x", "", ">= 1.17;"])
def test_an_engine_without_an_oldest_version_is_refused(tmp_path: Path, version: str) -> None:
    message = refusal(tmp_path, COMPLETE.replace(">=1.17", version))

    assert "'engines.0.version' is" in message


def test_options_for_a_scheme_that_the_profile_does_not_name_are_refused(tmp_path: Path) -> None:
    line = '[session_options.int8-dynamc]\n"optimization.disable_specified_optimizers" = "GeluFusion"'

    assert "the scheme 'int8-dynamc'" in refusal(tmp_path, COMPLETE + line)


def test_a_mistake_in_a_parent_is_laid_at_the_parents_door(tmp_path: Path) -> None:
    written(tmp_path, COMPLETE + 'cores = "many"\n', "parent.toml")

    message = refusal(tmp_path, 'extends = "parent.toml"\nname = "c"\ntitle = "C"\n')

    assert "parent.toml" in message


@pytest.mark.parametrize("key", [field.name for field in fields(DeviceProfile)][:6])
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    lines = [line for line in COMPLETE.splitlines() if not line.startswith(f"{key} =")]

    assert f"the key '{key}' is missing" in refusal(tmp_path, "\n".join(lines))


def test_a_profile_that_extends_itself_is_refused_with_the_way_round(tmp_path: Path) -> None:
    written(tmp_path, 'extends = "box.toml"\n', "other.toml")

    assert "box.toml -> other.toml -> box.toml" in refusal(tmp_path, 'extends = "other.toml"\n')


def test_an_unknown_parent_is_refused_with_the_names_there_are(tmp_path: Path) -> None:
    message = refusal(tmp_path, 'extends = "raspberry-pi-6"\n')

    assert "it extends 'raspberry-pi-6'" in message
    assert "did you mean raspberry-pi-5" in message


def test_a_parent_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, 'extends = "gone.toml"\n')

    assert "gone.toml" in message
    assert "there is no such file" in message


@pytest.mark.parametrize("content", [b"name = ", b"\xff\xfe", b"threads = 1\nthreads = 2\n"])
def test_a_file_that_is_not_toml_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "box.toml").write_bytes(content)

    with pytest.raises(UsageError, match="make it a TOML file"):
        load_profile(str(tmp_path / "box.toml"))


def test_no_code_asks_which_device_it_is() -> None:
    package = resources.files("satchel_device_profiles")
    code = {entry.name: entry.read_text("utf-8") for entry in package.iterdir() if entry.name.endswith(".py")}

    assert {"profile.py", "tables.py"} <= code.keys()
    assert not [(file, name) for file, text in code.items() for name in list_profiles() if name in text]
