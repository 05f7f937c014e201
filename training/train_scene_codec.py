"""Make the codec of the embedded image model: a codebook by k-means, and a decoder trained to draw from its codes.

    python -m training.train_scene_codec --sprites build/sprites.npz --places build/places.npz --out build/codec --minutes 60

192 x 192 px to 24 x 24 codes. The encoder is not trained, see `patch_encoder.py`; so the transformer's training can begin as
soon as the codebook is there, and run beside the decoder's.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mcsjd_core.codecs.vqgan import VQGAN
from mcsjd_core.whole_files import replace_whole

from . import loop, patch_encoder
from .figures import feature_distance, psnr
from .muon import Muon
from .patch_encoder import CODES, CONFIG, PatchEncoder
from .scenes import Scene, Scenes

BATCH = 8
MATRIX_RATE, VECTOR_RATE = 3e-3, 1e-3
CODEBOOK_SCENES = 2000  # whose patches k-means sees
GROUND_SHARE = (
    0.45  # ground patches for each patch with a thing in it: grounds repeat themselves, things have the edges
)
ROUNDS = 12
HELD_OUT = 64  # scenes of the figures
ANCHOR = 3.0  # deviations of what stands beside it


def pixels_of(scenes: Scenes, drawn: list[Scene]) -> Tensor:
    """Pictures [n, 3, H, W] in 0..1."""
    pixels = torch.from_numpy(np.stack([scenes.render(scene) for scene in drawn]))
    # Contiguous: on a CPU the backward pass of group norm is several times slower in channels-last order.
    return pixels.permute(0, 3, 1, 2).float().div_(255).contiguous()


def build_codebook(scenes: Scenes, seed: int) -> Tensor:
    """Centres [CODES, FEATURES] of the features of patches, rounded to float16 as they are exported."""
    rng, generator = np.random.default_rng((seed, 3)), torch.Generator().manual_seed(seed)
    drawn = [scenes.draw(rng) for _ in range(CODEBOOK_SCENES)]
    encoder = PatchEncoder()
    empty = [replace(scene, things=()) for scene in drawn]
    features, ground = (encoder.features(pixels_of(scenes, some)).flatten(0, 2) for some in (drawn, empty))
    covered = (features - ground).abs().amax(-1) > 1e-3
    rest = (~covered).nonzero().flatten()
    rest = rest[torch.randperm(len(rest), generator=generator)[: int(GROUND_SHARE * covered.sum())]]
    rows = torch.cat((features[covered], features[rest]))
    return patch_encoder.k_means(rows, CODES, ROUNDS, generator).half().float()


def build_model(centres: Tensor, seed: int) -> VQGAN:
    torch.manual_seed(seed)
    model = VQGAN(CONFIG)
    patch_encoder.write_encoder(model)
    # Features are small; the decoder's first layer likes inputs of deviation 1.
    torch.nn.init.normal_(model.post_quant_conv.weight, std=(CONFIG.embed_dim**0.5 * centres.std()).reciprocal().item())
    model.quantize.embedding.weight.data.copy_(centres)
    # Of the blocks at full resolution the shortcut alone is trained: they would take most of a step's time. `whole` puts in
    # ones that change nothing.
    model.decoder.up[0].block = nn.ModuleList([Shortcut(model.decoder.up[0].block[0].nin_shortcut)])
    return model


class Shortcut(nn.Module):
    """A residual block without its residual: 1 x 1 convolution [B, C, H, W] to more channels.

    It begins so that two of the three channels in every group of the last norm are constants of opposite sign, beside which
    the third keeps its mean.
    """

    def __init__(self, nin_shortcut: nn.Module):
        super().__init__()
        self.nin_shortcut = nin_shortcut
        weight, bias = nin_shortcut.get_parameter("weight"), nin_shortcut.get_parameter("bias")
        nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
        for offset, constant in enumerate((0.0, ANCHOR, -ANCHOR)):
            bias.data[offset::3] = constant
            if constant:
                weight.data[offset::3] = 0.0

    def forward(self, x: Tensor, guide: None = None) -> Tensor:
        return self.nin_shortcut(x)


def whole(weights: dict[str, Tensor]) -> VQGAN:
    """The codec of the configuration with trained weights; the blocks that `build_model` left out add nothing."""
    model = VQGAN(CONFIG)
    for block in model.decoder.up[0].block:
        for conv in (block.conv1, block.conv2):  # the first one, too, so that an export is the same every time
            nn.init.zeros_(conv.weight)
            nn.init.zeros_(conv.bias)
    model.load_state_dict(weights, strict=False)
    return model


def start_from(model: VQGAN, checkpoint: Path) -> None:
    """Begin with the decoder of a checkpoint directory's codec, but for the residual blocks that are not trained."""
    stored, own = load_file(checkpoint / "vqgan.safetensors"), model.state_dict()
    decoder = {
        name: weight.float() for name, weight in stored.items() if name.startswith(("decoder.", "post_quant_conv."))
    }
    model.load_state_dict(own | {name: weight for name, weight in decoder.items() if name in own})


