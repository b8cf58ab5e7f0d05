"""Laws of normalisation."""

from __future__ import annotations

import json

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ups.data.normalization import Moments, Normalizer

blocks = st.lists(arrays(np.float32, (3, 4, 2), elements=st.floats(-1000, 1000, width=32)), min_size=1, max_size=5)


@given(blocks)
def test_moments_joined_in_one_pass_are_those_of_the_whole(parts):
    moments = Moments(channels=2)
    for part in parts:
        moments.add(part)
    whole = np.concatenate(parts).astype(np.float64).reshape(-1, 2)
    normalizer = moments.normalizer()
    np.testing.assert_allclose(normalizer.mean, whole.mean(axis=0), atol=1e-9, rtol=1e-9)
    expected = whole.std(axis=0)
    np.testing.assert_allclose(
        np.where(expected > 1e-6, normalizer.std, 0), np.where(expected > 1e-6, expected, 0), rtol=1e-6
    )


@given(arrays(np.float64, (5, 2), elements=st.floats(-100, 100)), st.floats(-10, 10), st.floats(0.01, 10))
def test_denormalize_inverts_normalize(field, mean, std):
    normalizer = Normalizer((mean, 1.0), (std, 2.0))
    np.testing.assert_allclose(normalizer.denormalize(normalizer.normalize(field)), field, atol=1e-9)
    tensor = torch.from_numpy(field)
    torch.testing.assert_close(normalizer.denormalize(normalizer.normalize(tensor)), tensor, atol=1e-9, rtol=1e-9)
    np.testing.assert_allclose(normalizer.normalize(tensor).numpy(), normalizer.normalize(field), atol=1e-12)


def test_a_field_that_never_varies_is_left_at_its_scale():
    moments = Moments(channels=1)
    moments.add(np.full((2, 3, 1), 7.0))
    assert moments.normalizer() == Normalizer((7.0,), (1.0,))


def test_precision_and_json_are_kept():
    normalizer = Normalizer((0.1,), (0.3,))
    assert normalizer.normalize(torch.zeros(3, 1)).dtype == torch.float32
    assert normalizer.normalize(np.zeros((3, 1), np.float32)).dtype == np.float32
    assert Normalizer.from_json(json.loads(json.dumps(normalizer.to_json()))) == normalizer


def test_the_given_field_of_a_steady_task_has_moments_of_its_own():
    normalizer = Normalizer((0.1,), (0.3,), given=Normalizer((5.0,), (2.0,)))
    assert Normalizer.from_json(json.loads(json.dumps(normalizer.to_json()))) == normalizer
    assert normalizer.given is not None
    assert normalizer.given.normalize(np.array([[7.0]])).tolist() == [[1.0]]
    # checkpoints that were written before know no given field
    assert Normalizer.from_json({"mean": [0.1], "std": [0.3]}) == Normalizer((0.1,), (0.3,))
    assert "given" not in Normalizer((0.1,), (0.3,)).to_json()
