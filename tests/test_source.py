"""A model is found and looked at without running any of its code, and one that is not whole is refused by name."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from satchel_converters.source import find_source, tasks_for
from satchel_runtimes.errors import IntegrityError, SatchelError, SupportError, UsageError
from satchel_runtimes.tasks import list_tasks

COMMIT = "0123456789abcdef0123456789abcdef01234567"

Json = Any  # whatever JSON holds

CONFIG: dict[str, Json] = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "hidden_size": 8,
    "max_position_embeddings": 64,
}
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]
WEIGHTS: dict[str, np.ndarray] = {
    "embeddings.weight": np.ones((10, 8), np.float32),
    "embeddings.position_ids": np.arange(64),
}


def write_json(file: Path, content: Json) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), "utf-8")


def make_model(folder: Path, **config: Json) -> Path:
    """A folder as the Hub has it; the weights are few, and no test here runs them."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", {**CONFIG, **config})
    write_json(folder / "tokenizer_config.json", {"model_max_length": 32, "mask_token": "[MASK]"})
    write_json(folder / "tokenizer.json", {})
    safetensors.numpy.save_file(WEIGHTS, folder / "model.safetensors")
    (folder / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# Model\nlicense: none of this\n")
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model")


def pool(folder: Path) -> Path:
    write_json(folder / "modules.json", MODULES)
    write_json(folder / "1_Pooling" / "config.json", {"pooling_mode_mean_tokens": True})
    return folder


def shard(folder: Path) -> list[str]:
    """Spread the weights over two files with an index."""
    (folder / "model.safetensors").unlink()
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for name, (key, value) in zip(names, WEIGHTS.items(), strict=True):
        safetensors.numpy.save_file({key: value}, folder / name)
    weight_map = dict(zip(WEIGHTS, names, strict=True))
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})
    return names


def refusal(
    kind: type[SatchelError],
    code: int,
    model: str | Path,
    **options: Any,  # Any: find_source's options
) -> SatchelError:
    with pytest.raises(kind) as caught:
        find_source(model, **options)
    assert caught.value.exit_code == code
    assert caught.value.fix
    return caught.value


# A folder


def test_a_folder_is_read_where_it_lies(model: Path) -> None:
    source = find_source(model)

    assert (source.id, source.folder, source.name) == (str(model), model, "model")
    assert (source.model_type, source.architecture, source.revision) == ("bert", "BertModel", None)
    assert source.weights == (model / "model.safetensors",)


def test_a_relative_path_and_a_symlink_name_the_same_folder(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model.parent)
    Path("link").symlink_to("model")

    assert find_source("model/").folder == find_source("link").folder == model


def test_a_real_model_is_what_its_card_and_its_files_say(minilm: Path) -> None:
    source = find_source(minilm)

    assert (source.license, source.parameters) == ("apache-2.0", 22_713_216)
    assert (source.facts.max_length, source.facts.mask_token) == (512, "[MASK]")
    assert tasks_for(source, None) == ("sentence-embedding", "feature-extraction")


@pytest.mark.parametrize(
    "name", ["./no/such/folder", "/no/such/model", "a/b/c", "-x", "a--b", "a..b", "a" * 5000, "mod\0el", ""]
)
def test_what_is_neither_a_folder_nor_a_hub_id_is_refused(name: str) -> None:
    error = refusal(UsageError, 2, name)

    assert "there is no such folder, and it is not a Hub id" in error.why
    assert "config.json and model.safetensors" in error.fix


def test_a_file_is_no_model(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model)

    assert "no such folder" in refusal(UsageError, 2, "model.safetensors").why


def test_a_folder_has_no_revisions(model: Path) -> None:
    error = refusal(UsageError, 2, model, revision="main")

    assert "it is a local folder, which has no revisions" in error.why


def test_a_folder_without_a_config_is_refused(model: Path) -> None:
    (model / "config.json").unlink()

    assert "the folder has no config.json" in refusal(UsageError, 2, model).why


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it is not valid JSON"),
        (b'{"model_type": ', "it is not valid JSON"),
        (b"\xff\xfe", "it is not valid JSON"),
        (b"[" * 100_000, "it is not valid JSON"),
        (b"[]", "it is not a JSON object"),
        (b"version https://git-lfs.github.com/spec/v1\n", "it is not valid JSON"),
    ],
)
def test_a_config_that_is_not_json_is_refused(model: Path, content: bytes, why: str) -> None:
    (model / "config.json").write_bytes(content)

    error = refusal(IntegrityError, 16, model)

    assert why in error.why
    assert str(model / "config.json") in error.what


