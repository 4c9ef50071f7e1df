"""Find a model, a local folder or a Hub id, and look at it without running any of its code or importing torch."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from satchel_runtimes.bundle import sha256_of
from satchel_runtimes.errors import IntegrityError, SatchelError, SupportError, UsageError
from satchel_runtimes.tasks import list_tasks, task_class, task_name
from satchel_runtimes.tasks.image_steps import FONT_FILE
from satchel_runtimes.tasks.speaking import VOICE_FILE
from satchel_runtimes.tasks.task import ModelFacts
from satchel_runtimes.toolchain import need

__all__ = ["VOCODER", "SourceModel", "find_source", "tasks_for"]

VOCODER = "vocoder"  # the folder beside a model's files that is taken for its vocoder

# What a conversion reads; a Hub repository often holds the same weights five times over.
_WANTED = (
    "*.json",
    "*.txt",
    "*.model",
    "*.spm",
    "*.safetensors",
    "*.jinja",
    FONT_FILE,
    "README.md",
    "*/config.json",
)
_CODE = ("*.py",)
_PICKLES = (
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "model.ckpt.index",
    "tf_model.h5",
    "flax_model.msgpack",
)
# As huggingface_hub has it: words of these characters that neither start nor end with a dash or a dot.
_HUB_ID = re.compile(r"(?!.*(?:--|\.\.))\w(?:[\w.-]*\w)?(?:/\w(?:[\w.-]*\w)?)?", re.ASCII)
_HUB_ID_LENGTH = 96
_COMMIT = re.compile(r"[0-9a-f]{40}")
_LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class SourceModel:
    """A model on this disk: its folder, its config, and where it came from."""

    id: str
    folder: Path
    config: Mapping[str, Any]
    revision: str | None = None
    trust_remote_code: bool = False
    vocoder: SourceModel | None = None  # what makes sound of the spectrograms of a model that speaks
    voice: Path | None = None  # a speaker's embedding, as numpy saves it

    @property
    def name(self) -> str:
        return self.id.rstrip("/").rpartition("/")[2]

    @property
    def model_type(self) -> str:
        return str(self.config.get("model_type", ""))

    @property
    def architecture(self) -> str:
        named = self.config.get("architectures")
        return named[0] if isinstance(named, list) and named and isinstance(named[0], str) else ""

    @cached_property
    def license(self) -> str | None:
        """From the model card's front matter."""
        card = self.folder / "README.md"
        if card.is_file():
            front = re.match(r"---\s*\n(.*?)^---\s*$", card.read_text("utf-8", "replace"), re.DOTALL | re.MULTILINE)
            # One name, or a list whose first is taken.
            named = re.search(
                r"^license:[ \t]*(?:\n?\s*-\s+)?['\"]?(\w[\w.-]*)", front.group(1) if front else "", re.MULTILINE
            )
            return named.group(1) if named else None
        return None

    @cached_property
    def parameters(self) -> int:
        """Counted in the headers of the safetensors files."""
        total = 0
        for file in self.weights:
            for entry in _safetensors_header(file).values():
                if entry["dtype"].startswith(("F", "BF")):  # counters, masks and position ids are no parameters
                    total += math.prod(entry["shape"])
        return total

    @cached_property
    def convolutional(self) -> bool:
        """Whether most weights are kernels of two-dimensional convolutions. A vision transformer has one of these."""
        kernels = sum(
            math.prod(entry["shape"])
            for file in self.weights
            for entry in _safetensors_header(file).values()
            if len(entry["shape"]) == 4
        )
        return bool(2 * kernels > self.parameters)

    @cached_property
    def weights(self) -> tuple[Path, ...]:
        return (*_weights(self.folder), *(self.vocoder.weights if self.vocoder else ()))

    @cached_property
    def digest(self) -> str:
        """sha256 over every file that a conversion reads: two folders with one digest convert alike."""
        digest = hashlib.sha256()
        for file in sorted({each for pattern in (*_WANTED, *_CODE) for each in self.folder.glob(pattern)}):
            if file.is_file() and file.name != "README.md":
                with file.open("rb") as opened:
                    digest.update(f"{file.relative_to(self.folder)}\0{sha256_of(opened)}\n".encode())
        digest.update((self.vocoder.digest if self.vocoder else "").encode())
        digest.update(self.voice.read_bytes() if self.voice else b"")
        return digest.hexdigest()

    def to_job(self) -> dict[str, Any]:
        """For a worker process; `from_job` reads it there."""
        known = {"id": self.id, "folder": str(self.folder)}
        beside = {"vocoder": self.vocoder and self.vocoder.to_job(), "voice": self.voice and str(self.voice)}
        return {**known, "revision": self.revision, "trust_remote_code": self.trust_remote_code, **beside}

    @staticmethod
    def from_job(raw: Mapping[str, Any]) -> SourceModel:
        folder = Path(raw["folder"])
        config = json.loads((folder / "config.json").read_text("utf-8"))
        vocoder = SourceModel.from_job(raw["vocoder"]) if raw["vocoder"] else None
        voice = Path(raw["voice"]) if raw["voice"] else None
        return SourceModel(raw["id"], folder, config, raw["revision"], raw["trust_remote_code"], vocoder, voice)

    def json(self, name: str) -> dict[str, Any]:
        """One of the folder's JSON files; empty where there is none."""
        file = self.folder / name
        found: dict[str, Any] = _read_json(file) if file.is_file() else {}
        return found

    @cached_property
    def facts(self) -> ModelFacts:
        """What a task may know when its entry in the manifest is written."""
        tokenizer = self.json("tokenizer_config.json")
        limits = [self._number(tokenizer, "model_max_length", 10**30), self._positions()]
        mask = tokenizer.get("mask_token") or self.json("special_tokens_map.json").get("mask_token")
        return ModelFacts(
            config=self.config,
            max_length=min(limits),
            truncation_side=tokenizer.get("truncation_side", "right"),
            mask_token=mask.get("content") if isinstance(mask, dict) else mask,
            vocoder=self.vocoder.config if self.vocoder else {},
            voice=VOICE_FILE if self.voice else "",
            modules=tuple({**module, "config": self._module_config(module)} for module in self._modules()),
        )

    def _number(self, config: Mapping[str, Any], key: str, default: int) -> int:
        value = config.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
            raise _odd(self.folder, f"its {key} is {value!r}, not a number of tokens")
        return int(value)

    def _modules(self) -> list[dict[str, Any]]:
        """The modules of sentence-transformers; none for any other model."""
        file = self.folder / "modules.json"
        modules = _read_json(file, list) if file.is_file() else []
        for module in modules:
            path = module.get("path") if isinstance(module, dict) else None
            if path is None or not isinstance(path, str) or not isinstance(module.get("type"), str):
                raise _odd(self.folder, f"modules.json lists {module!r}, which has no type and path")
            if path.startswith("/") or ".." in path.split("/"):
                raise _odd(self.folder, f"modules.json names the path {path!r}, which leaves the folder")
        return modules

    def _positions(self) -> int:
        # Of a model that sees, too, or of the first of two.
        parts = [self.config.get(name) for name in ("encoder", "text_config")]
        config = {name: each for part in (self.config, *parts) if isinstance(part, dict) for name, each in part.items()}
        names = (
            "max_position_embeddings",
            "max_encoder_position_embeddings",
            "max_text_positions",
            "n_positions",
            "max_seq_len",
        )
        if self.model_type in _ENDLESS:
            return 10**30
        count = next((self._number(config, name, 512) for name in names if config.get(name) is not None), 512)
        if self.model_type == "big_bird" and self.config.get("attention_type", "block_sparse") == "block_sparse":
            # Up to here transformers computes full attention, which is what is exported; beyond, sparse blocks.
            blocks = 5 + 2 * self._number(self.config, "num_random_blocks", 3)
            count = min(count, blocks * self._number(self.config, "block_size", 64))
        # RoBERTa and its kin number positions from padding_idx + 1, so the table holds that many fewer texts' tokens.
        offset = self._number(self.config, "pad_token_id", 0) + 1
        return count - offset if self.model_type in _POSITIONS_AFTER_PADDING else count

    def _module_config(self, module: Mapping[str, Any]) -> dict[str, Any]:
        folder = module["path"]
        name = "sentence_bert_config.json" if not folder else f"{folder}/config.json"
        return self.json(name)


