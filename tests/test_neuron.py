"""Neuron by contract, not on hardware: made, loaded and predicted with the signature-locked fakes of tests/fake_neuron.

The fakes call a compiler with a strict command line and give real TorchScript that takes exactly one shape and dtype, so
padding, slicing, parity and the refusals are real; what a NeuronCore computes is not. `make test-neuron` runs the last test
of this file on an instance with the vendor's packages.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conversions import add_earlier, digests, run
from tests.neuron_machine import FAKES, device_tree, forget

import satchel
from satchel_converters.format import format_of
from satchel_converters.neuron import arguments
from satchel_device_profiles import load_profile
from satchel_runtimes import load
from satchel_runtimes.bundle import sha256_of
from satchel_runtimes.errors import IntegrityError, SupportError, ToolchainError, UsageError
from satchel_runtimes.golden import replay
from satchel_runtimes.neuron_cores import Allocator, count_cores, parse_cores, visible_cores
from satchel_runtimes.sessions.neuron import open_folder


@pytest.fixture(scope="module")
def inf2(fakes: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that passed its gates, as a user makes one."""
    return satchel.convert(tiny, device="inf2", out=tmp_path_factory.mktemp("inf2") / "tiny.satchel")


@pytest.fixture
def bundle(inf2: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return Path(shutil.copytree(inf2, tmp_path / "copy.satchel"))


@pytest.fixture
def placed(fakes: Path) -> list[tuple[int, int]]:
    """What the vendor's placement was told since the test began."""
    found: list[tuple[int, int]] = importlib.import_module("torch_neuronx").experimental.placed
    found.clear()
    return found


@pytest.fixture(scope="module")
def torch_model(tiny: Path) -> Any:
    from transformers import AutoModel

    return AutoModel.from_pretrained(tiny).eval()


def rows(*lengths: int) -> dict[str, np.ndarray]:
    ids, mask = np.zeros((len(lengths), max(lengths)), np.int64), np.zeros((len(lengths), max(lengths)), np.int64)
    for place, length in enumerate(lengths):
        ids[place, :length] = (np.arange(length) * 37 + 1000 + place) % 20000
        mask[place, :length] = 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def with_torch(model: Any, tensors: dict[str, np.ndarray]) -> np.ndarray:
    import torch

    with torch.no_grad():
        found: np.ndarray = model(**{k: torch.from_numpy(v) for k, v in tensors.items()}).last_hidden_state.numpy()
    return found


def rewrite(bundle: Path, name: str, change: Callable[[Any], Any]) -> None:
    """Change a JSON file of a bundle, and its digest with it."""
    file = bundle / name
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    manifest = json.loads((bundle / "bundle.json").read_text())
    with file.open("rb") as opened:
        manifest["files"][name] = {"bytes": file.stat().st_size, "sha256": sha256_of(opened)}
    (bundle / "bundle.json").write_text(json.dumps(manifest))


# A bundle


@pytest.mark.parametrize("length", [1, 31, 32, 33, 128, 300, 512])
def test_a_bundle_for_inf2_answers_as_torch_does(inf2: Path, torch_model: Any, length: int) -> None:
    with load(inf2, trust=True) as model:
        found = model.graphs["model"].run(rows(length))["last_hidden_state"]

    expected = with_torch(torch_model, rows(length))
    assert found.shape == expected.shape
    # The same kernels of torch, padded and not: the order of sums differs, nothing else.
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_it_predicts_and_its_golden_samples_hold(inf2: Path) -> None:
    with load(inf2, trust=True) as model:
        assert model.predict("Where is my order?").shape == (32,)
        assert replay(model).passed


def test_the_longest_lies_where_optimum_neuron_looks_for_the_only_one(inf2: Path) -> None:
    manifest = json.loads((inf2 / "bundle.json").read_text())

    assert [each.name for each in inf2.glob("*.neuron")] == ["model.neuron"]
    assert {graph["file"]: graph["bind"]["sequence"] for graph in manifest["graphs"]} == {
        "sequence_32/model.neuron": 32,
        "sequence_128/model.neuron": 128,
        "model.neuron": 512,
    }
    assert not list(inf2.rglob("compiler-*"))


def test_config_json_says_to_other_loaders_what_was_compiled(inf2: Path, tiny: Path) -> None:
    config = json.loads((inf2 / "config.json").read_text())
    section = config.pop("neuron")

    assert config == json.loads((tiny / "config.json").read_text())
    # What optimum-neuron 0.4.5 writes, and reads again.
    assert set(section) >= {
        *("compiler_type", "compiler_version", "inline_weights_to_neff", "static_batch_size", "static_sequence_length"),
        *("dynamic_batch_size", "tensor_parallel_size", "optlevel", "auto_cast", "auto_cast_type", "instance_type"),
        *("int_dtype", "float_dtype", "output_attentions", "output_hidden_states", "task"),
    }
    assert section["static_sequence_length"] == 512
    assert section["task"] == "feature-extraction"
    assert section["instance_type"] == "inf2"
    assert section["compiler_type"] == "fake"
    assert " ".join(section["compiler_args"]) == (
        "--target inf2 --auto-cast none --optlevel 2 --model-type transformer"
    )


def test_no_latency_of_a_fake_is_published(inf2: Path) -> None:
    measured = json.loads((inf2 / "bundle.json").read_text())["measured"]

    assert measured["latency_ms"] == {}
    assert measured["verdicts"]["latency"] == measured["verdicts"]["memory"] == "not_judged"
    assert measured["verdicts"]["parity"] == "passed"


@pytest.mark.parametrize(("device", "scheme"), [("trn2", "bf16"), ("inf1", "bf16-matmult")])
def test_casts_are_computed_and_stay_within_their_class(
    fakes: Path, tiny: Path, tmp_path: Path, device: str, scheme: str
) -> None:
    profile = tmp_path / "device.toml"
    profile.write_text(f'extends = "{device}"\nname = "short"\ntitle = "short"\nsequence_buckets = [32]\n')

    made = satchel.convert(tiny, device=str(profile), quantize=scheme, out=tmp_path / "tiny.satchel")

    manifest = json.loads((made / "bundle.json").read_text())
    error = manifest["measured"]["parity"]["feature-extraction"]["relative_error"]
    assert 1e-4 < error < 4e-2  # bfloat16 keeps 8 bits: it is not float32, and not noise
    with load(made, trust=True) as model:
        assert model.predict("hello").shape == (32,)


@pytest.mark.parametrize(
    ("device", "scheme", "said"),
    [
        ("inf2", "fp32", "--target inf2 --auto-cast none --optlevel 2 --model-type transformer"),
        (
            "trn1",
            "bf16-matmult",
            "--target trn1 --auto-cast matmult --auto-cast-type bf16 --optlevel 2 --model-type transformer",
        ),
        ("trn2", "bf16", "--target trn2 --auto-cast all --auto-cast-type bf16 --optlevel 2 --model-type transformer"),
        ("inf1", "bf16-matmult", "--fast-math none"),
        ("inf1", "bf16", "--fast-math all"),
    ],
)
def test_the_compiler_is_told_the_device_and_the_casts(device: str, scheme: str, said: str) -> None:
    neuron = format_of("neuron")

    assert " ".join(arguments(neuron.plan(neuron.scheme(scheme), load_profile(device), {}))) == said


def test_a_compiled_graph_that_answers_wrongly_is_refused(
    fakes: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_NEURON_WRONG", "32")  # the graph of this length
    profile = tmp_path / "device.toml"
    profile.write_text('extends = "inf2"\nname = "short"\ntitle = "short"\nsequence_buckets = [16, 32]\n')

    with pytest.raises(SupportError, match="the graph for 32 tokens is wrong by 0.0"):
        satchel.convert(tiny, device=str(profile), quantize="fp32", out=tmp_path / "out", cache=False)


def test_inf1_has_no_float32() -> None:
    neuron = format_of("neuron")

    with pytest.raises(SupportError, match="16 bits wide"):
        neuron.plan(neuron.scheme("fp32"), load_profile("inf1"), {})


def test_a_device_that_the_compiler_has_no_name_for_is_refused(tmp_path: Path) -> None:
    import dataclasses

    neuron = format_of("neuron")
    nameless = dataclasses.replace(load_profile("inf2"), compiler_target=None)

    with pytest.raises(SupportError, match="compiler_target"):
        neuron.plan(neuron.scheme("fp32"), nameless, {})


# The session


def test_longer_than_every_bucket_is_refused(inf2: Path) -> None:
    with load(inf2, trust=True) as model, pytest.raises(UsageError, match="compiled for at most sequence 512"):
        model.graphs["model"].run(rows(513))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda t: {**t, "input_ids": t["input_ids"].astype(np.float32)}, "it is float32"),
        (lambda t: {**t, "input_ids": t["input_ids"][0]}, r"it is int64 of \[7\]"),
        (lambda t: {k: v for k, v in t.items() if k != "attention_mask"}, "it is missing"),
    ],
)
def test_another_dtype_or_rank_is_refused(inf2: Path, change: Any, why: str) -> None:
    with load(inf2, trust=True) as model, pytest.raises(UsageError, match=why):
        model.graphs["model"].run(change(rows(7)))


