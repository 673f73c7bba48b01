"""Pictures of the tasks: which lines they have, what is left out, and that greys are shown as greys."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from benchmarks import inverse_pictures
from benchmarks.inverse_problems import loaded
from benchmarks.inverse_tasks import DATA
from jaxflows import flows, persistence


def _problem(tmp_path, task, data="mnist", model=None):
    sizes = inverse_pictures.Sizes(2, 3, 4, None)
    return loaded(data, model or DATA[data].model, tmp_path, tmp_path)._replace(task=task, sizes=sizes)


def _pictures(figure):
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images]


def test_lines_are_the_methods_that_serve_the_task(tmp_path):
    names = ["gaussian", "sparse_haar", "plmcmc"]
    figure, absent = inverse_pictures.task_figure(_problem(tmp_path, "super_resolution_4"), names)
    assert absent == ["plmcmc"]
    lines = ["super resolution 4", "observation", "gaussian", "   mean", "   std", "sparse_haar", "truth"]
    assert [text.get_text() for text in figure.texts] == lines
    pictures = _pictures(figure)
    assert len(pictures) == 2 * (len(lines) - 1)
    # what was read are the means of squares of the noisy digit, near those of the truth
    squares = [image[..., 0].reshape(7, 4, 7, 4).mean(axis=(1, 3)) for image in (pictures[0], pictures[-2])]
    assert np.max(np.abs(squares[0] - squares[1])) < 0.1
    with pytest.raises(SystemExit, match="super_resolution_4: none of plmcmc can serve it"):
        inverse_pictures.task_figure(_problem(tmp_path, "super_resolution_4"), ["plmcmc"])


def test_of_colours_grey_levels_are_shown_and_the_picture_is_written(tmp_path, monkeypatch, random_params, capsys):
    flow = flows.realnvp_image(event_shape=(8, 8, 3), scales=2, layers=2, hidden=4, blocks=1)
    model = tmp_path / "model.safetensors"
    persistence.save(model, flow, random_params(flow), metadata={"bits": 5, "pixel_scale": 256.0, "noise_std": 0.0})
    images = np.random.default_rng(0).integers(0, 256, (300, 8, 8, 3), np.uint8)
    source = DATA["cifar10"]._replace(test=lambda folder: images[:2], train=lambda folder: images, model=model)
    monkeypatch.setitem(DATA, "cifar10", source)
    figure, absent = inverse_pictures.task_figure(_problem(tmp_path, "colourisation", "cifar10"), ["gaussian"])
    assert absent == []
    observation = _pictures(figure)[0]
    np.testing.assert_array_equal(observation, np.repeat(observation[..., :1], 3, axis=-1))
    arguments = ["--only", "cifar10", "colourisation", "gaussian", "--count", "2", "--run-dir", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["inverse_pictures", *arguments, "--output-dir", str(tmp_path / "drawn")])
    inverse_pictures.main()
    path = tmp_path / "drawn" / "cifar10_colourisation.png"
    assert path.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out == f"{path}\n"


def test_no_images_are_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["inverse_pictures", "--count", "0"])
    with pytest.raises(SystemExit):
        inverse_pictures.main()
    assert "expected at least 1 image and 1 step; got 0 and None" in capsys.readouterr().err
