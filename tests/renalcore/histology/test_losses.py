from __future__ import annotations

import math

import pytest
import torch

from renalcore.histology.losses import Loss, binary_cross_entropy, dice_loss, lovasz_hinge, symmetric_lovasz

EVERYWHERE = torch.ones(1, 1, 1, 1)


def row(*values: float) -> torch.Tensor:
    """A picture of one line."""
    return torch.tensor(values).view(1, 1, 1, -1)


def test_the_lovasz_hinge_is_that_of_the_definition() -> None:
    # Errors 1 - logit * sign: 1 - 2 = -1, 1 - (-1) = 2, 1 - (-1)(-1) = 0. Sorted: 2 (glomerulus), 0 (not), -1 (is).
    # Jaccard loss as they become wrong one by one, with two pixels of glomerulus: 1 - 1/2, 1 - 1/3, 1 - 0/3.
    loss = lovasz_hinge(row(2.0, -1.0, -1.0), row(1.0, 1.0, 0.0), EVERYWHERE)
    steps = (1 / 2, 2 / 3 - 1 / 2, 1 - 2 / 3)
    elu_plus_one = (2 + 1, 0 + 1, math.exp(-1))
    assert loss.item() == pytest.approx(sum(a * b for a, b in zip(steps, elu_plus_one, strict=True)))


def test_the_symmetric_lovasz_hinge_treats_glomerulus_and_background_alike() -> None:
    logits, targets = row(0.3, -2.0, 1.5, -0.4), row(1.0, 0.0, 0.0, 1.0)
    there, back = symmetric_lovasz(logits, targets, EVERYWHERE), symmetric_lovasz(-logits, 1 - targets, EVERYWHERE)
    torch.testing.assert_close(there, back)
    halves = lovasz_hinge(logits, targets, EVERYWHERE) + lovasz_hinge(-logits, 1 - targets, EVERYWHERE)
    torch.testing.assert_close(there, halves / 2)


def test_the_lovasz_hinge_is_the_mean_over_pictures_and_channels() -> None:
    logits, targets = torch.randn(2, 2, 4, 4), (torch.rand(2, 2, 4, 4) > 0.5).float()
    each = [lovasz_hinge(logits[i : i + 1, c : c + 1], targets[i : i + 1, c : c + 1], EVERYWHERE)
            for i in range(2) for c in range(2)]  # fmt: skip
    torch.testing.assert_close(lovasz_hinge(logits, targets, EVERYWHERE), torch.stack(each).mean())


def test_dice_and_cross_entropy_are_those_of_their_formulas() -> None:
    logits, targets = row(0.0, 0.0, 0.0, 0.0), row(1.0, 1.0, 0.0, 0.0)
    # |P T| = 2 * 0.5, |P| = 4 * 0.5, |T| = 2.
    assert dice_loss(logits, targets, EVERYWHERE, smooth=1.0).item() == pytest.approx(1 - (2 * 1 + 1) / (2 + 2 + 1))
    assert binary_cross_entropy(logits, targets, EVERYWHERE).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("loss", [Loss(bce=1), Loss(dice=1), Loss(lovasz=1), Loss(bce=1, dice=0.5, lovasz=2)])
def test_a_pixel_of_which_nothing_is_known_changes_no_loss_and_gets_no_gradient(loss: Loss) -> None:
    logits = torch.tensor([[[[2.0, -1.0, 0.5, -3.0]]]], requires_grad=True)
    known = row(1.0, 1.0, 1.0, 0.0)
    value = loss(logits, row(1.0, 0.0, 1.0, 0.0), known)
    torch.testing.assert_close(value, loss(logits, row(1.0, 0.0, 1.0, 1.0), known))
    torch.testing.assert_close(value, loss(logits[..., :3], row(1.0, 0.0, 1.0), EVERYWHERE))
    value.backward()
    assert logits.grad is not None
    assert (logits.grad != 0).flatten().tolist() == [True, True, True, False]


def test_a_batch_of_which_nothing_is_known_costs_nothing() -> None:
    logits = torch.randn(2, 2, 4, 4, requires_grad=True)
    value = Loss(bce=1, dice=1, lovasz=1)(logits, torch.ones(2, 2, 4, 4), torch.zeros(2, 1, 1, 1))
    value.backward()
    assert value.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_the_sum_weighs_its_parts() -> None:
    logits, targets = torch.randn(2, 2, 4, 4), torch.ones(2, 2, 4, 4)
    parts = (binary_cross_entropy, dice_loss, symmetric_lovasz)
    expected = sum(w * part(logits, targets, EVERYWHERE) for w, part in zip((1.0, 0.5, 2.0), parts, strict=True))
    torch.testing.assert_close(Loss(bce=1.0, dice=0.5, lovasz=2.0)(logits, targets, EVERYWHERE), expected)


@pytest.mark.parametrize("weights", [(0.0, 0.0, 0.0), (-1.0, 1.0, 0.0), (math.nan, 1.0, 1.0)])
def test_a_loss_without_a_positive_weight_is_refused(weights: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="weights of 0 or more, one of them positive"):
        Loss(*weights)
