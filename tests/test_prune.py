"""Pruning: what is removed is really gone, what is left is a normal Hugging Face folder, and nothing is guessed."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import PreTrainedModel

from satchel_converters.compress.layers import evenly
from satchel_converters.compress.marks import fill_marked, marked, remove_marked
from satchel_converters.compress.movement import share_at
from satchel_converters.compress.prune import Movement, Prune, parse_prune, prune
from satchel_converters.compress.sites import answer
from satchel_converters.compress.structured import plan, remove
from satchel_converters.compress.tokenizer_files import TokenizerFiles
from satchel_runtimes.errors import IntegrityError, SatchelError, SupportError, UsageError

TEXT = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 60}
PICTURE = dict(TEXT, image_size=16, patch_size=8)
SHARED = dict(TEXT, num_key_value_heads=2)

# Every family, with what its config can say of heads and neurons; the rest is marked.
CONFIGS: dict[str, Callable[[], transformers.PretrainedConfig]] = {
    "bert": lambda: transformers.BertConfig(**TEXT),
    "roberta": lambda: transformers.RobertaConfig(**TEXT),
    "xlm-roberta": lambda: transformers.XLMRobertaConfig(**TEXT),
    "electra": lambda: transformers.ElectraConfig(**TEXT, embedding_size=16),
    "albert": lambda: transformers.AlbertConfig(**TEXT, embedding_size=16),
    "mpnet": lambda: transformers.MPNetConfig(**TEXT),
    "distilbert": lambda: transformers.DistilBertConfig(dim=24, hidden_dim=40, n_layers=3, n_heads=4, vocab_size=60),
    "deberta-v2": lambda: transformers.DebertaV2Config(
        **TEXT, relative_attention=True, pos_att_type=["c2p", "p2c"], share_att_key=False, position_buckets=8
    ),
    "vit": lambda: transformers.ViTConfig(**PICTURE),
    "deit": lambda: transformers.DeiTConfig(**PICTURE),
    "dinov2": lambda: transformers.Dinov2Config(**PICTURE, mlp_ratio=2),
    "clip-text": lambda: transformers.CLIPTextConfig(**TEXT, bos_token_id=1, eos_token_id=59),
    "clip-vision": lambda: transformers.CLIPVisionConfig(**PICTURE),
    "gpt2": lambda: transformers.GPT2Config(
        n_embd=24, n_layer=3, n_head=4, n_inner=40, vocab_size=60, bos_token_id=1, eos_token_id=1
    ),
    "llama": lambda: transformers.LlamaConfig(**SHARED),
    "qwen2": lambda: transformers.Qwen2Config(**SHARED),
    "resnet": lambda: transformers.ResNetConfig(embedding_size=8, hidden_sizes=[16, 32], depths=[2, 2]),
    "resnet-basic": lambda: transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[2, 2], layer_type="basic"
    ),
    "mobilenet-v2": lambda: transformers.MobileNetV2Config(depth_multiplier=0.35),
    "efficientnet": lambda: transformers.EfficientNetConfig(
        width_coefficient=0.5, depth_coefficient=0.3, hidden_dim=640
    ),
}
CONVNETS = {"resnet", "resnet-basic", "mobilenet-v2", "efficientnet"}
MARKED_HEADS = {"bert", "roberta", "xlm-roberta", "electra", "albert", "distilbert", "deberta-v2", "gpt2"} | {
    "clip-text",
    "clip-vision",
}
Batch = dict[str, Tensor]


def model_of(family: str) -> PreTrainedModel:
    """Random weights at the magnitudes of trained ones: with transformers' own, many answers are nearly zero."""
    torch.manual_seed(0)
    model: PreTrainedModel = transformers.AutoModel.from_config(CONFIGS[family]())
    for parameter in model.parameters():
        if parameter.dim() > 1:
            fan_in = parameter[0].numel()
            nn.init.normal_(parameter, std=0.3 if parameter.dim() == 2 else (2 / fan_in) ** 0.5)
    norms = [each for each in model.modules() if isinstance(each, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0  # what one batch shows; as they begin, squeezed layers fade to 1e-43
    if norms:
        with torch.no_grad():
            model.train()(**batches_of(model)[0])
    return model.train(False)


def batches_of(model: PreTrainedModel) -> list[Batch]:
    torch.manual_seed(1)
    if model.main_input_name == "input_ids":
        return [{"input_ids": torch.randint(5, 60, (3, 7))} for _ in range(2)]
    size = getattr(model.config, "image_size", 0) if hasattr(model.config, "patch_size") else 64
    return [{"pixel_values": torch.randn(2, 3, size, size)} for _ in range(2)]


def loss(model: nn.Module, batch: Batch) -> Tensor:
    result: Tensor = model(**batch)[0]
    return result[:, :1].pow(3).mean()


def pruned(model: PreTrainedModel, wanted: str, **options: Any) -> Any:
    return prune(model, None, parse_prune(wanted), batches_of(model), loss, **options)


def reloaded(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """What plain transformers makes of the saved folder; every weight comes from it."""
    model.save_pretrained(folder)
    again, info = type(model).from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["mismatched_keys"] and not info["unexpected_keys"]
    return again.train(False)  # type: ignore[no-any-return]


@torch.no_grad()
def close(ours: Tensor, theirs: Tensor) -> bool:
    # The same products in another order: float32 rounding only.
    return torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))


def size_of(model: nn.Module) -> int:
    return sum(each.numel() for each in model.parameters())


class TestWhatIsAskedFor:
    def test_an_option_names_kinds_and_shares(self) -> None:
        wanted = parse_prune("ffn=0.5, heads=0.25,layers=2,vocabulary,channels=0.3,weights=0.8,by=magnitude")

        assert wanted == Prune(0.5, 0.25, 2, True, 0.3, 0.8, "magnitude")

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("neurons=0.5", "neurons"),
            ("ffn=1", "remove everything"),
            ("ffn=-0.1", "between 0 and 1"),
            ("ffn=nan", "between 0 and 1"),
            ("ffn=half", "not a number"),
            ("ffn", "needs a value"),
            ("vocabulary=0.5", "takes no value"),
            ("ffn=0.5,ffn=0.2", "named twice"),
            ("layers=1.5", "whole number of layers"),
            ("ffn=0", "no share is above 0"),
            ("", "no share is above 0"),
            ("ffn=0.5,by=luck", "luck"),
            ("vocabulary,by=taylor", "none is asked for"),
            ("layers=1,by=movement", "none is asked for"),
            ("ffn=0.5,channels=0.5,by=movement", "neurons and heads"),
        ],
    )
    def test_what_makes_no_sense_is_refused_by_name(self, text: str, said: str) -> None:
        with pytest.raises(UsageError, match=said):
            parse_prune(text)

    @pytest.mark.parametrize(
        ("family", "wanted", "kind", "said"),
        [
            ("bert", "layers=3", UsageError, "none would be left"),
            ("bert", "heads=0.9", UsageError, "all of them would go"),
            ("bert", "heads=0.1", UsageError, "none of them would go"),
            ("resnet", "channels=0.95", UsageError, "all of them would go"),
            ("bert", "channels=0.5", SupportError, "no such structure"),
            ("resnet", "ffn=0.5", SupportError, "no such structure"),
            ("resnet", "layers=1", SupportError, "layers with attention"),
            ("mpnet", "heads=0.5", SupportError, "it does not run"),  # one table of position biases for all layers
            ("vit", "vocabulary", UsageError, "texts"),
        ],
    )
    def test_what_a_model_does_not_have_or_cannot_spare_is_refused(
        self, family: str, wanted: str, kind: type[SatchelError], said: str
    ) -> None:
        with pytest.raises(kind, match=said):
            pruned(model_of(family), wanted)

    def test_without_data_only_what_needs_none_is_pruned(self) -> None:
        prune(model_of("bert"), None, parse_prune("ffn=0.5,heads=0.5,layers=1,by=magnitude"))

        with pytest.raises(UsageError, match="no batches"):
            prune(model_of("bert"), None, parse_prune("ffn=0.5"))

    def test_a_fused_gate_is_not_guessed_at(self) -> None:
        config = transformers.Phi3Config(**SHARED, pad_token_id=0, bos_token_id=1, eos_token_id=2)

        with pytest.raises(SupportError, match="gate_up_proj 24→80"):
            pruned(transformers.AutoModel.from_config(config), "ffn=0.5")

    def test_a_loss_that_is_not_a_number_stops_it_and_is_named(self) -> None:
        model = model_of("bert")

        with pytest.raises(UsageError, match="batch 1 is nan"):
            prune(model, None, Prune(ffn=0.5), batches_of(model), lambda m, b: loss(m, b) * float("nan"))

    def test_a_loss_that_does_not_look_at_the_model_decides_nothing(self) -> None:
        model = model_of("bert")

        with pytest.raises(UsageError, match="every gradient is zero"):
            prune(model, None, Prune(ffn=0.5), batches_of(model), lambda m, b: loss(m, b) * 0)