_ENDLESS = ("vits",)  # each letter sees how far others are from it, and no place has a number
_POSITIONS_AFTER_PADDING = ("roberta", "xlm-roberta", "camembert", "mpnet", "longformer", "ibert", "data2vec-text")


def find_source(model: str | Path, *, revision: str | None = None, trust_remote_code: bool = False) -> SourceModel:
    """A local Hub folder, or a Hub id whose safetensors and configuration are fetched with `huggingface_hub`.

    Args:
        model: a folder, or an id such as `sentence-transformers/all-MiniLM-L6-v2`.
        revision: branch, tag or commit of a Hub id.
        trust_remote_code: run the repository's own modelling code; only with a commit in `revision`.

    Raises:
        UsageError: neither a folder nor an id.
        IntegrityError: pickle weights only, a half-downloaded file, or remote code that was not allowed.
        SatchelError: the Hub cannot be reached, or has no such model.
    """
    folder = Path(model)
    if str(model) and _is_folder(folder):
        if revision is not None:
            raise UsageError(
                f"Cannot take revision {revision!r} of {model}.",
                why="it is a local folder, which has no revisions",
                fix="leave --revision out, or name a Hub id",
            )
        return _checked(str(folder.resolve()), folder.resolve(), None, trust_remote_code)
    if not _HUB_ID.fullmatch(str(model)) or len(str(model)) > _HUB_ID_LENGTH or folder.exists():
        raise UsageError(
            f"Cannot find the model {str(model)!r}.",
            why="there is no such folder, and it is not a Hub id",
            fix="name a folder with config.json and model.safetensors, or an id such as owner/name",
        )
    if trust_remote_code and not _COMMIT.fullmatch(revision or ""):
        raise IntegrityError(
            f"Will not run code from {model}.",
            why="a branch or tag can change under you after you have read it",
            fix="pin the commit that you reviewed: --revision <40 hexadecimal digits> --trust-remote-code",
        )
    found, commit = _download(str(model), revision, trust_remote_code)
    return _checked(str(model), found, commit, trust_remote_code)