# Weights


def test_a_git_lfs_pointer_is_not_taken_for_weights(model: Path) -> None:
    (model / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:53aa\nsize 90868376\n"
    )

    assert "model.safetensors is a git-lfs pointer, not the weights" in refusal(IntegrityError, 16, model).why


@pytest.mark.parametrize("missing", [1, 100])
def test_half_downloaded_weights_are_refused_with_both_sizes(model: Path, missing: int) -> None:
    size = (model / "model.safetensors").stat().st_size
    os.truncate(model / "model.safetensors", size - missing)

    error = refusal(IntegrityError, 16, model)

    assert error.why == f"model.safetensors has {size - missing:,} bytes, its header says {size:,}"
    assert "download the model again, and let it finish" in error.fix


@pytest.mark.parametrize("keep", [0, 4, 8, 40])
def test_weights_whose_header_is_cut_off_are_refused(model: Path, keep: int) -> None:
    os.truncate(model / "model.safetensors", keep)

    assert "model.safetensors has no readable safetensors header" in refusal(IntegrityError, 16, model).why


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_header_is_refused_or_read_and_nothing_else(model: Path, data: st.DataObject) -> None:
    content = bytearray(safetensors.numpy.save(WEIGHTS))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, 200))] = data.draw(st.integers(0, 255))
    (model / "model.safetensors").write_bytes(content)

    try:
        assert find_source(model).parameters >= 0
    except IntegrityError:
        pass


def test_shards_are_read_through_their_index(model: Path) -> None:
    names = shard(model)

    assert [file.name for file in find_source(model).weights] == names


def test_a_missing_shard_is_named(model: Path) -> None:
    names = shard(model)
    (model / names[1]).unlink()

    assert refusal(IntegrityError, 16, model).why == f"1 of 2 shards are missing, the first is {names[1]}"


def test_a_half_downloaded_shard_is_named(model: Path) -> None:
    names = shard(model)
    os.truncate(model / names[1], 50)

    assert names[1] in refusal(IntegrityError, 16, model).why


def test_one_whole_file_counts_before_an_index_as_in_transformers(model: Path) -> None:
    write_json(model / "model.safetensors.index.json", {"weight_map": {"x": "gone.safetensors"}})

    assert find_source(model).weights == (model / "model.safetensors",)


@pytest.mark.parametrize(
    "weight_map",
    [None, [], {}, {"x": 1}, {"x": "../../secret.safetensors"}, {"x": "/secret.safetensors"}, {"x": "x.bin"}],
)
def test_an_index_that_does_not_name_files_beside_it_is_refused(model: Path, weight_map: Json) -> None:
    shard(model)
    write_json(model / "model.safetensors.index.json", {"weight_map": weight_map})

    assert "model.safetensors.index.json" in refusal(IntegrityError, 16, model).why


@pytest.mark.parametrize("pickle", ["pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5"])
def test_pickle_weights_are_refused_with_the_way_out(model: Path, pickle: str) -> None:
    (model / "model.safetensors").rename(model / pickle)

    error = refusal(IntegrityError, 16, model)

    assert f"they are in {pickle}, a format whose loading can run code; satchel reads safetensors only" in error.why
    assert "save_pretrained(…) write safetensors" in error.fix


def test_safetensors_beside_pickles_are_taken(model: Path) -> None:
    (model / "pytorch_model.bin").write_bytes(b"\x80\x04.")

    assert find_source(model).weights == (model / "model.safetensors",)


def test_a_folder_without_any_weights_is_refused(model: Path) -> None:
    (model / "model.safetensors").unlink()

    assert "it holds no model.safetensors" in refusal(IntegrityError, 16, model).why


# The repository's own code


