"""The T5 encoder against transformers', with random weights: both versions, both file formats, any length."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from mcsjd_core import InputError
from mcsjd_core.checkpoints.checkpoint import calling
from mcsjd_core.families.t5_captions import T5Captions, read_encoder
from mcsjd_core.text.t5 import distance_buckets

transformers = pytest.importorskip("transformers", reason="transformers has the encoder to compare with")

VOCABULARY = 50
KINDS = {
    "1.0, as T5-11B": {"feed_forward_proj": "relu", "d_kv": 8, "num_heads": 5},
    "1.1, as Flan-T5": {"feed_forward_proj": "gated-gelu", "d_kv": 4, "num_heads": 3, "tie_word_embeddings": False},
    "few buckets": {"feed_forward_proj": "gated-silu", "relative_attention_num_buckets": 8,
                    "relative_attention_max_distance": 20, "layer_norm_epsilon": 1e-2},
}  # fmt: skip


def written(directory, kind: str, whole: bool = False):
    """transformers' model with every weight random, and the directory that it saved; `whole` with the decoder."""
    config = transformers.T5Config(vocab_size=VOCABULARY, d_model=24, d_ff=40, num_layers=3, **KINDS[kind])
    model = (transformers.T5ForConditionalGeneration if whole else transformers.T5EncoderModel)(config)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            spread = 0.4 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread + (parameter.ndim == 1))
    model.save_pretrained(directory)
    return model.eval()


def states_of(model, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return getattr(model, "encoder", model)(input_ids=ids).last_hidden_state


@pytest.mark.parametrize("length", [1, 2, 9, 300])
@pytest.mark.parametrize("kind", KINDS)
def test_states_equal_those_of_transformers(kind, length, tmp_path):
    ids = torch.randint(VOCABULARY, (1, length), generator=torch.Generator().manual_seed(length))
    theirs = states_of(written(tmp_path, kind), ids)
    with torch.no_grad():
        ours = read_encoder(tmp_path)(ids)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert theirs.std() > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_the_encoder_of_a_whole_model_is_read_from_a_torch_file(kind, tmp_path):
    """As google-t5/t5-11b lies on the disk: `pytorch_model.bin` alone, with a decoder, saved before torch 1.6."""
    model, ids = written(tmp_path, kind, whole=True), torch.tensor([[3, 1, 4, 1, 5]])
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    with torch.no_grad():
        torch.testing.assert_close(read_encoder(tmp_path)(ids), states_of(model, ids), rtol=1e-4, atol=1e-4)


def test_half_precision_files_are_computed_with_in_float32(tmp_path):
    model, ids = written(tmp_path, "1.1, as Flan-T5"), torch.tensor([[3, 1, 4, 1, 5]])
    save_file(
        {n: t.half().contiguous() for n, t in model.state_dict().items() if "embed" not in n},
        tmp_path / "model.safetensors",
    )
    with torch.no_grad():
        ours = read_encoder(tmp_path)(ids)
        theirs = states_of(model.half().float(), ids)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_far_tokens_share_a_bucket_and_direction_counts():
    buckets = distance_buckets(400, 32, 128)
    assert buckets[0, :8].tolist() == [0, 17, 18, 19, 20, 21, 22, 23] and buckets[8, :9].tolist() == [
        8,
        7,
        6,
        5,
        4,
        3,
        2,
        1,
        0,
    ]
    assert (buckets[0, 128:] == 31).all() and (buckets[399, :271] == 15).all() and buckets.max() == 31


def test_an_unknown_feed_forward_layer_is_named(tmp_path):
    written(tmp_path, "1.0, as T5-11B")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"feed_forward_proj": "swish"}))
    with pytest.raises(InputError, match=r"`feed_forward_proj` in .* has to be one of relu, gelu, silu.*got 'swish'"):
        read_encoder(tmp_path)