def decoder_optimizers(model: VQGAN) -> list[torch.optim.Optimizer]:
    """Muon for the convolutions between the first and the last layer, AdamW for everything else that is learned."""
    outer = (*model.post_quant_conv.parameters(), *model.decoder.conv_out.parameters())
    kernels = [p for p in model.decoder.parameters() if p.ndim == 4 and all(p is not o for o in outer)]
    rest = [p for p in model.decoder.parameters() if p.ndim < 4 and all(p is not o for o in outer)]
    return [
        Muon(kernels, MATRIX_RATE, weight_decay=0.01),
        torch.optim.AdamW([*rest, *outer], lr=VECTOR_RATE, betas=(0.9, 0.95), weight_decay=0.01),
    ]


class Training:
    """The task of `loop.train`."""

    def __init__(self, scenes: Scenes, model: VQGAN, seed: int, device: str):
        self.scenes, self.seed, self.device, self.model = scenes, seed, device, model.to(device)
        self.encoder = PatchEncoder(model.quantize.embedding.weight.data)
        self.modules = {"model": self.model}
        self.optimizers = decoder_optimizers(self.model)

    def loss(self, rng: np.random.Generator, step: int) -> Tensor:
        pixels = pixels_of(self.scenes, [self.scenes.draw(rng) for _ in range(BATCH)]).to(self.device)
        return picture_error(self.model.reconstruct(self.vectors(pixels)), pixels)

    def vectors(self, pixels: Tensor) -> Tensor:
        return self.model.quantize.lookup(self.encoder.encode(pixels)).detach()

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """PSNR and feature distance of scenes never drawn in training, and the codes in use on them."""
        rng = np.random.default_rng((self.seed, 2**32))
        pixels = pixels_of(self.scenes, [self.scenes.draw(rng) for _ in range(HELD_OUT)]).to(self.device)
        codes = torch.cat([self.encoder.encode(part) for part in pixels.split(BATCH)])
        decoded = torch.cat([self.model.decode(part) for part in codes.split(BATCH)])
        shares = torch.bincount(codes.flatten(), minlength=CODES).float() / codes.numel()
        perplexity = torch.special.entr(shares).sum().exp().item()
        return {
            "psnr": psnr(decoded, pixels), "feature_distance": feature_distance(decoded, pixels),
            "codes_used": int((shares > 0).sum()), "code_perplexity": perplexity,
        }  # fmt: skip


def picture_error(picture: Tensor, pixels: Tensor) -> Tensor:
    """Loss (scalar) of a reconstruction [B, 3, H, W]: of its pixels, and of its steps from pixel to pixel."""
    error = picture.float() - pixels
    # Squared error alone blurs edges, L1 alone lets flat areas drift; 4 brings the two to one size on this data.
    plain = error.abs().mean() + 4 * error.square().mean()
    steps = sum((error.diff(dim=axis)).abs().mean() for axis in (-1, -2))
    return plain + 0.5 * steps


def codebook_in(folder: Path, scenes: Scenes, seed: int, checkpoint: Path | None = None) -> Tensor:
    """The folder's codebook; if there is none, that of the checkpoint directory, or else one that is made now."""
    file = folder / patch_encoder.CODEBOOK
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        centres = codebook_of(checkpoint) if checkpoint else build_codebook(scenes, seed)
        replace_whole(file, lambda part: save_file({"centres": centres}, part))
    return load_file(file)["centres"]


def codebook_of(checkpoint: Path) -> Tensor:
    """Centres [CODES, FEATURES] of a checkpoint directory's codec."""
    return load_file(checkpoint / "vqgan.safetensors")["quantize.embedding.weight"].float()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("sprites", "places", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--start-from", type=Path, help="checkpoint directory whose codec to begin with")
    loop.add_options(parser, minutes=60)
    a = parser.parse_args()
    settings, scenes = loop.settings_from(a), Scenes.load(a.sprites, a.places)
    model = build_model(codebook_in(a.out, scenes, a.seed, a.start_from), a.seed)
    if a.start_from:
        start_from(model, a.start_from)
    loop.train(Training(scenes, model, a.seed, settings.device), a.out, settings)


if __name__ == "__main__":
    main()