class TestEveryFamily:
    @pytest.mark.parametrize("family", sorted(set(CONFIGS) - CONVNETS))
    def test_half_of_the_neurons_and_a_layer_go_and_the_folder_is_a_normal_one(
        self, family: str, tmp_path: Path
    ) -> None:
        model = model_of(family)

        result = pruned(model, "ffn=0.5,layers=1")
        again = reloaded(model, tmp_path)

        assert torch.equal(answer(again), answer(model))
        remove_marked(again)  # DINOv2's config has a whole number for the ratio of the widths, so it needs marks
        assert size_of(again) == result.parameters_after
        assert result.marked is (family == "dinov2")
        assert again.config.num_hidden_layers == 2
        assert (result.parameters_after < result.parameters_before) and model.training is False

    @pytest.mark.parametrize("family", sorted(set(CONFIGS) - CONVNETS - {"mpnet"}))
    def test_half_of_the_heads_go_in_the_config_or_as_marked_zeros(self, family: str, tmp_path: Path) -> None:
        model = model_of(family)

        result = pruned(model, "heads=0.5")
        again = reloaded(model, tmp_path)
        with_zeros = answer(again)
        remove_marked(again)

        assert torch.equal(with_zeros, answer(model))
        assert close(answer(again), with_zeros)
        assert size_of(again) == result.parameters_after < result.parameters_before
        assert result.marked is (family in MARKED_HEADS)

    @pytest.mark.parametrize("family", sorted(CONVNETS))
    def test_inner_channels_go_as_marked_zeros(self, family: str, tmp_path: Path) -> None:
        model = model_of(family)

        result = pruned(model, "channels=0.4,by=magnitude")
        again = reloaded(model, tmp_path)
        with_zeros = answer(again)
        remove_marked(again)

        assert torch.equal(with_zeros, answer(model))
        assert close(answer(again), with_zeros)
        assert size_of(again) == result.parameters_after < 0.8 * result.parameters_before

    def test_layers_that_share_their_weights_are_said_to(self) -> None:
        result = pruned(model_of("albert"), "layers=1")

        assert result.parameters_after == result.parameters_before
        assert any("share their weights" in note for note in result.notes)


