from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.losses import DiceLoss
from torch import nn

from renalcore.ct.losses import Loss
from renalcore.ct.networks import NETWORKS, build_network, load_networks, parameters_of, save_networks
from renalcore.ct.steps import STEPS
from renalcore.errors import ModelError


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_learns_with_all_its_parts_and_its_weights_survive_a_round_trip(
    name: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    networks = {step: build_network(name, step, width=4).half().float() for step in STEPS}
    volume = torch.randn(1, 1, 16, 24, 16) * 100
    for step, network in networks.items():
        answer = network(volume)
        assert answer.shape == (1, len(STEPS[step].classes), 16, 24, 16)
        answer.square().mean().backward()
        assert [part for part, parameter in network.named_parameters() if parameter.grad is None] == []
    path = tmp_path / "w.safetensors"
    save_networks(networks, path)
    loaded = load_networks(path)
    assert list(loaded) == ["rough", "kidney", "lesion"]
    with torch.inference_mode():
        for step, network in networks.items():
            assert torch.equal(loaded[step](volume), network.eval()(volume))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_learns_to_tell_a_bright_ball_from_what_is_around_it(name: str) -> None:
    torch.manual_seed(0)
    network = build_network(name, "kidney", width=4)
    axis = torch.arange(16) - 7.5
    ball = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2 < 30).long()[None]
    volume = 150.0 * ball[:, None] + 30 * torch.randn(1, 1, 16, 16, 16)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(25):
        optimizer.zero_grad()
        Loss((1, 2))(network(volume), ball).backward()
        optimizer.step()
    with torch.inference_mode():
        found = network(volume).argmax(1)
    assert 2 * (found * ball).sum() / (found.sum() + ball.sum()) > 0.9


def test_a_coarse_network_works_on_the_means_of_what_is_no_air_and_its_answer_is_as_fine_as_its_volume(
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    network = build_network("segresnet", "lesion", width=4).half().float().eval()
    blocks = torch.randint(0, 200, (1, 1, 8, 16, 8)).float()
    fine = blocks
    for axis in (2, 3, 4):
        fine = fine.repeat_interleave(2, axis)
    fine[:, :, ::2] += 30
    fine[:, :, 1::2] -= 30
    with torch.inference_mode():
        wanted = torch.nn.functional.interpolate(network(blocks), scale_factor=2, mode="trilinear")
        network.coarse = True
        assert torch.allclose(network(fine), wanted, atol=1e-4)
        holed = fine.clone()
        holed[:, :, 4:6, :2, :2] = -1000  # a block of air, and half of another one
        holed[:, :, 4:6, 4:6, 4] = -1000
        blocks[:, :, 2, 0, 0] = -1000
        network.coarse = False
        wanted = torch.nn.functional.interpolate(network(blocks), scale_factor=2, mode="trilinear")
        network.coarse = True
        assert torch.allclose(network(holed), wanted, atol=1e-4)
        save_networks({"lesion": network}, tmp_path / "w.safetensors")
        assert torch.equal(load_networks(tmp_path / "w.safetensors")["lesion"](fine), network(fine))


def test_step_3_tells_water_from_tissue_where_there_is_nothing_to_compare_it_with() -> None:
    """In one window and normalised channel by channel, two balls in air are the same whatever their HU."""
    torch.manual_seed(0)
    network = build_network("segresnet", "lesion", width=4)
    axis = torch.arange(16) - 7.5
    ball = axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2 < 30
    volumes = torch.stack([torch.where(ball, hu, -1000.0) for hu in (10.0, 110.0)])[:, None]
    wanted = torch.stack([2 * ball, 0 * ball]).long()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(120):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(volumes), wanted).backward()
        optimizer.step()
    with torch.inference_mode():
        water, tissue = network(volumes).argmax(1)
    assert (water[ball] == 2).float().mean() > 0.9
    assert not (tissue[ball] == 2).any()


def test_the_unet_is_the_papers_four_levels_of_two_convolutions() -> None:
    body = build_network("unet3d", "rough", width=32).body
    thick = [module for module in body.modules() if isinstance(module, nn.Conv3d) and module.kernel_size == (3, 3, 3)]
    # Four levels down, three up, two convolutions each; channels double from level to level.
    assert [module.out_channels for module in thick] == [32, 32, 64, 64, 128, 128, 256, 256, 128, 128, 64, 64, 32, 32]
    pools = [module for module in body.modules() if isinstance(module, nn.MaxPool3d)]
    ups = [module for module in body.modules() if isinstance(module, nn.ConvTranspose3d)]
    assert len(pools) == len(ups) == 3
    assert {module.kernel_size for module in ups} == {(2, 2, 2)}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_convolution_begins_as_kaiming_has_it(name: str) -> None:
    torch.manual_seed(0)
    body = build_network(name, "rough", width=16).body
    layers = {key: part for key, part in body.named_modules() if isinstance(part, nn.Conv3d | nn.ConvTranspose3d)}
    assert len(layers) > 15
    for key, layer in layers.items():
        weight = layer.weight
        # Kernels of all channels in; of an up-convolution torch counts the channels out.
        deviation = (2 / weight[0].numel()) ** 0.5
        sure = 4.5 / weight.numel() ** 0.5  # of the mean in deviations; that of the deviation itself is half as wide
        assert abs(weight.mean().item()) < sure * deviation, key
        assert weight.std().item() == pytest.approx(deviation, rel=sure / 2**0.5), key
        # A normal distribution: what lies within one deviation.
        assert (weight.abs() < deviation).float().mean().item() == pytest.approx(0.683, abs=sure / 2), key


def test_the_three_small_networks_fit_into_a_release() -> None:
    # Two bytes a parameter; the issue allows 25 MB.
    assert all(2 * parameters_of(name, width=8) < 25e6 for name in NETWORKS)


