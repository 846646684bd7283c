"""Files of weights in the forms that they come in."""

import pytest
import safetensors.torch
import timm
import torch
from failure_directions.models.build import build_model, pretrained_timm
from failure_directions.models.pretrained import load_image_model
from failure_directions.models.weights import load_weights, under_own_names, weights_in
from failure_directions.runtime.errors import UserError

PLAIN = {"conv.weight": torch.arange(4.0), "module.bias": torch.ones(2)}


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}])
@pytest.mark.parametrize(
    "prefix", ["", "module.", "model.", "module.model.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.model."]
)
def test_weights_have_the_bare_models_names_whatever_they_were_wrapped_in(tmp_path, wrap, prefix):
    torch.save(wrap({prefix + name: value for name, value in PLAIN.items()}), tmp_path / "w.pt")
    found = load_weights(tmp_path / "w.pt")
    assert list(found) == list(PLAIN)
    assert all(torch.equal(found[name], PLAIN[name]) for name in PLAIN)


def test_a_name_that_not_all_weights_begin_with_is_the_models_own():
    assert set(weights_in({"module.a": torch.ones(1), "b": torch.ones(1)})) == {"module.a", "b"}


@pytest.mark.parametrize("content", [[torch.ones(2)], {}, {"a": 1}, {"state_dict": 3}, {1: torch.ones(2)}])
def test_what_is_no_state_dict_is_told(tmp_path, content):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"weights .*w\.pt holds no state dict"):
        load_weights(tmp_path / "w.pt")


def test_every_way_to_a_model_takes_safetensors_and_prefixes(tmp_path):
    torch.manual_seed(0)
    ours, theirs = build_model("resnet", "resnet18", 3), timm.create_model("test_resnet")
    for name, model in {"ours": ours, "theirs": theirs}.items():
        state = {f"module.{key}": value.contiguous() for key, value in model.state_dict().items()}
        safetensors.torch.save_file(state, tmp_path / f"{name}.safetensors")
    loaded = (
        load_image_model("resnet18", tmp_path / "ours.safetensors")[0],
        pretrained_timm("test_resnet", tmp_path / "theirs.safetensors"),
    )
    for model, expected in zip(loaded, (ours, theirs), strict=True):
        state = model.state_dict()
        assert all(torch.equal(state[key], value) for key, value in expected.state_dict().items())


def test_a_deeper_network_s_weights_are_not_taken_for_a_shallower_one_s(tmp_path):
    """All that resnet18 asks for is in resnet34, in its shapes."""
    torch.save(build_model("resnet", "resnet34", 3).state_dict(), tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"not those of a resnet18 \(unexpected: layer1\.2\.conv1\.weight"):
        load_image_model("resnet18", tmp_path / "w.pt")


def test_a_model_named_model_within_more_weights_is_found():
    state = {"net.model.a.weight": torch.ones(1), "net.model.b": torch.ones(2), "loss.weight": torch.ones(3)}
    found, unexpected, left_over = under_own_names(state, ["a.weight", "b"])
    assert (set(found), set(unexpected), set(left_over)) == ({"a.weight", "b"}, set(), {"loss.weight"})