class TestMarks:
    @pytest.fixture
    def model(self) -> PreTrainedModel:
        model = model_of("bert")
        pruned(model, "heads=0.5")
        return model

    def test_taking_out_and_filling_in_are_each_others_undoing(self, model: PreTrainedModel) -> None:
        before = {name: value.clone() for name, value in model.state_dict().items()}

        assert remove_marked(model) and remove_marked(model)
        fill_marked(model)

        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    def test_a_head_on_the_body_reads_the_same_marks(self, model: PreTrainedModel, tmp_path: Path) -> None:
        model.save_pretrained(tmp_path)
        whole = transformers.BertForSequenceClassification.from_pretrained(tmp_path).train(False)
        ids = torch.arange(5, 14)[None]
        before = whole(ids).logits

        remove_marked(whole)

        assert close(whole(ids).logits, before)
        assert whole.bert.encoder.layer[0].attention.self.query.out_features < 24

    def test_training_leaves_the_zeros_alone(self, model: PreTrainedModel) -> None:
        model.train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for batch in batches_of(model) * 3:
            optimizer.zero_grad()
            loss(model, batch).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        model.train(False)
        with_zeros = answer(model)

        assert remove_marked(model)  # it checks that they are zero
        assert close(answer(model), with_zeros)

    def test_marks_that_lie_are_refused(self, model: PreTrainedModel) -> None:
        (name, gone), *_ = marked(model).items()
        lies: list[dict[str, Any]] = [
            {name: [unit for unit in range(4) if unit not in gone][:1]},  # a head that is there
            {name: [0, 1, 2, 3]},
            {"heads encoder.layer.9.attention.self": [0]},
            {"legs encoder.layer.0": [0]},
            {name: "01"},
        ]
        for lie in lies:
            model.config.satchel = {"removed": lie}

            with pytest.raises(IntegrityError, match=r"config\.json"):
                remove_marked(copy.deepcopy(model))

    def test_pruning_again_goes_on_from_the_marks(self, model: PreTrainedModel) -> None:
        before = {name: set(gone) for name, gone in marked(model).items()}

        pruned(model, "heads=0.75")

        assert sum(map(len, marked(model).values())) == 9
        assert all(gone <= set(marked(model)[name]) for name, gone in before.items())