def test_code_of_an_unknown_model_type_is_not_run_unless_allowed(tmp_path: Path) -> None:
    model = make_model(tmp_path / "own", model_type="my_net", auto_map={"AutoModel": "modeling.MyNet"})
    (model / "modeling.py").write_text("raise SystemExit('this ran')")

    error = refusal(IntegrityError, 16, model)

    assert "'my_net' is not in transformers; its config.json asks to run its own code" in error.why
    assert "--trust-remote-code" in error.fix
    assert find_source(model, trust_remote_code=True).trust_remote_code


def test_code_that_transformers_has_itself_is_not_needed(tmp_path: Path) -> None:
    model = make_model(tmp_path / "own", auto_map={"AutoModel": "modeling.MyBert"})

    assert not find_source(model).trust_remote_code


@pytest.mark.parametrize("revision", [None, "main", "v1.0", "0123456", COMMIT.upper(), COMMIT + "0"])
def test_code_from_the_hub_is_trusted_only_at_a_commit(revision: str | None) -> None:
    error = refusal(IntegrityError, 16, "owner/name", revision=revision, trust_remote_code=True)

    assert "a branch or tag can change under you" in error.why
    assert "--revision <40 hexadecimal digits>" in error.fix


# What the folder says of the model


@pytest.mark.parametrize(
    ("card", "license"),
    [
        ("---\nlicense: mit\n---\n", "mit"),
        ("---\r\ntags:\r\n- a\r\nlicense: 'apache-2.0'\r\n---\r\n", "apache-2.0"),
        ('---\nlicense: "cc-by-4.0"  # ours\n---\n', "cc-by-4.0"),
        ("---\nlicense:\n- mit\n- bsd\n---\n", "mit"),
        ("---\nlicense:\nlanguage: en\n---\n", None),
        ("---\nlanguage: en\n---\nlicense: mit\n", None),
        ("# A model\nlicense: mit\n", None),
        ("", None),
    ],
)
def test_the_license_is_read_from_the_front_of_the_card(model: Path, card: str, license: str | None) -> None:
    (model / "README.md").write_bytes(card.encode())

    assert find_source(model).license == license


def test_without_a_card_the_license_is_not_known(model: Path) -> None:
    (model / "README.md").unlink()

    assert find_source(model).license is None


def test_parameters_are_counted_and_counters_and_masks_are_not(model: Path) -> None:
    extra: dict[str, np.ndarray] = {"scale": np.ones(1, np.float32), "steps": np.arange(5), "seen": np.ones(7, bool)}
    safetensors.numpy.save_file({**WEIGHTS, **extra}, model / "model.safetensors", metadata={"format": "pt"})

    assert find_source(model).parameters == 10 * 8 + 1


def test_parameters_of_all_shards_are_counted(model: Path) -> None:
    shard(model)

    assert find_source(model).parameters == 10 * 8


FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "modules.json",
    "1_Pooling/config.json",
    "vocab.txt",
    "modeling.py",
    "spiece.model",
    "chat_template.jinja",
)


@pytest.mark.parametrize("name", FILES)
def test_the_digest_changes_when_any_file_of_the_model_changes(tmp_path: Path, name: str) -> None:
    model = pool(make_model(tmp_path / "model"))
    before = find_source(model).digest
    file = model / name

    if file.exists() and file.suffix == ".json":
        file.write_text(file.read_text() + " ")
    elif file.exists():
        safetensors.numpy.save_file({**WEIGHTS, "one": np.ones(1, np.float32)}, file)
    else:
        file.write_text("new")

    assert find_source(model).digest != before


def test_the_digest_changes_when_a_file_is_renamed(model: Path) -> None:
    (model / "a.txt").write_text("same")
    before = find_source(model).digest

    (model / "a.txt").rename(model / "b.txt")

    assert find_source(model).digest != before


def test_the_digest_is_of_the_content_not_of_the_place_or_the_card(model: Path) -> None:
    before = find_source(model).digest
    moved = model.rename(model.with_name("moved"))
    (moved / "README.md").write_text("a better card")

    assert find_source(moved).digest == before