def test_what_lies_beyond_the_window_makes_no_difference() -> None:
    network = build_network("unet3d", "lesion", width=4).eval()
    volume = torch.full((1, 1, 16, 16, 16), -300.0)
    volume[..., 4:] = 900
    further = torch.full((1, 1, 16, 16, 16), -1000.0)
    further[..., 4:] = 3000
    with torch.inference_mode():
        assert torch.equal(network(volume), network(further))


def test_names_steps_and_widths_that_do_not_exist_are_refused_with_those_that_do(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="choose one of unet3d, segresnet"):
        build_network("vnet", "rough")
    with pytest.raises(ModelError, match="choose one of rough, kidney, lesion"):
        build_network("unet3d", "fourth")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="multiple of 4"):
        build_network("unet3d", "rough", width=6)
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"nothing")
    with pytest.raises(ModelError, match="make or copy it again"):
        load_networks(path)


def test_a_perfect_answer_costs_nothing_and_a_rare_class_weighs_as_told() -> None:
    targets = torch.zeros(1, 8, 8, 8, dtype=torch.long)
    targets[:, 2:5] = 1
    right = 40 * (torch.nn.functional.one_hot(targets, 2).movedim(-1, 1).float() - 0.5)
    assert Loss((1, 3))(right, targets).item() == pytest.approx(0, abs=1e-4)
    # Equal logits: log 2 a voxel, whatever the weights; only the second class wrong: its weight decides.
    half = torch.zeros(1, 2, 8, 8, 8)
    assert Loss((1, 3), dice=0)(half, targets).item() == pytest.approx(0.6931, abs=1e-4)
    blind = torch.stack([torch.full((8, 8, 8), 5.0), torch.zeros(8, 8, 8)])[None]
    light, heavy = (Loss((1, weight), dice=0)(blind, targets).item() for weight in (1, 9))
    # 3 of 8 slices are of class 1: 5.0067 each of weight w; the others cost 0.0067.
    assert light == pytest.approx((3 * 5.0067 + 5 * 0.0067) / 8, abs=1e-3)
    assert heavy == pytest.approx((27 * 5.0067 + 5 * 0.0067) / 32, abs=1e-3)


def test_a_cyst_weighs_more_than_the_kidney_that_it_is_a_part_of() -> None:
    labels = torch.zeros(1, 8, 8, 8, dtype=torch.long)
    labels[:, 2:5], labels[:, 5] = 1, 3
    blind = torch.stack([torch.full((8, 8, 8), 5.0), torch.zeros(8, 8, 8)])[None]
    cost = Loss((1, 2, 4, 16), (0, 1, 1, 1), dice=0)(blind, labels).item()
    # 3 of 8 slices are kidney, 1 is cyst: 5.0067 each of weight 2 and 16; the other 4 cost 0.0067.
    assert cost == pytest.approx(((3 * 2 + 16) * 5.0067 + 4 * 0.0067) / (3 * 2 + 16 + 4), abs=1e-3)
    right = 40 * (torch.nn.functional.one_hot((labels > 0).long(), 2).movedim(-1, 1).float() - 0.5)
    assert Loss((1, 2, 4, 16), (0, 1, 1, 1))(right, labels).item() == pytest.approx(0, abs=1e-4)
    with pytest.raises(ValueError, match="each label of a loss has a weight and a class"):
        Loss((1, 2), (0, 1, 1))


def test_false_cysts_cost_the_more_the_larger_they_are_where_there_is_none() -> None:
    labels = torch.zeros(1, 16, 16, 16, dtype=torch.long)
    said = torch.zeros_like(labels)
    costs = []
    for false in (0, 2, 4):
        said[:, :false] = 2
        logits = 40 * (torch.nn.functional.one_hot(said, 3).movedim(-1, 1).float() - 0.5)
        costs.append(Loss((1, 1, 1), cross_entropy=0)(logits, labels).item())
    # 512 and 1,024 voxels, beside the 1,000 of the smoothing; the other class is absent and not found.
    assert costs == pytest.approx([0, (1 - 1000 / 1512) / 2, (1 - 1000 / 2024) / 2], abs=1e-4)


def test_the_dice_part_is_monai_s() -> None:
    rng = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(2, 3, 8, 8, 8, generator=rng), torch.randint(0, 3, (2, 8, 8, 8), generator=rng)
    monai = DiceLoss(
        include_background=False, to_onehot_y=True, softmax=True, batch=True, smooth_nr=50.0, smooth_dr=50.0
    )
    ours = Loss((1, 1, 1), cross_entropy=0, smooth=50.0)(logits, labels)
    assert ours.item() == pytest.approx(monai(logits, labels[:, None]).item(), abs=1e-6)


def test_a_voxel_that_counts_ten_times_costs_as_ten_voxels_in_both_parts() -> None:
    labels = torch.zeros(1, 4, 8, 8, dtype=torch.long)
    labels[:, :, :2] = 1
    logits = torch.randn(1, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    tenfold = torch.ones(labels.shape)
    tenfold[:, :, 0] = 10
    rows = [0] * 10 + list(range(1, 8))
    for parts in ({"dice": 0.0}, {"cross_entropy": 0.0}):
        loss = Loss((1, 3), **parts)
        often = loss(logits[..., rows, :], labels[..., rows, :]).item()
        assert loss(logits, labels, tenfold).item() == pytest.approx(often, rel=1e-5)
        assert loss(logits, labels).item() != pytest.approx(often, rel=1e-3)


def test_a_loss_without_a_part_is_refused() -> None:
    with pytest.raises(ValueError, match="one part counts"):
        Loss((1, 1), dice=0, cross_entropy=0)