class TestImportance:
    def test_a_unit_that_does_nothing_goes_first(self) -> None:
        model = model_of("bert")
        idle = [3, 17, 21, 38]
        for layer in model.encoder.layer:
            layer.output.dense.weight.data[:, idle] *= 1e-4

        for by in ("taylor", "magnitude"):
            result = pruned(copy.deepcopy(model), f"ffn=0.1,by={by}")
            assert set(result.removed["ffn"].values()) == {tuple(idle)}

    def test_the_last_layer_is_kept(self) -> None:
        assert [evenly(6, kept) for kept in (1, 2, 3, 5)] == [(5,), (0, 5), (0, 2, 5), (0, 1, 2, 4, 5)]

    def test_what_is_learned_by_movement_is_what_training_needs(self) -> None:
        """Neurons that were made to harm the answer are moved towards zero and go, though their weights are largest."""
        model = model_of("bert")
        batches, target = batches_of(model), answer_of(model)
        harmful = [0, 7, 11]
        weight = model.encoder.layer[2].output.dense.weight.data
        weight[:, harmful] = torch.randn(24, 3, generator=torch.Generator().manual_seed(0))
        by_size = copy.deepcopy(model)

        def to_target(each: nn.Module, batch: Batch) -> Tensor:
            number = next(i for i, other in enumerate(batches) if other is batch)
            return (each(**batch)[0] - target[number]).square().mean()

        def went(each: PreTrainedModel, wanted: str) -> set[int]:
            how = Movement(steps=80, learning_rate=1e-5)
            result = prune(each, None, parse_prune(wanted), batches, to_target, movement=how)
            return set(result.removed["ffn"]["encoder.layer.2"])

        assert len(went(model, "ffn=0.1,by=movement") & set(harmful)) >= 2
        assert not went(by_size, "ffn=0.1,by=magnitude") & set(harmful)

    def test_the_schedule_of_movement_is_cubic_between_warm_up_and_cool_down(self) -> None:
        how = Movement(steps=100, warmup=0.1, cooldown=0.2)

        assert [share_at(step, how) for step in (0, 9, 10, 80, 99)] == [0, 0, 0, 1, 1]
        assert share_at(45, how) == pytest.approx(1 - 0.5**3)

    def test_single_weights_become_zero_and_stay_so_and_nobody_claims_speed(self) -> None:
        model = model_of("bert")
        weight = model.encoder.layer[0].output.dense.weight

        result = pruned(model, "weights=0.8")
        loss(model, batches_of(model)[0]).backward()  # type: ignore[no-untyped-call]
        torch.optim.AdamW(model.parameters(), lr=1e-2).step()

        assert float((weight == 0).float().mean()) == pytest.approx(0.8, abs=0.01)
        assert any("no engine here gets faster" in note for note in result.notes)
        assert model.embeddings.word_embeddings.weight.count_nonzero() > 0.9 * 60 * 24

    @pytest.mark.slow
    @pytest.mark.parametrize("kind", ["ffn", "heads"])
    def test_on_minilm_taylor_is_better_than_chance(self, minilm: Path, kind: str) -> None:
        topics = json.loads((Path(__file__).parent / "data" / "topics.json").read_text("utf-8"))
        seen = [text for topic in topics.values() for text in topic["train"]][:64]
        unseen = [text for topic in topics.values() for text in topic["held_out"]][:32]
        tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
        model = transformers.AutoModel.from_pretrained(minilm).train(False)

        def embed(each: nn.Module, texts: list[str]) -> Tensor:
            rows = tokenizer(texts, return_tensors="pt", padding=True)
            mask = rows["attention_mask"][..., None]
            return nn.functional.normalize((each(**rows)[0] * mask).sum(1) / mask.sum(1), dim=-1)

        with torch.no_grad():
            known = {i: embed(model, seen[i : i + 8]) for i in range(0, len(seen), 8)}
            before = embed(model, unseen)

        def matching(each: nn.Module, i: int) -> Tensor:
            scores = embed(each, seen[i : i + 8]) @ known[i].T / 0.05
            return nn.functional.cross_entropy(scores, torch.arange(len(scores)))

        def kept(each: nn.Module) -> float:
            with torch.no_grad():
                return float((embed(each, unseen) * before).sum(1).mean())

        chosen = copy.deepcopy(model)
        prune(chosen, None, dataclasses.replace(Prune(ffn=0.5), **{"ffn": 0.0, kind: 0.5}), list(known), matching)
        by_chance = copy.deepcopy(model)
        torch.manual_seed(0)
        wanted = plan(by_chance, kind, 0.5)
        remove(
            by_chance,
            wanted,
            [torch.randperm(site.units)[:n].tolist() for site, n in zip(wanted.sites, wanted.counts, strict=True)],
        )

        assert kept(chosen) > kept(by_chance) + 0.03


