"""Lumina-mGPT: layout of the sequence, sizes, the files as they are published, and logits against transformers."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import mcsjd_core
from mcsjd_core import DecodeSettings, Grid, InputError, LawSettings
from mcsjd_core.checkpoints.checkpoint import Fields
from mcsjd_core.codecs.vqgan import VQGANConfig
from mcsjd_core.families.chameleon import LuminaLayout, Vocabulary, image_token_name, trained_side
from mcsjd_core.families.interface import SamplingDefaults
from mcsjd_core.families.sizes import side_lengths, sizes_of_equal_area
from oracle import cached_logits, relative, uncached_logits
from tiny_checkpoint import split_into_shards, write_tiny_checkpoint

CODEC = VQGANConfig(
    channels=32, channel_multipliers=(1, 1, 1, 1, 1), res_blocks=1, z_channels=8, embed_dim=4, codebook_size=24
)
NAMES = (
    "<eoss>",
    "<racm3:break>",
    "<reserved08706>",
    "<reserved08799>",
    *(f"<reserved{8800 + n:05d}>" for n in range(5)),
)
END, BEGIN, TURN, ROW_END, BLOCKS = 28, 29, 30, 31, 32  # ids with 24 codes after the four leading tokens
SIDE = 64  # pixels; 2 x 2 blocks, 4 x 4 codes


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """What transformers can read: a norm row for every head, one file."""
    return write_tiny_checkpoint(tmp_path_factory.mktemp("plain") / "plain", codec=CODEC, controls=NAMES)


@pytest.fixture(scope="module")
def directory(plain, tmp_path_factory) -> Path:
    """The same model as Lumina-mGPT's repositories hold it: shared norm rows, shards, a fresh config, vqgan.ckpt."""
    path = shutil.copytree(plain, tmp_path_factory.mktemp("lumina") / "Lumina-mGPT-7B-768")
    tensors = load_file(path / "model.safetensors")
    tensors |= {name: tensors[name][:1].clone() for name in tensors if "_norm." in name}
    tensors |= {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    save_file(tensors, path / "model.safetensors")
    split_into_shards(path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(
        json.dumps(config | {"mask_image_logits": False, "dropout": 0.0, "bos_token_id": 1})
    )
    (path / "generation_config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": 2, "image_side": SIDE}))
    state = load_file(path / "vqgan.safetensors") | {"loss.discriminator.weight": torch.zeros(3)}
    torch.save({"state_dict": state}, path / "vqgan.ckpt")
    (path / "vqgan.safetensors").unlink()
    return path


@pytest.fixture(scope="module")
def model(directory):
    return mcsjd_core.load(directory)