@pytest.mark.parametrize(
    ("tokenizer", "config", "tokens"),
    [
        ({"model_max_length": 32}, {}, 32),
        ({"model_max_length": 1e30}, {}, 64),
        ({"model_max_length": None}, {}, 64),
        ({}, {}, 64),
        ({}, {"max_position_embeddings": None, "n_positions": 48}, 48),
        ({}, {"model_type": "roberta", "pad_token_id": 1, "max_position_embeddings": 514}, 512),
    ],
)
def test_the_longest_text_is_what_tokenizer_and_positions_allow(
    tmp_path: Path, tokenizer: Json, config: Json, tokens: int
) -> None:
    model = make_model(tmp_path / "model", **config)
    write_json(model / "tokenizer_config.json", tokenizer)

    assert find_source(model).facts.max_length == tokens


@pytest.mark.parametrize(
    ("file", "content", "why"),
    [
        ("tokenizer_config.json", {"model_max_length": "many"}, "its model_max_length is 'many', not a number"),
        ("tokenizer_config.json", [], "it is not a JSON object"),
        ("modules.json", {}, "it is not a JSON list"),
        ("modules.json", [1], "modules.json lists 1"),
        ("modules.json", [{"path": ""}], "which has no type and path"),
        ("modules.json", [{"type": "a.Pooling", "path": "../.."}], "leaves the folder"),
        ("modules.json", [{"type": "a.Pooling", "path": "/etc"}], "leaves the folder"),
    ],
)
def test_what_the_files_of_a_model_say_is_checked(model: Path, file: str, content: Json, why: str) -> None:
    write_json(model / file, content)

    with pytest.raises(IntegrityError) as caught:
        tasks_for(find_source(model), None)
    assert why in caught.value.why
    assert caught.value.exit_code == 16


# The task


@pytest.mark.parametrize(
    ("architecture", "tasks"),
    [
        ("BertModel", ("feature-extraction",)),
        ("BertForSequenceClassification", ("text-classification",)),
        ("RobertaForTokenClassification", ("token-classification",)),
        ("DistilBertForMaskedLM", ("fill-mask",)),
        ("ElectraForQuestionAnswering", ("question-answering",)),
    ],
)
def test_the_task_follows_from_the_architecture(tmp_path: Path, architecture: str, tasks: tuple[str, ...]) -> None:
    source = find_source(make_model(tmp_path / "model", architectures=[architecture]))

    assert tasks_for(source, None) == tasks


def test_a_classifier_of_entailment_also_serves_labels_that_it_never_saw(tmp_path: Path) -> None:
    labels = {"0": "contradiction", "1": "neutral", "2": "entailment"}
    model = make_model(
        tmp_path / "model",
        architectures=["BertForSequenceClassification"],
        id2label=labels,
        label2id={name: int(number) for number, name in labels.items()},
    )

    assert set(tasks_for(find_source(model), None)) == {"text-classification", "zero-shot-classification"}


@pytest.mark.parametrize("architecture", ["BertModel", "BertForMaskedLM"])
def test_a_model_with_a_pooling_module_embeds_sentences_first(tmp_path: Path, architecture: str) -> None:
    model = pool(make_model(tmp_path / "model", architectures=[architecture]))

    assert tasks_for(find_source(model), None)[0] == "sentence-embedding"


def test_the_task_that_was_asked_for_wins(model: Path) -> None:
    assert tasks_for(find_source(model), "fill-mask")[0] == "fill-mask"
    assert tasks_for(find_source(pool(model)), "feature-extraction")[0] == "feature-extraction"