def answer_of(model: PreTrainedModel) -> list[Tensor]:
    with torch.no_grad():
        return [model(**batch)[0] for batch in batches_of(model)]


def test_pruned_layers_cost_fewer_operations() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    def operations(model: PreTrainedModel) -> int:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.arange(5, 21)[None])
        return counter.get_total_flops()

    model = model_of("bert")
    whole = operations(model)
    pruned(model, "ffn=0.5,heads=0.5,layers=1")
    remove_marked(model)

    assert operations(model) < 0.4 * whole  # 2/3 of the layers, half of each


CORPUS = [
    "The order has not arrived yet, where is it?",
    "My parcel was left in the rain and the box is torn.",
    "Please refund the 24.99 that I paid for the blue jacket.",
    "naïve café, Grüße aus Köln, 你好 世界",
    "The jackets are warm; the parcels arrive on Mondays & Tuesdays.",
    "low lower lowest newer newest wide wider widest",
] * 2
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=480, special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return tokenizer


def byte_fallback() -> Tokenizer:
    """As sentencepiece writes it: spaces are a character, what no token has is bytes."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    learner.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=160, special_tokens=SPECIAL))
    spec = json.loads(learner.to_str())["model"]
    tokens = (
        SPECIAL + [f"<0x{byte:02X}>" for byte in range(256)] + [each for each in spec["vocab"] if each not in SPECIAL]
    )
    merges = [tuple(merge) for merge in spec["merges"]]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.add_special_tokens(SPECIAL)
    return with_template(tokenizer)


def end_of_word() -> Tokenizer:
    """As CLIP's: the last character of a word carries a mark."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=300, special_tokens=SPECIAL, end_of_word_suffix="</w>")
    )
    return with_template(tokenizer)


def unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(
        CORPUS, trainers.UnigramTrainer(vocab_size=150, special_tokens=SPECIAL, unk_token="<unk>")
    )
    tokenizer.add_special_tokens(["<mask>"])  # behind the others, as XLM-R's
    return with_template(tokenizer)


def word_piece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=300, special_tokens=SPECIAL))
    return with_template(tokenizer)