def prompt_ids(model, text: str, size: str) -> list[int]:
    """The published form, spelled out: `<s>`, the request, turn end, begin of image, height, width."""
    request = f"Generate an image of {size} according to the following prompt:\n{text}"
    width, height = map(int, size.split("x"))
    ids = model.tokenizer.encode(request, add_special_tokens=False).ids
    return [0, *ids, TURN, BEGIN, BLOCKS + height // 32, BLOCKS + width // 32]


def body(model, size: str, batch: int) -> torch.Tensor:
    """Random whole token rows of the size."""
    grid = model.grid(size)
    codes = torch.randint(24, (batch, grid.rows, grid.columns), generator=torch.Generator().manual_seed(3))
    return grid.tokens(codes)


def vocabulary_ids(tokens: torch.Tensor) -> list[int]:
    """Codes follow the four leading tokens; forced tokens are ids counted on from the codebook size, 24."""
    return [token + 4 if token < 24 else token - 24 for token in tokens.tolist()]


# -- sizes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "count", "longest"), [(512, 49, 1024), (768, 73, 1536), (1024, 97, 2048)])
def test_sizes_are_the_published_ones(side, count, longest):
    sizes = sizes_of_equal_area(side, 32, 4)
    pairs = [side_lengths(size) for size in sizes]
    assert len(set(sizes)) == count and sizes[0] == f"{side}x{side}"
    assert {(longest, longest // 4), (longest // 4, longest)} <= set(pairs)
    assert all((h, w) in pairs for w, h in pairs)
    for width, height in pairs:
        assert width % 32 == height % 32 == 0 and max(width, height) <= 4 * min(width, height)
        assert width * height <= side * side < (width + 32) * (height + 32)  # none is far below the area


def test_an_empty_prompt_is_the_request_with_nothing_in_it(model):
    """As the authors' sampler sends it; the unconditional row is another and has no request."""
    size = model.sizes[0]
    table = model.token_model.model.embed_tokens.weight
    prompt = model.prompt([""], None, True, size)
    wanted = [prompt_ids(model, "", size), [BEGIN, BLOCKS + 2, BLOCKS + 2]]
    for row, padding, ids in zip(prompt.embeddings, prompt.padding.tolist(), wanted, strict=True):
        assert torch.equal(row[padding:], table[torch.tensor(ids)])


# The vocabulary of the published tokenizer, as far as the layout asks for it.
PUBLISHED = {"<s>": 0, "<eoss>": 8196, "<racm3:break>": 8197}
PUBLISHED |= {image_token_name(code): code + 4 for code in range(8192)}
PUBLISHED |= {f"<reserved{n:05d}>": n + 4 for n in range(8706, 8870)}


@pytest.mark.parametrize(("side", "body", "size_id"), [(512, 1056, 8820), (768, 2352, 8828), (1024, 4160, 8836)])
def test_published_ids_and_lengths(side, body, size_id):
    vocabulary = Vocabulary.from_names(PUBLISHED, 8192)
    assert vocabulary == Vocabulary(bos=0, begin_of_image=8197, turn_end=8710, first_code=4)
    layout = LuminaLayout(vocabulary, PUBLISHED, 8192, side, 16)
    size = f"{side}x{side}"
    assert layout.row([9, 10], size) == [0, 9, 10, 8710, 8197, size_id, size_id]
    assert layout.unconditional(size) == [8197, size_id, size_id]
    grid = layout.grid(size)
    forced = grid.forced()
    assert grid.num_tokens == body + 1 and (grid.rows, grid.columns) == (side // 16, side // 16)
    assert forced[-1] == 8192 + 8196
    assert [i for i, token in enumerate(forced.tolist()) if token == 8192 + 8803] == [
        n for n in range(body) if (n + 1) % (side // 16 + 1) == 0
    ]
    assert (forced == -1).sum() == (side // 16) ** 2


def test_height_token_comes_before_width_token():
    layout = LuminaLayout(Vocabulary.from_names(PUBLISHED, 8192), PUBLISHED, 8192, 768, 16)
    assert layout.unconditional("1152x512") == [8197, 8804 + 16, 8804 + 36]
    assert "1152x512 according" in layout.request("owl", "1152x512")
    assert (layout.grid("1152x512").rows, layout.grid("1152x512").columns) == (32, 72)


@pytest.mark.parametrize("size", sizes_of_equal_area(1024, 32, 4)[::12])
def test_tokens_of_every_shape_give_their_codes_back(size):
    layout = LuminaLayout(Vocabulary.from_names(PUBLISHED, 8192), PUBLISHED, 8192, 1024, 16)
    grid = layout.grid(size)
    codes = torch.randint(8192, (2, grid.rows, grid.columns))
    assert torch.equal(grid.codes(grid.tokens(codes)), codes)


@pytest.mark.parametrize("missing", ["<reserved08799>", "<eoss>", "<reserved08864>"])
def test_missing_layout_tokens_are_named(missing):
    ids = {name: id for name, id in PUBLISHED.items() if name != missing}
    with pytest.raises(InputError, match=missing):
        LuminaLayout(Vocabulary.from_names(ids, 8192), ids, 8192, 1024, 16)


# -- the published directory ---------------------------------------------------------------------------------------------


def test_published_files_are_read(model):
    assert model.sizes == ("64x64", "128x32", "96x32", "64x32", "32x64", "32x96", "32x128")
    assert model.grid() == Grid(4, 4, row_end=24 + ROW_END, end=(24 + END,))
    assert model.token_model.model.config.qk_norm_groups == 1
    assert model.defaults == SamplingDefaults(LawSettings(4.0, 1.0, 2000, 1.0), 32)


@pytest.mark.parametrize("name", ["vqgan.ckpt", "tokenizer/vqgan.ckpt", "../chameleon-vqgan/vqgan.ckpt"])
def test_codec_may_lie_in_several_places(directory, model, tmp_path, name):
    path = shutil.copytree(directory, tmp_path / "m" / "Lumina-mGPT-7B-768")
    (path / name).parent.mkdir(exist_ok=True)
    (path / "vqgan.ckpt").rename(path / name)
    codes = torch.arange(8).view(1, 2, 4)
    assert torch.equal(mcsjd_core.load(path).codec.decode(codes), model.codec.decode(codes))


def test_the_codec_beside_a_linked_directory_is_the_one_beside_the_link(directory, model, tmp_path):
    path = tmp_path / "models" / "Lumina-mGPT-7B-768"
    path.parent.mkdir()
    path.symlink_to(shutil.copytree(directory, tmp_path / "elsewhere" / "Lumina-mGPT-7B-768"))
    (path.parent / "chameleon-vqgan").mkdir()
    (path / "vqgan.ckpt").rename(path.parent / "chameleon-vqgan" / "vqgan.ckpt")
    codes = torch.arange(8).view(1, 2, 4)
    assert torch.equal(mcsjd_core.load(path).codec.decode(codes), model.codec.decode(codes))


def test_codec_may_lie_among_the_transformers_tensors(plain, directory, model, tmp_path):
    path = shutil.copytree(plain, tmp_path / "Anole")
    codec = {f"model.vqmodel.{name}": tensor for name, tensor in load_file(path / "vqgan.safetensors").items()}
    save_file(load_file(path / "model.safetensors") | codec, path / "model.safetensors")
    (path / "vqgan.safetensors").unlink()
    codes = torch.arange(8).view(1, 2, 4)
    assert torch.equal(mcsjd_core.load(path).codec.decode(codes), model.codec.decode(codes))
    without = {name: t for name, t in load_file(path / "model.safetensors").items() if "decoder" not in name}
    save_file(without, path / "model.safetensors")  # an encoder alone, as facebook/chameleon-7b has it
    with pytest.raises(InputError, match=r"vqgan.safetensors is missing: .*vqgan.ckpt.*chameleon-vqgan"):
        mcsjd_core.load(path)


def test_long_prompts_have_room_beside_pictures_that_exceed_the_context_of_config_json(tmp_path):
    """4096 there, as in the published one, and a picture of 1024 px alone has more tokens."""
    names = ("<eoss>", "<racm3:break>", "<reserved08706>", *(f"<reserved{8799 + n:05d}>" for n in range(66)))
    path = write_tiny_checkpoint(tmp_path / "Lumina-mGPT-7B-1024", codec=CODEC, controls=names)
    model = mcsjd_core.load(path)
    assert max(model.grid(size).num_tokens for size in model.sizes) == 128 * 33 + 1 > 4096
    for size in model.sizes:
        assert model.prompt(["x" * 3800], None, True, size).embeddings.shape[1] > 3800
    with pytest.raises(InputError, match="beside a picture of this size the model reads 4031; shorten it"):
        model.prompt(["x" * 4031], None, True)


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("Lumina-mGPT-7B-512", 512),
        ("Lumina-mGPT-7B-768-Omni", 768),
        ("models--Alpha-VLLM--Lumina-mGPT-7B-1024/snapshots/0f5125", 1024),
        ("old-512/lumina-768", 768),
    ],
)
def test_published_names_tell_the_size(name, side):
    assert trained_side(Path(name), Fields({}, "generation_config.json")) == side
    assert trained_side(Path(name), Fields({"image_side": 640}, "generation_config.json")) == 640


def test_a_name_without_the_size_is_refused(directory, tmp_path):
    path = shutil.copytree(directory, tmp_path / "Lumina-mGPT-7B")
    (path / "generation_config.json").unlink()
    with pytest.raises(InputError, match="does not tell its picture size: name the directory as it was published"):
        mcsjd_core.load(path)


def test_codec_with_more_than_tensors_is_not_opened(directory, tmp_path):
    path = shutil.copytree(directory, tmp_path / "Lumina-mGPT-7B-768")
    torch.save({"state_dict": {}, "callbacks": Path("x")}, path / "vqgan.ckpt")
    with pytest.raises(InputError, match="more than tensors"):
        mcsjd_core.load(path)
    for nameless in ({}, {0: torch.zeros(1)}):
        torch.save({"state_dict": nameless}, path / "vqgan.ckpt")
        with pytest.raises(InputError, match="no named tensors"):
            mcsjd_core.load(path)
    whole = (directory / "vqgan.ckpt").read_bytes()
    for content in (b"", whole[:1000], b"text"):
        (path / "vqgan.ckpt").write_bytes(content)
        with pytest.raises(InputError, match=r"vqgan.ckpt is (empty|not a (whole )?torch file)"):
            mcsjd_core.load(path)


# -- logits --------------------------------------------------------------------------------------------------------------

TEXTS, SIZE = ["red", "a much longer one"], "96x32"


@pytest.mark.parametrize("window", [1, 5, 100])
def test_guided_logits_equal_those_of_transformers(plain, directory, model, window):
    """Ragged prompts, conditional and unconditional rows, every position, separators included."""
    transformers = pytest.importorskip("transformers", reason="transformers is the reference")
    reference = transformers.ChameleonModel.from_pretrained(plain, dtype=torch.float32).eval()
    plain_norms = {n: t for n, t in reference.state_dict().items() if "_norm." in n and "self_attn" in n}
    for tensor in plain_norms.values():
        tensor.copy_(tensor[:1].expand_as(tensor))  # the published file shares the first row
    head = load_file(plain / "model.safetensors")["lm_head.weight"][4:28]
    tokens = body(model, SIZE, 2)
    prompt = model.prompt(TEXTS, None, True, SIZE)
    ours = cached_logits(model.token_model, prompt, tokens, window)
    uncached = uncached_logits(model.token_model, prompt, tokens)
    for row, start in enumerate(
        ids for text in TEXTS for ids in (prompt_ids(model, text, SIZE), [BEGIN, BLOCKS + 1, BLOCKS + 3])
    ):
        ids = torch.tensor([start + vocabulary_ids(tokens[row // 2, :-1])])
        with torch.no_grad():
            hidden = reference(input_ids=ids).last_hidden_state[0, len(start) - 1 :]
        assert relative(ours[row], hidden @ head.T) < 1e-5
        assert relative(uncached[row], hidden @ head.T) < 1e-5


def test_a_picture_of_every_size_is_drawn_and_exact(model):
    law = LawSettings(cfg_scale=3.0, top_k=10)
    for size in model.sizes:
        plain_ar, exact = (
            mcsjd_core.sample(model, TEXTS, DecodeSettings(coupling, 7, law), size=size).tokens
            for coupling in ("autoregressive", "gumbel_exact")
        )
        width, height = side_lengths(size)
        assert torch.equal(plain_ar, exact)
        assert mcsjd_core.pictures(model, exact, size).shape == (2, 3, height, width)
        rows = exact[:, :-1].view(2, height // 16, -1)
        assert (
            (rows[..., -1] == 24 + ROW_END).all() and (rows[..., :-1] < 24).all() and (exact[:, -1] == 24 + END).all()
        )
