"""Projection heads: unit vectors, one copy when shared, nothing that nobody hears."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from distill.config import Head
from distill.encoders.head import Heads, build_heads

SMALL = {"num_prototypes": 12, "hidden": 16, "bottleneck": 8}


def small_heads(*, shared: bool = True, with_cls: bool = True, with_patch: bool = True) -> Heads | None:
    torch.manual_seed(0)
    return build_heads(Head(shared=shared, **SMALL), 20, with_cls=with_cls, with_patch=with_patch)


@pytest.mark.parametrize("shape", [(5, 20), (2, 3, 20)])
def test_a_head_returns_unit_vectors_of_three_layers(shape):
    head, tokens = small_heads().patch, torch.randn(*shape)
    layers = [layer for layer in head.mlp if isinstance(layer, torch.nn.Linear)]
    assert [layer.weight.shape for layer in layers] == [(16, 20), (16, 16), (8, 16)]
    hidden = F.gelu(F.linear(tokens, layers[0].weight, layers[0].bias))
    hidden = F.gelu(F.linear(hidden, layers[1].weight, layers[1].bias))
    bottleneck = F.linear(hidden, layers[2].weight, layers[2].bias)
    expected = bottleneck / bottleneck.square().sum(-1, keepdim=True).sqrt()
    torch.testing.assert_close(head(tokens), expected)


def test_prototypes_are_unit_rows_whatever_their_parameters_grow_to():
    head = small_heads().patch
    before = head.prototypes()
    torch.testing.assert_close(before.norm(dim=1), torch.ones(12))
    with torch.no_grad():
        head.directions.mul_(7.0)
    torch.testing.assert_close(head.prototypes(), before)


def test_half_precision_layers_still_give_float32_unit_vectors():
    head = small_heads().patch
    with torch.autocast("cpu", torch.bfloat16):
        bottleneck = head(torch.randn(5, 20))
    assert bottleneck.dtype == torch.float32
    torch.testing.assert_close(bottleneck.norm(dim=1), torch.ones(5))


def test_a_shared_head_is_one_module_stored_once(tmp_path):
    heads = small_heads(shared=True)
    assert heads.cls is heads.patch
    assert len(heads.state_dict()) == 7
    save_file(heads.state_dict(), tmp_path / "heads.safetensors")
    restored = small_heads(shared=True)
    with torch.no_grad():
        restored.patch.directions.zero_()
    restored.load_state_dict(load_file(tmp_path / "heads.safetensors"))
    assert torch.equal(restored.cls.prototypes(), heads.patch.prototypes())


def test_separate_heads_share_nothing():
    heads = small_heads(shared=False)
    theirs = {id(parameter) for parameter in heads.cls.parameters()}
    assert theirs.isdisjoint(id(parameter) for parameter in heads.patch.parameters())
    assert not torch.equal(heads.cls.directions, heads.patch.directions)


@pytest.mark.parametrize("shared", [True, False])
def test_only_heads_that_are_heard_are_built(shared):
    assert small_heads(shared=shared, with_cls=False, with_patch=False) is None
    heads = small_heads(shared=shared, with_cls=False)
    single = len(list(heads.patch.parameters()))
    assert heads.patch is not None and len(list(heads.parameters())) == single
    if not shared:
        assert heads.cls is None


@pytest.mark.parametrize("shared", [True, False])
def test_every_parameter_gets_a_gradient(shared):
    heads, tokens = small_heads(shared=shared), torch.randn(4, 20)
    logits = [head(tokens) @ head.prototypes().T for head in (heads.cls, heads.patch)]
    sum(one.logsumexp(1).sum() for one in logits).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in heads.parameters())