def with_template(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


TOKENIZERS = {each.__name__: each() for each in (byte_level, byte_fallback, end_of_word, unigram, word_piece)}


@pytest.mark.parametrize("kind", TOKENIZERS)
class TestVocabulary:
    def folder(self, kind: str, where: Path) -> Path:
        where.mkdir(exist_ok=True, parents=True)
        TOKENIZERS[kind].save(str(where / "tokenizer.json"))
        return where

    # The tokenizers are the same for every example; only the texts differ.
    @settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        used=st.lists(st.sampled_from(CORPUS) | st.text(max_size=30), min_size=1, max_size=4),
        other=st.text(max_size=40),
    )
    def test_the_texts_keep_their_tokens_and_any_other_text_stays_in_range(
        self, kind: str, tmp_path: Path, used: list[str], other: str
    ) -> None:
        files = TokenizerFiles.read(self.folder(kind, tmp_path))

        smaller = files.trimmed(used)
        smaller.write(tmp_path)
        after = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))

        for text in used:
            assert after.encode(text).tokens == TOKENIZERS[kind].encode(text).tokens
        assert all(0 <= number < len(smaller.renumbered) for number in after.encode(other).ids)
        assert after.get_vocab_size(with_added_tokens=True) == len(smaller.renumbered)
        assert [after.token_to_id(token) for token in SPECIAL] == [0, 1, 2, 3]

    def test_the_embeddings_of_kept_tokens_are_the_old_rows(self, kind: str, tmp_path: Path) -> None:
        folder = self.folder(kind, tmp_path / "model")
        old = TOKENIZERS[kind]
        rows = old.get_vocab_size() + 5  # some checkpoints have more rows than tokens
        config = transformers.RobertaConfig(**dict(TEXT, vocab_size=rows))
        torch.manual_seed(0)
        model = transformers.RobertaForMaskedLM(config).train(False)
        nn.init.normal_(model.lm_head.bias)
        before = copy.deepcopy(model)

        result = prune(model, folder, Prune(vocabulary=True), texts=CORPUS[:2])
        model.save_pretrained(folder)
        again = transformers.RobertaForMaskedLM.from_pretrained(folder).train(False)
        new = Tokenizer.from_file(str(folder / "tokenizer.json"))

        assert result.parameters_after < result.parameters_before
        assert again.config.vocab_size == new.get_vocab_size() < rows
        table, kept = (
            again.roberta.embeddings.word_embeddings.weight,
            [old.token_to_id(new.id_to_token(i)) for i in range(new.get_vocab_size())],
        )
        assert torch.equal(table, before.roberta.embeddings.word_embeddings.weight[kept])
        assert torch.equal(again.lm_head.decoder.weight, table)  # still tied
        with torch.no_grad():
            logits = before(torch.tensor([old.encode(CORPUS[0]).ids])).logits[..., kept]
            assert close(again(torch.tensor([new.encode(CORPUS[0]).ids])).logits, logits)


def test_the_files_beside_the_tokenizer_follow(minilm: Path, tmp_path: Path) -> None:
    names = ("tokenizer.json", "vocab.txt", "tokenizer_config.json", "special_tokens_map.json", "config.json")
    for name in names:
        shutil.copy(minilm / name, tmp_path / name)
    tokenizer_config = json.loads((tmp_path / "tokenizer_config.json").read_text("utf-8"))
    tokenizer_config["added_tokens_decoder"] = {"0": {"content": "[PAD]"}, "101": {"content": "[CLS]"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer_config), "utf-8")
    config = transformers.BertConfig.from_pretrained(minilm, num_hidden_layers=1)
    model = transformers.BertModel(config).train(False)

    result = prune(model, tmp_path, Prune(vocabulary=True), texts=CORPUS)
    model.save_pretrained(tmp_path)
    before, after = (transformers.AutoTokenizer.from_pretrained(each) for each in (minilm, tmp_path))

    assert after.tokenize(CORPUS[0]) == before.tokenize(CORPUS[0])
    assert len(after) == model.config.vocab_size < 3000
    assert len((tmp_path / "vocab.txt").read_text("utf-8").splitlines()) == len(after)
    decoder = json.loads((tmp_path / "tokenizer_config.json").read_text("utf-8"))["added_tokens_decoder"]
    assert decoder == {str(after.get_vocab()[each]): {"content": each} for each in ("[PAD]", "[CLS]")}
    assert len(result.removed["vocabulary"]["tokens"]) == 30522 - len(after)


def test_satchel_takes_the_marked_out_when_it_loads_the_folder(tiny: Path, tmp_path: Path) -> None:
    from satchel_converters.capture import load_model
    from satchel_converters.source import find_source

    folder = tmp_path / "pruned"
    shutil.copytree(tiny, folder)
    model = transformers.AutoModel.from_pretrained(tiny)
    result = prune(model, None, parse_prune("heads=0.5,by=magnitude"))
    model.save_pretrained(folder)

    loaded = load_model(find_source(folder), "feature-extraction")

    assert size_of(loaded.model) == result.parameters_after
    assert close(answer(loaded.model.train(False)), answer(model))
