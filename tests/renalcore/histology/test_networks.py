from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from renalcore.errors import ModelError
from renalcore.histology.networks import (
    NETWORKS,
    build_network,
    freeze_encoder,
    load_start,
    load_weights,
    parameters_of,
    save_encoder,
    save_weights,
)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_learns_with_all_its_parts_and_its_weights_survive_a_round_trip(
    name: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = build_network(name).half().float()  # as exact as the file is
    answers = network.answers(torch.rand(2, 3, 32, 32))
    assert {answer.shape for answer in answers} == {(2, 2, 32, 32)}
    sum((answer.square().mean() for answer in answers), torch.zeros(())).backward()
    assert [part for part, parameter in network.named_parameters() if parameter.grad is None] == []

    network = network.half().float().eval()  # the batch norms have moved
    odd = torch.rand(1, 3, 40, 23)  # no multiple of any stride
    with torch.inference_mode():
        before = network(odd)
        assert before.shape == (1, 2, 40, 23)
        save_weights(network, tmp_path / "w.safetensors")
        for parameter in network.parameters():
            parameter.zero_()
        load_weights(network, tmp_path / "w.safetensors")
        assert torch.equal(network(odd), before)


def test_the_networks_of_the_papers_are_as_large_as_their_authors_say() -> None:
    # Millions: Jha et al., Table VI, say 29.3 for DoubleU-Net; ResNet-101 without its classifier has 42.5.
    sizes = {name: parameters_of(name) / 1e6 for name in ("double-unet", "deeplabv2-resnet101")}
    assert sizes == {"double-unet": pytest.approx(29.3, abs=0.1), "deeplabv2-resnet101": pytest.approx(42.6, abs=0.1)}
    assert parameters_of("linknet-efficientnet-b0") * 2 < 8e6  # bytes in fp16


def test_a_network_answers_today_what_it_answered_when_models_were_trained() -> None:
    network = build_network("linknet-efficientnet-b0").eval()
    weights = {name: _weight(name, value, phase) for phase, (name, value) in enumerate(network.state_dict().items())}
    network.load_state_dict(weights)
    with torch.inference_mode():
        found = network(_wave((1, 3, 64, 64), 0).abs())[0, :, 10:60:20, 33].flatten()
    torch.testing.assert_close(found, torch.tensor(STORED), rtol=1e-3, atol=1e-4)


STORED = [2.11144, 1.76753, 1.85580, -2.85304, -2.21192, -2.40893]


def _weight(name: str, value: torch.Tensor, phase: int) -> torch.Tensor:
    """Numbers of the size that trained ones have, which no random generator of a library may change."""
    if not value.is_floating_point():
        return value
    if value.ndim > 1:
        return 2 * _wave(value.shape, phase) / value[0].numel() ** 0.5
    return (0 if name.endswith(("bias", "running_mean")) else 1) + 0.2 * _wave(value.shape, phase)


def _wave(shape: tuple[int, ...], phase: int) -> torch.Tensor:
    return torch.from_numpy(np.sin(np.arange(np.prod(shape)) * 0.7 + phase).reshape(shape)).float()


def test_an_encoder_begins_every_network_that_has_it_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "encoder.safetensors"
    trained = build_network("linknet-mobilenetv2")
    save_encoder(trained, path)
    other = build_network("unet-mobilenetv2")
    assert load_start(other, path) == "encoder"
    for name, value in trained.encoder.state_dict().items():
        torch.testing.assert_close(other.encoder.state_dict()[name], value, rtol=1e-3, atol=1e-6)
    with pytest.raises(ModelError, match=r"is the encoder mobilenet_v2, and mobilenet has tu-.*unet-mobilenetv2"):
        load_start(build_network("mobilenet"), path)
    with pytest.raises(ModelError, match="holds the encoder mobilenet_v2 and no network"):
        load_weights(other, path)


def test_weights_of_another_network_and_half_a_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(build_network("linknet-mobilenetv2"), path)
    with pytest.raises(ModelError, match=r"it is of linknet-mobilenetv2\) does not fit this network"):
        load_weights(build_network("unet-mobilenetv2"), path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelError, match="not a whole safetensors file"):
        load_weights(build_network("linknet-mobilenetv2"), path)


def test_an_unknown_network_is_refused_with_the_names_of_the_known_ones() -> None:
    with pytest.raises(ModelError, match="no network 'segnet'; choose one of linknet-efficientnet-b0"):
        build_network("segnet")


def test_a_frozen_encoder_keeps_its_convolutions_and_the_decoder_learns() -> None:
    network = build_network("linknet-mobilenetv2")
    freeze_encoder(network, frozen=True)
    network(torch.rand(2, 3, 32, 32)).sum().backward()
    convolutions = [module.weight for module in network.encoder.modules() if isinstance(module, torch.nn.Conv2d)]
    assert all(weight.grad is None for weight in convolutions)
    assert all(parameter.grad is not None for parameter in network.body.decoder.parameters())
    freeze_encoder(network, frozen=False)
    assert all(parameter.requires_grad for parameter in network.parameters())