def test_captions_run_without_transformers(tmp_path, monkeypatch):
    """Also where the package imports as a dummy because its own torch is missing."""
    from tokenizers import Tokenizer, models

    written(tmp_path, "1.0, as T5-11B")
    Tokenizer(models.WordLevel({"fox": 3, "<unk>": 2}, unk_token="<unk>")).save(str(tmp_path / "tokenizer.json"))
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    assert T5Captions(tmp_path, 9).encode(["fox"])[0].shape == (1, 24)


def test_captions_that_are_still_asked_for_are_kept(tmp_path, monkeypatch):
    """A negative prompt goes with every prompt of a long list."""
    from tokenizers import Tokenizer, models

    written(tmp_path, "1.0, as T5-11B")
    Tokenizer(models.WordLevel({"fox": 3, "<unk>": 2}, unk_token="<unk>")).save(str(tmp_path / "tokenizer.json"))
    captions, encoded = T5Captions(tmp_path, 9), []
    monkeypatch.setattr(captions, "KEPT_BYTES", 3 * 4)

    def encode(texts):
        encoded.extend(texts)
        return [torch.full((1, 1), float(len(encoded)))] * len(texts)

    monkeypatch.setattr(captions, "_encode", encode)
    for number in range(10):
        captions.encode([f"prompt {number}", "blurry"])
        assert len(captions.known) <= 3
    assert encoded.count("blurry") == 1 and len(encoded) == 11


@pytest.mark.parametrize("calls", [[["a"], ["b"], ["c", "d"]], [["a", "b", "c", "d"]]], ids=["one by one", "at once"])
def test_kept_captions_are_bounded_in_bytes_and_the_oldest_go_first(tmp_path, monkeypatch, calls):
    from tokenizers import Tokenizer, models

    written(tmp_path, "1.0, as T5-11B")
    Tokenizer(models.WordLevel({"fox": 3, "<unk>": 2}, unk_token="<unk>")).save(str(tmp_path / "tokenizer.json"))
    captions, sizes = T5Captions(tmp_path, 9), {"a": 1, "b": 6, "c": 2, "d": 3}
    monkeypatch.setattr(captions, "KEPT_BYTES", 6 * 4)
    monkeypatch.setattr(captions, "_encode", lambda texts: [torch.zeros(sizes[text], 1) for text in texts])
    for texts in calls:
        assert [len(states) for states in captions.encode(texts)] == [sizes[text] for text in texts]
    assert list(captions.known) == ["c", "d"]


def test_the_encoder_s_own_length_counts_not_that_of_the_file(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    written(tmp_path, "1.0, as T5-11B")
    tokenizer = Tokenizer(models.WordLevel({"fox": 3, "<unk>": 2}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=16, pad_id=0)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    states = T5Captions(tmp_path, 9).encode(["fox", "fox " * 5, "fox " * 12])
    assert [len(each) for each in states] == [1, 5, 9]


def test_the_caller_is_called_back_in_every_block_while_captions_are_encoded(tmp_path):
    """So that Stop ends it: a large encoder on a CPU takes minutes for a list of prompts."""
    from tokenizers import Tokenizer, models

    written(tmp_path, "1.0, as T5-11B")
    Tokenizer(models.WordLevel({"fox": 3, "owl": 4, "<unk>": 2}, unk_token="<unk>")).save(
        str(tmp_path / "tokenizer.json")
    )
    captions, calls = T5Captions(tmp_path, 9), []

    def stopped_in_the_last_block():
        calls.append(1)
        if len(calls) == tensors + 2 * blocks:
            raise KeyboardInterrupt

    tensors = blocks = 10**9
    with calling(stopped_in_the_last_block):
        blocks = len(read_encoder(tmp_path).block)
        tensors, calls = len(calls), []
        with pytest.raises(KeyboardInterrupt):
            captions.encode(["fox", "owl"])
    assert len(calls) == tensors + 2 * blocks and not captions.known