def test_the_compiled_graph_itself_takes_one_shape_and_dtype(inf2: Path) -> None:
    """Else the tests above would prove nothing of padding."""
    import torch

    whole: Any = torch.jit.load(str(inf2 / "sequence_32" / "model.neuron"))
    tensors = [torch.from_numpy(each) for each in rows(32).values()]
    assert whole(*tensors)[0].shape == (1, 32, 32)

    for wrong in ([each[:, :31] for each in tensors], [each.int() for each in tensors]):
        with pytest.raises(torch.jit.Error, match="the graph was compiled for"):
            whole(*wrong)


def test_a_neuron_file_is_code_and_takes_trust(inf2: Path) -> None:
    with pytest.raises(IntegrityError, match="code") as caught:
        load(inf2)

    assert "trust=True" in str(caught.value) and "--trust" in str(caught.value)
    assert run("predict", inf2, "hello", path=[FAKES]).returncode == 16


def test_a_closed_session_says_so_and_gives_its_cores_back(inf2: Path, placed: list[tuple[int, int]]) -> None:
    first = load(inf2, trust=True)
    session = first.graphs["model"]
    first.close()
    first.close()

    with pytest.raises(UsageError, match="closed"):
        session.run(rows(4))
    with load(inf2, trust=True) as second:
        assert second.graphs["model"].used["cores"] == "0"