def tasks_for(source: SourceModel, task: str | None) -> tuple[str, ...]:
    """The tasks that a bundle of this model serves, the main one first.

    Args:
        task: the main task; None infers it from the architecture in config.json.

    Raises:
        UsageError: an unknown task, or a config without `architectures`.
        SupportError: no task of satchel fits the architecture.
    """
    config = source.facts.config
    task = task_name(task) if task is not None else None
    known = {name: task_class(name, config) for name in ([task] if task else list_tasks())}
    if task is None:
        if not source.architecture:
            raise UsageError(
                f"Cannot tell the task of {source.id}.",
                why="its config.json has no 'architectures'",
                fix=f"name it: --task, one of {', '.join(list_tasks())}",
            )
        fitting = [
            (len(end), kind.fits(source.facts), -place, name)
            for place, (name, kind) in enumerate(known.items())
            for end in kind.architectures
            if source.architecture.endswith(end)
        ]
        # A model with a pooling module embeds sentences, whatever head its body was trained with.
        pooled = any(str(module["type"]).endswith("Pooling") for module in source.facts.modules)
        fitting = [each for each in fitting if each[1]]
        if not fitting and not pooled:
            raise SupportError(
                f"Cannot tell a task for {source.id}.",
                why=f"the architecture {source.architecture} has none of the heads that satchel serves",
                fix=f"name the task if you know it: --task, one of {', '.join(list_tasks())}",
            )
        task = "sentence-embedding" if pooled else max(fitting)[3]
    main = task_class(task, config)
    siblings = [
        name
        for name in list_tasks()
        if name != task
        and task_class(name, config).auto_model == main.auto_model
        and task_class(name, config).processors == main.processors
        and task_class(name, config).outputs == main.outputs
        and task_class(name, config).fits(source.facts)
    ]
    return (task, *siblings)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name too long for any disk
        return False