def test_an_unknown_task_is_refused_with_those_there_are(model: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'fill-mask'") as caught:
        tasks_for(find_source(model), "fil-mask")

    assert caught.value.exit_code == 2
    assert all(name in caught.value.why for name in list_tasks())


def test_an_architecture_with_an_unknown_head_is_not_supported(tmp_path: Path) -> None:
    source = find_source(make_model(tmp_path / "model", architectures=["BertForNextSentencePrediction"]))

    with pytest.raises(SupportError, match="none of the heads that satchel serves") as caught:
        tasks_for(source, None)
    assert caught.value.exit_code == 14
    assert "--task" in caught.value.fix


@pytest.mark.parametrize("architectures", [None, [], "BertModel", {"a": 1}, [1]])
def test_without_architectures_the_task_must_be_named(tmp_path: Path, architectures: Json) -> None:
    source = find_source(make_model(tmp_path / "model", architectures=architectures))

    with pytest.raises(UsageError, match="its config.json has no 'architectures'") as caught:
        tasks_for(source, None)
    assert caught.value.exit_code == 2
    assert "--task, one of " in caught.value.fix and " feature-extraction," in caught.value.fix
    assert tasks_for(source, "fill-mask")[0] == "fill-mask"


# The Hub: each in a fresh process, because huggingface_hub reads its environment when it is imported

ASK = """
import json, sys
from satchel_converters.source import find_source
from satchel_runtimes.errors import SatchelError
try:
    source = find_source(sys.argv[1], revision=sys.argv[2] or None)
    print(json.dumps({"code": 0, "folder": str(source.folder), "revision": source.revision, "name": source.name,
                      "weights": len(source.weights)}))
except SatchelError as error:
    print(json.dumps({"code": error.exit_code, "what": error.what, "why": error.why, "fix": error.fix}))
"""


@pytest.fixture
def ask(tmp_path: Path) -> Callable[..., dict[str, Json]]:
    """Find a model in a process with a Hub cache and environment of its own."""

    def find(model: str, revision: str = "", **environment: str) -> dict[str, Json]:
        own = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", ASK, model, revision],
            env={**os.environ, **own, **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        answer: dict[str, Json] = json.loads(done.stdout)
        return answer

    return find


def fill_cache(home: Path, model_id: str, branch: str = "main") -> Path:
    """The cache as huggingface_hub lays it out."""
    repository = home / "hub" / f"models--{model_id.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / branch).write_text(COMMIT)
    plain = make_model(home / "plain")
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for file in plain.iterdir():
        blob = repository / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        file.rename(blob)
        (snapshot / file.name).symlink_to(f"../../blobs/{blob.name}")
    return snapshot


def test_offline_a_model_that_was_never_fetched_is_refused_with_what_to_do(ask: Callable[..., dict[str, Json]]) -> None:
    answer = ask("owner/name", HF_HUB_OFFLINE="1")

    assert answer["code"] == 1
    assert "it is not in the local Hub cache, and offline mode is on (HF_HUB_OFFLINE)" in answer["why"]
    assert "copy the model's folder here" in answer["fix"]


def test_without_a_network_the_message_says_so(ask: Callable[..., dict[str, Json]]) -> None:
    answer = ask("owner/name", HF_ENDPOINT="http://127.0.0.1:9", HF_HUB_ETAG_TIMEOUT="1")

    assert answer["code"] == 1
    assert "the Hub cannot be reached" in answer["why"]


@pytest.mark.parametrize("revision", ["", "main", COMMIT])
def test_offline_a_model_in_the_cache_is_found_by_branch_or_commit(
    tmp_path: Path, ask: Callable[..., dict[str, Json]], revision: str
) -> None:
    snapshot = fill_cache(tmp_path / "hf", "owner/name")

    answer = ask("owner/name", revision, HF_HUB_OFFLINE="1")

    assert answer == {"code": 0, "folder": str(snapshot), "revision": COMMIT, "name": "name", "weights": 1}


def test_offline_another_revision_than_the_cached_one_is_refused(
    tmp_path: Path, ask: Callable[..., dict[str, Json]]
) -> None:
    fill_cache(tmp_path / "hf", "owner/name")

    assert ask("owner/name", "v2", HF_HUB_OFFLINE="1")["code"] == 1


# A Hub of our own on this machine


class Hub:
    """As much of the Hub's API as a snapshot needs: revisions, the tree, the files and its error codes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder  # owner/name below it is a repository
        self.asked: list[str] = []
        self.line_drops = False  # in the middle of every file of weights

    def handler(hub) -> type[http.server.BaseHTTPRequestHandler]:  # `self` is the request below
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None: ...

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                path = unquote(urlsplit(self.path).path).strip("/")
                hub.asked.append(path)
                parts = path.split("/")
                if parts[:2] == ["api", "models"]:
                    self.api("/".join(parts[2:4]), parts[4:])
                else:
                    self.file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))

            def api(self, model: str, rest: list[str]) -> None:
                if not (hub.folder / model).is_dir():
                    return self.fail(404, "RepoNotFound")
                if len(rest) > 1 and rest[1] not in ("main", COMMIT):
                    return self.fail(404, "RevisionNotFound")
                files = [file for file in sorted((hub.folder / model).rglob("*")) if file.is_file()]
                if rest and rest[0] == "tree":
                    return self.answer([self.described(file, hub.folder / model) for file in files])
                siblings = [{"rfilename": file.relative_to(hub.folder / model).as_posix()} for file in files]
                self.answer({"id": model, "sha": COMMIT, "siblings": siblings, "private": False})

            def described(self, file: Path, root: Path) -> Json:
                data = file.read_bytes()
                name = file.relative_to(root).as_posix()
                return {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}

            def file(self, model: str, revision: str, name: str) -> None:
                file = hub.folder / model / name
                if not file.is_file():
                    return self.fail(404, "EntryNotFound")
                data = file.read_bytes()
                etag = f'"{hashlib.sha1(data).hexdigest()}"'
                self.answer(data, {"X-Repo-Commit": COMMIT, "ETag": etag, "Accept-Ranges": "bytes"})

            def fail(self, code: int, name: str) -> None:
                self.answer({"error": name}, {"X-Error-Code": name, "X-Error-Message": name}, code)

            def answer(self, content: Json, headers: dict[str, str] | None = None, code: int = 200) -> None:
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(code)
                for key, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
                    self.send_header(key, value)
                self.end_headers()
                if self.command == "GET":
                    drop = hub.line_drops and self.path.endswith(".safetensors")
                    self.wfile.write(data[: len(data) // 2] if drop else data)
                    self.close_connection = drop

        return Handler


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[Hub, str]]:
    own = Hub(tmp_path / "repositories")
    make_model(own.folder / "owner" / "name")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), own.handler())
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield own, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_hub_id_is_fetched_and_pinned_to_its_commit(
    hub: tuple[Hub, str], ask: Callable[..., dict[str, Json]]
) -> None:
    own, endpoint = hub
    (own.folder / "owner/name/pytorch_model.bin").write_bytes(b"the same weights once more")
    (own.folder / "owner/name/modeling.py").write_text("code")

    answer = ask("owner/name", HF_ENDPOINT=endpoint)

    assert (answer["code"], answer["revision"], answer["name"]) == (0, COMMIT, "name")
    assert not [path for path in own.asked if path.endswith((".bin", ".py"))]


def test_a_model_that_the_hub_does_not_have_is_a_wrong_name(
    hub: tuple[Hub, str], ask: Callable[..., dict[str, Json]]
) -> None:
    answer = ask("owner/other", HF_ENDPOINT=hub[1])

    assert answer["code"] == 2
    assert "the Hub has no such model (or it is private)" in answer["why"]
    assert "hf auth login" in answer["fix"]


def test_a_revision_that_the_hub_does_not_have_is_a_wrong_name(
    hub: tuple[Hub, str], ask: Callable[..., dict[str, Json]]
) -> None:
    answer = ask("owner/name", "v9", HF_ENDPOINT=hub[1])

    assert answer["code"] == 2
    assert "Cannot find revision 'v9' of owner/name." in answer["what"]


def test_a_hub_model_with_pickle_weights_only_is_refused_with_the_way_out(
    hub: tuple[Hub, str], ask: Callable[..., dict[str, Json]]
) -> None:
    own, endpoint = hub
    (own.folder / "owner/name/model.safetensors").rename(own.folder / "owner/name/pytorch_model.bin")

    answer = ask("owner/name", HF_ENDPOINT=endpoint)

    assert answer["code"] == 16
    assert "it holds no model.safetensors" in answer["why"]
    assert "save_pretrained(…) write safetensors" in answer["fix"]


def test_a_line_that_drops_in_the_middle_leaves_nothing_that_looks_whole(
    hub: tuple[Hub, str], ask: Callable[..., dict[str, Json]]
) -> None:
    own, endpoint = hub
    own.line_drops = True

    broken = ask("owner/name", HF_ENDPOINT=endpoint)
    own.line_drops = False
    again = ask("owner/name", HF_ENDPOINT=endpoint)

    assert broken["code"] == 1
    assert "the Hub cannot be reached" in broken["why"]
    assert again["code"] == 0