def test_threads_are_refused_and_cores_are_only_for_neuron(inf2: Path, minilm_bundle: Path) -> None:
    with pytest.raises(UsageError, match="NeuronCores"):
        load(inf2, trust=True, threads=2)
    with pytest.raises(UsageError, match="not placed on cores"):
        load(minilm_bundle, cores="0")


# Cores


@pytest.mark.parametrize(
    ("text", "cores"),
    [("4", (4,)), ("7-15", tuple(range(7, 16))), ("0,2-3", (0, 2, 3)), (" 1 , 0 ", (1, 0)), ("5-5", (5,))],
)
def test_cores_have_three_notations(text: str, cores: tuple[int, ...]) -> None:
    assert parse_cores(text, "cores") == cores


@pytest.mark.parametrize("text", ["", "a", "3-1", "1,,2", "1-", "-1", "1,1", "0-2,2", "0-99999999", "1.5", "0x1", "٣x"])
def test_what_names_no_cores_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="Cannot use cores="):
        parse_cores(text, "cores")


@pytest.mark.parametrize(
    ("cores", "more", "count"),
    [((2,), {}, 2), ((4, 4, 4, 4), {}, 16), ((8,), {}, 4), ((8,), {"NEURON_LOGICAL_NC_CONFIG": "1"}, 8), ((), {}, 0)],
)
def test_the_device_tree_is_counted_as_the_runtime_counts(
    tmp_path: Path, cores: tuple[int, ...], more: dict[str, str], count: int
) -> None:
    assert count_cores({"SATCHEL_NEURON_ROOT": str(device_tree(tmp_path, *cores)), **more}) == count


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({}, (0, 1, 2, 3)),
        ({"VISIBLE": "2-3"}, (2, 3)),
        ({"VISIBLE": "0,2-3"}, (0, 2, 3)),
        ({"NUM": "2"}, (0, 1)),
        ({"NUM": "0"}, (0, 1, 2, 3)),  # "all"
        ({"VISIBLE": "3", "NUM": "2"}, (3,)),  # the first takes precedence, whatever the second says
        ({"VISIBLE": "3", "NUM": "99"}, (3,)),
    ],
)
def test_the_variables_mean_what_the_runtime_documents(
    tmp_path: Path, given: dict[str, str], names: tuple[int, ...]
) -> None:
    words = {"VISIBLE": "NEURON_RT_VISIBLE_CORES", "NUM": "NEURON_RT_NUM_CORES"}
    tree = {"SATCHEL_NEURON_ROOT": str(device_tree(tmp_path, 2, 2))}

    assert visible_cores({**tree, **{words[name]: value for name, value in given.items()}}).names == names