def _checked(identity: str, folder: Path, revision: str | None, trust: bool) -> SourceModel:
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise UsageError(
            f"Cannot read the model {identity}.",
            why="the folder has no config.json",
            fix="name a folder as `save_pretrained` or the Hub makes it",
        )
    config = _read_json(config_file)
    for file in _weights(folder):
        _check_complete(file)
    if config.get("auto_map") and not trust:
        _refuse_code(identity, config)
    return SourceModel(identity, folder, config, revision, trust)


def _refuse_code(identity: str, config: Mapping[str, Any]) -> None:
    """A repository may bring its own modelling code; one that transformers knows itself does not need it."""
    mapping = need("transformers.models.auto.configuration_auto", extra="convert", to="read the model", of="satchel")
    if str(config.get("model_type")) not in mapping.CONFIG_MAPPING_NAMES:
        raise IntegrityError(
            f"Will not run code from {identity}.",
            why=f"its model_type {config.get('model_type')!r} is not in transformers; its config.json asks to run its own code",
            fix="read that code, then allow it: --trust-remote-code, with --revision <commit> for a Hub id",
        )


def _weights(folder: Path) -> tuple[Path, ...]:
    """The safetensors files that transformers would load: one file, or the shards of an index."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return (single,)
    if index.is_file():
        shards = _shards(folder, _read_json(index).get("weight_map"))
        missing = [name for name in shards if not (folder / name).is_file()]
        if missing:
            raise _half(folder, f"{len(missing)} of {len(shards)} shards are missing, the first is {missing[0]}")
        return tuple(folder / name for name in shards)
    pickles = [name for name in _PICKLES if (folder / name).exists()]
    if pickles:
        raise IntegrityError(
            f"Will not load the weights of {folder}.",
            why=f"they are in {pickles[0]}, a format whose loading can run code; satchel reads safetensors only",
            fix=_REWRITE,
        )
    raise IntegrityError(
        f"Cannot read the weights of {folder}.",
        why="it holds no model.safetensors",
        fix=f"download the model again, and let it finish; where it has weights of another format only, {_REWRITE}",
    )


_REWRITE = (
    "take a revision of the model with model.safetensors, or rewrite them where that is safe: "
    "transformers' from_pretrained(…) and save_pretrained(…) write safetensors"
)


def _shards(folder: Path, weight_map: object) -> list[str]:
    if not isinstance(weight_map, dict) or not weight_map:
        raise _half(folder, "model.safetensors.index.json has no weight_map")
    for name in weight_map.values():
        if not isinstance(name, str) or not name.endswith(".safetensors") or "/" in name or "\\" in name:
            raise _half(folder, f"model.safetensors.index.json names the shard {name!r}, which is no file beside it")
    return sorted(set(weight_map.values()))


def _check_complete(file: Path) -> None:
    with file.open("rb") as opened:
        if opened.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise _half(file.parent, f"{file.name} is a git-lfs pointer, not the weights")
    header = _safetensors_header(file)
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
    expected = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    found = file.stat().st_size
    if found != expected:
        raise _half(file.parent, f"{file.name} has {found:,} bytes, its header says {expected:,}")


def _safetensors_header(file: Path) -> dict[str, Any]:
    """Read the header alone; `safetensors` itself would import numpy or torch and map the whole file."""
    with file.open("rb") as opened:
        start = opened.read(8)
        if len(start) == 8:
            (length,) = struct.unpack("<Q", start)
            if length <= 100_000_000:
                text = opened.read(length)
                try:
                    header = json.loads(text)
                    if isinstance(header, dict):
                        header.pop("__metadata__", None)
                        if all(_is_entry(entry) for entry in header.values()):
                            return header
                except (ValueError, RecursionError):
                    pass
    raise _half(file.parent, f"{file.name} has no readable safetensors header")


def _is_entry(entry: Any) -> bool:  # Any: JSON
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        return False
    sizes, ends = entry.get("shape"), entry.get("data_offsets")
    if not isinstance(sizes, list) or not isinstance(ends, list) or len(ends) != 2:
        return False
    return all(type(number) is int and number >= 0 for number in (*sizes, *ends))


def _half(folder: Path, why: str) -> IntegrityError:
    return IntegrityError(
        f"Cannot read the weights of {folder}.", why=why, fix="download the model again, and let it finish"
    )


def _odd(folder: Path, why: str) -> IntegrityError:
    return IntegrityError(f"Cannot read the model {folder}.", why=why, fix="download the model again")


def _read_json(file: Path, kind: type = dict) -> Any:  # Any: an instance of `kind`
    try:
        found = json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise IntegrityError(
            f"Cannot read {file}.", why=f"it is not valid JSON ({error})", fix="download the model again"
        ) from None
    if not isinstance(found, kind):
        what = "object" if kind is dict else "list"
        raise IntegrityError(f"Cannot read {file}.", why=f"it is not a JSON {what}", fix="download the model again")
    return found


def _download(model: str, revision: str | None, trust: bool) -> tuple[Path, str]:
    hub = need("huggingface_hub", extra="convert", to=f"fetch {model}", of="satchel")
    errors = need("huggingface_hub.errors", extra="convert", to=f"fetch {model}", of="satchel")
    constants = need("huggingface_hub.constants", extra="convert", to=f"fetch {model}", of="satchel")
    broken_transport = errors.HfHubHTTPError.__mro__[1]  # the HTTP library's own base, which changed with its versions
    try:
        found = Path(
            hub.snapshot_download(model, revision=revision, allow_patterns=[*_WANTED, *(_CODE if trust else ())])
        )
    except errors.RepositoryNotFoundError:
        raise UsageError(
            f"Cannot find the model {model!r}.",
            why="there is no such folder here, and the Hub has no such model (or it is private)",
            fix="check the name; for a private model log in with `hf auth login`",
        ) from None
    except errors.RevisionNotFoundError:
        raise UsageError(
            f"Cannot find revision {revision!r} of {model}.", why="the Hub does not have it", fix="check --revision"
        ) from None
    except errors.HFValidationError as error:
        raise UsageError(
            f"Cannot find the model {model!r}.",
            why=f"there is no such folder, and it is not a Hub id: {error}",
            fix="name a folder with config.json and model.safetensors, or an id such as owner/name",
        ) from None
    except (broken_transport, OSError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise SatchelError(
                f"Cannot fetch the model {model!r}.",
                why=f"the disk of the Hub cache is full: {error}",
                fix="free some space, or set HF_HOME to a larger disk",
            ) from None
        offline = "offline mode is on (HF_HUB_OFFLINE)" if constants.HF_HUB_OFFLINE else "the Hub cannot be reached"
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise SatchelError(
            f"Cannot fetch the model {model!r}.",
            why=f"there is no such folder here, it is not in the local Hub cache, and {offline}: {first}",
            fix="connect once, or copy the model's folder here and name the folder",
        ) from None
    # A snapshot's folder is named after its commit.
    return found, found.name