@pytest.mark.parametrize(
    "given", [{"NEURON_RT_VISIBLE_CORES": "2-4"}, {"NEURON_RT_NUM_CORES": "5"}, {"NEURON_RT_NUM_CORES": "two"}]
)
def test_more_cores_than_there_are_is_refused_with_what_is_there(tmp_path: Path, given: dict[str, str]) -> None:
    with pytest.raises(UsageError) as caught:
        visible_cores({"SATCHEL_NEURON_ROOT": str(device_tree(tmp_path, 2, 2)), **given})

    if "two" not in given.values():
        assert "this machine has 4 NeuronCores, 0 to 3" in str(caught.value)


def test_bundles_of_one_process_go_to_different_cores(inf2: Path, placed: list[tuple[int, int]]) -> None:
    with load(inf2, trust=True) as first, load(inf2, trust=True) as second, load(inf2, trust=True, cores="3") as third:
        found = [each.graphs["model"].used["cores"] for each in (first, second, third)]

    assert found == ["0", "1", "3"]
    assert placed == [(0, 1)] * 3 + [(1, 1)] * 3 + [(3, 1)] * 3  # three lengths on each


def test_a_core_is_placed_by_its_number_within_the_process(
    inf2: Path, placed: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEURON_RT_VISIBLE_CORES", "2-3")

    with load(inf2, trust=True, cores="3") as model:
        assert model.graphs["model"].used["cores"] == "3"
    assert set(placed) == {(1, 1)}
    with pytest.raises(UsageError, match="core 0 is not one of this process: NEURON_RT_VISIBLE_CORES=2-3"):
        load(inf2, trust=True, cores="0")


def test_threads_that_open_sessions_share_the_cores_evenly(tmp_path: Path) -> None:
    allocator = Allocator()
    environment = {"SATCHEL_NEURON_ROOT": str(device_tree(tmp_path, 2, 2))}
    taken: list[tuple[int, ...]] = []
    start = threading.Barrier(8)

    def take() -> None:
        start.wait()
        taken.append(allocator.take(None, environment)[1])

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(taken) == [(0,), (0,), (1,), (1,), (2,), (2,), (3,), (3,)]
    allocator.give_back((2, 2))
    assert allocator.take(None, environment)[1] == (2,)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_a_batch_over_several_cores_gives_what_its_rows_give_alone(
    inf2: Path, placed: list[tuple[int, int]], count: int
) -> None:
    lengths = [5, 30, 17, 2, 40, 9, 21][:count]

    with load(inf2, trust=True, cores="1-3") as model:
        session = model.graphs["model"]
        assert session.used["cores"] == "1,2,3"
        together = session.run(rows(*lengths))["last_hidden_state"]
        for place, length in enumerate(lengths):
            alone = session.run({k: v[place : place + 1, :length] for k, v in rows(*lengths).items()})
            np.testing.assert_allclose(together[place, :length], alone["last_hidden_state"][0], atol=1e-5)

    assert together.shape == (count, max(lengths), 32)
    assert set(placed) == {(1, 1), (2, 1), (3, 1)}


def test_cores_without_a_device_are_refused_and_nothing_is_placed_without_one(
    inf2: Path, placed: list[tuple[int, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SATCHEL_NEURON_ROOT", str(tmp_path))

    with pytest.raises(UsageError, match="no Neuron device"):
        load(inf2, trust=True, cores="0")
    with load(inf2, trust=True) as model:
        assert model.graphs["model"].used["cores"] is None
    assert placed == []


def test_the_command_takes_cores(inf2: Path) -> None:
    done = run("predict", inf2, "hello", "again", "--trust", "--cores", "0-1", "--json", path=[FAKES])
    wrong = run("predict", inf2, "hello", "--trust", "--cores", "9", path=[FAKES])

    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2
    assert wrong.returncode == 2 and "choose among 0, 1, 2, 3" in wrong.stderr


def test_training_beside_a_device_does_not_ask_for_its_random_numbers(placed: object, torch_model: Any) -> None:
    """A device in torch need not keep any, and this one does not; what is trained lies on the host."""
    import copy

    import torch

    from satchel_converters.compress.prune import Movement, parse_prune, prune

    batches = [{"input_ids": torch.tensor([[5, 6, 7, 8]]), "attention_mask": torch.ones(1, 4, dtype=torch.int64)}]

    def loss(model: Any, batch: Any) -> Any:
        return model(**batch).last_hidden_state.square().mean()

    how = Movement(steps=2, learning_rate=1e-5)
    result = prune(copy.deepcopy(torch_model), None, parse_prune("ffn=0.1,by=movement"), batches, loss, movement=how)

    assert result.removed["ffn"]


# What is refused


def test_a_compiler_that_fails_is_told_in_its_own_last_words(
    fakes: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_NEURON_FAILS", "1")
    out = add_earlier(tmp_path)
    before = digests(out)

    with pytest.raises(SupportError, match="NCC_EBVF030"):
        satchel.convert(tiny, device="inf2", out=out, replace=True, cache=False)

    assert digests(out) == before
    assert json.loads((tmp_path / "model.report.json").read_text())["exit_code"] == 14


@pytest.mark.parametrize(
    "arguments",
    [
        "--auto-cast none",  # no --target
        "--target inf3 --auto-cast none",
        "--target inf2 --auto-cast some",
        "--target inf2 --autocast none",
        "--target inf2 --auto-cast none --auto-cast-type bf16",
    ],
)
def test_the_fake_compiler_is_strict(fakes: Path, tmp_path: Path, arguments: str) -> None:
    import torch

    neuronx = importlib.import_module("torch_neuronx")

    with pytest.raises(RuntimeError, match="NCC_EARG001"):
        neuronx.trace(torch.nn.Linear(2, 2), torch.ones(1, 2), compiler_args=arguments, compiler_workdir=str(tmp_path))
    with pytest.raises(TypeError):
        neuronx.trace(torch.nn.Linear(2, 2), torch.ones(1, 2), compiler_arguments="--target inf2")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("device inf2", None),
        ("a stub that raises", 'raise RuntimeError("WRONG PACKAGE. Use the vendor\'s index")'),
        ("an empty package", ""),
        ("an empty folder", "-"),
    ],
)
def test_a_missing_sdk_or_a_stub_of_it_is_told_with_the_vendor_and_the_kit(
    no_sdk: None, tiny: Path, tmp_path: Path, name: str, text: str | None
) -> None:
    stub = tmp_path / "packages" / "torch_neuronx"
    if text is not None:
        stub.mkdir(parents=True)
    if text not in (None, "-"):
        (stub / "__init__.py").write_text(str(text))

    done = run("convert", tiny, "--device", "inf2", "-o", tmp_path / "out.satchel", path=[tmp_path / "packages"])

    assert done.returncode == 15, done.stderr
    assert ("is not installed" if text is None else "is a stub") in done.stderr
    assert "AWS Neuron's own pip repository" in done.stderr and "--kit" in done.stderr
    assert "pip install 'satchel" not in done.stderr  # no extra of satchel brings it
    assert not (tmp_path / "out.satchel").exists()


def test_doctor_tells_a_stub_from_the_package(no_sdk: None, tmp_path: Path) -> None:
    (tmp_path / "torch_neuronx").mkdir()
    (tmp_path / "torch_neuronx" / "__init__.py").write_text('raise ImportError("WRONG PACKAGE")')

    def version(path: Path) -> Any:
        packages = json.loads(run("doctor", "--json", path=[path]).stdout)["packages"]
        return {each["name"]: each["version"] for each in packages}["torch-neuronx"]

    assert version(tmp_path) == "stub"
    assert version(FAKES).startswith("2.9.0")
    assert version(tmp_path / "nothing") is None


def test_another_version_of_the_sdk_is_refused_without_naming_the_public_index(
    inf2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.import_module("torch_neuronx"), "__version__", "2.1.2.2.4")

    with pytest.raises(ToolchainError, match=r"needs torch-neuronx >=2.9,<2.10; 2.1.2.2.4 is installed") as caught:
        load(inf2, trust=True)
    assert "pip repository" in caught.value.fix and "pip install" not in caught.value.fix


def test_a_fake_artifact_is_refused_by_anything_but_the_fake(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(importlib.import_module("torch_neuronx"), "SATCHEL_FAKE")  # as the vendor's package

    with pytest.raises(IntegrityError, match="a fake compiler made it"):
        load(bundle, trust=True)

    # Nor does it help to take the word out of config.json: the graph says it too.
    rewrite(bundle, "config.json", lambda config: {k: v for k, v in config.items() if k != "neuron"})
    with pytest.raises(IntegrityError, match="a fake compiler made it"):
        load(bundle, trust=True)


def test_a_file_that_is_no_compiled_graph_is_refused(bundle: Path) -> None:
    (bundle / "model.neuron").write_bytes(b"\xff" * 4096)
    with pytest.raises(IntegrityError, match="altered|bytes"):
        load(bundle, trust=True)

    manifest = json.loads((bundle / "bundle.json").read_text())
    with (bundle / "model.neuron").open("rb") as opened:
        manifest["files"]["model.neuron"] = {"bytes": 4096, "sha256": sha256_of(opened)}
    (bundle / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(SupportError, match="Cannot load a compiled graph"):
        load(bundle, trust=True)


# optimum-neuron


def test_a_folder_that_optimum_neuron_wrote_opens_as_a_session(
    fakes: Path, tiny: Path, torch_model: Any, tmp_path: Path
) -> None:
    """Laid out as optimum-neuron 0.4.5 does: one graph of two outputs, and a section without names of inputs."""
    import torch

    neuronx = importlib.import_module("torch_neuronx")
    folder = tmp_path / "optimum"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (tiny / name).is_file():
            shutil.copy(tiny / name, folder)

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch_model

        def forward(self, ids: Any, mask: Any, types: Any) -> Any:
            found = self.inner(input_ids=ids, attention_mask=mask, token_type_ids=types)
            return found.last_hidden_state, found.pooler_output

    example = tuple(torch.ones(2, 24, dtype=torch.int64) for _ in range(3))
    arguments = "--auto-cast none --optlevel 2 --target inf2 --model-type transformer"
    whole: Any = neuronx.trace(Model().eval(), example, compiler_args=arguments, compiler_workdir=str(tmp_path / "w"))
    torch.jit.save(whole, str(folder / "model.neuron"))  # type: ignore[no-untyped-call, unused-ignore]
    section = {
        "auto_cast": None,
        "auto_cast_type": None,
        "compiler_type": "neuronx-cc",
        "compiler_version": "2.21.0",
        "dynamic_batch_size": False,
        "float_dtype": "fp32",
        "inline_weights_to_neff": True,
        "instance_type": "inf2",
        "int_dtype": "int64",
        "model_type": "bert",
        "optlevel": "2",
        "output_attentions": False,
        "output_hidden_states": False,
        "static_batch_size": 2,
        "static_sequence_length": 24,
        "task": "feature-extraction",
        "tensor_parallel_size": 1,
    }
    config = json.loads((tiny / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "neuron": section}))

    with pytest.raises(IntegrityError, match="code"):
        open_folder(folder)
    session = open_folder(folder, trust=True, cores="2")
    found = session.run(rows(9, 20, 3))
    expected = with_torch(torch_model, rows(9, 20, 3))

    assert session.used["cores"] == "2"
    assert found["last_hidden_state"].shape == (3, 20, 32) and found["pooler_output"].shape == (3, 32)
    for place, length in enumerate((9, 20, 3)):
        np.testing.assert_allclose(found["last_hidden_state"][place, :length], expected[place, :length], atol=1e-5)
    with pytest.raises(UsageError, match="at most sequence 24"):
        session.run(rows(25))
    session.close()


def test_a_bundle_of_satchel_opens_as_such_a_folder_too(inf2: Path) -> None:
    session = open_folder(inf2, trust=True)
    with load(inf2, trust=True) as model:
        ours = model.graphs["model"].run(rows(6))["last_hidden_state"]

    np.testing.assert_allclose(session.run(rows(6))["last_hidden_state"], ours, atol=1e-5)
    session.close()


def test_a_folder_that_is_none_is_refused(fakes: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"lacks model.neuron"):
        open_folder(tmp_path, trust=True)


# On hardware


@pytest.mark.neuron
def test_a_real_compiler_and_a_real_device_keep_the_contract(no_sdk: None, minilm: Path, tmp_path: Path) -> None:
    """`make test-neuron`, on an Inf2, Trn1 or Trn2 instance with AWS Neuron's own packages."""
    forget()
    if not count_cores():
        pytest.skip("there is no Neuron device here: /dev/neuron* with its core_count in sysfs")
    if importlib.util.find_spec("torch_neuronx") is None:
        pytest.skip("torch_neuronx is not installed; see docs/neuron.md")
    made = satchel.convert(minilm, device="inf2", out=tmp_path / "minilm.satchel", cache=False)

    with load(made, trust=True) as model:
        used = model.graphs["model"].used
        assert "fake" not in str(used["engine"]) and used["cores"] is not None
        assert replay(model).passed
        single = model.predict("Where is my order?")
        np.testing.assert_allclose(model.predict(["Where is my order?"] * 5)[4], single, atol=1e-3)
