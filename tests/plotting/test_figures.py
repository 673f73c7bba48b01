import numpy as np
import pytest

from jaxflows.conditional.completion import Completion, RowInfo
from jaxflows.conditional.fit_posterior import FitTrace
from jaxflows.plotting import (
    comparison_figure,
    completion_figure,
    convergence_figure,
    inference_figure,
    save_figure,
    trace_figure,
)
from jaxflows.plotting.style import HIDDEN


def a_completion(rows, event_shape, num_samples=3):
    rng = np.random.default_rng(0)
    originals = rng.random((rows, *event_shape))
    observed = rng.random((rows, *event_shape)) < 0.5
    samples = np.where(observed[:, None], originals[:, None], rng.random((rows, num_samples, *event_shape)))
    info = RowInfo(*(np.zeros(rows) for _ in RowInfo._fields))
    spread = np.where(observed, 0.0, samples.std(1))
    log_weights = rng.random((rows, num_samples))
    return originals, observed, Completion(samples, log_weights, samples.mean(1), spread, samples[:, 0], info, (), {})


def heads(figure):
    return [text.get_text() for text in figure.texts]


def test_columns_and_hidden_tint():
    originals, observed, completion = a_completion(2, (4, 4))
    figure = completion_figure(originals, observed, completion, titles=["half missing"])
    expected = ["half missing", "original", "observed", "sample 1", "sample 2", "sample 3", "mean", "std"]
    assert heads(figure)[:8] == expected
    pictures = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    assert len(pictures) == 2 * 7
    shown = np.asarray(pictures[1])
    blue = np.all(np.isclose(shown, HIDDEN), axis=-1)
    np.testing.assert_array_equal(blue, ~observed[0])
    # seen pixels are grey levels, the same in the original and in what was observed
    np.testing.assert_array_equal(shown[observed[0]], np.asarray(pictures[0])[observed[0]])


def test_one_colour_range_for_all_images():
    originals, observed, completion = a_completion(2, (4, 4))
    originals[0], originals[1] = 0.25, 1.0
    originals[0, 0, 0] = 0.0
    figure = completion_figure(originals, np.ones_like(observed), completion)
    pictures = [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images]
    assert pictures[0][1, 1] == pytest.approx(0.25, abs=0.01)
    assert pictures[7][1, 1] == pytest.approx(1.0)


def test_no_original_column_without_truth():
    originals, observed, completion = a_completion(2, (4, 4))
    figure = completion_figure(np.where(observed, originals, np.nan), observed, completion)
    assert "original" not in heads(figure)
    assert "observed" in heads(figure)


def test_unsolved_sample_is_framed():
    originals, observed, completion = a_completion(2, (4, 4))
    clean = completion_figure(originals, observed, completion)
    completion.log_weights[1, 2] = -np.inf
    figure = completion_figure(originals, observed, completion)
    assert sum(len(axes.patches) for axes in clean.axes if axes.images) == 0
    framed = [axes for axes in figure.axes if axes.images and axes.patches]
    assert len(framed) == 1
    assert "constraint not solved" in heads(figure)
    assert "constraint not solved" not in heads(clean)


def test_panels_and_row_limit():
    originals, observed, completion = a_completion(5, (2, 3))
    groups = np.asarray([0, 0, 0, 1, 1])
    figure = completion_figure(originals, observed, completion, groups=groups, titles=["a", "b"], max_rows=2)
    assert "a (first 2 of 3 rows)" in heads(figure)
    assert "b" in heads(figure)
    assert len([axes for axes in figure.axes if axes.images]) == 4 * 7


def test_colour_images_and_flat_events_with_an_image_shape():
    originals, observed, completion = a_completion(1, (12,))
    for shape in ((2, 2, 3), (3, 4), (3, 4, 1)):
        figure = completion_figure(originals, observed, completion, image_shape=shape)
        assert np.asarray(figure.axes[0].images[0].get_array()).shape == (*shape[:2], 3)


def test_vectors_are_curves():
    originals, observed, completion = a_completion(3, (6,))
    figure = completion_figure(originals, observed, completion, groups=np.asarray([0, 0, 1]), titles=["a", "b"])
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["samples", "mean ± 2 std", "observed", "truth"]
    seen = next(line for line in figure.axes[0].lines if line.get_marker() == "o" and line.get_markersize() < 3)
    np.testing.assert_array_equal(seen.get_xdata(), np.flatnonzero(observed[0]))


def test_figures_of_other_rows_are_refused():
    originals, observed, completion = a_completion(2, (4, 4))
    with pytest.raises(ValueError, match="of the same rows, at least one; got"):
        completion_figure(originals[:1], observed[:1], completion)
    with pytest.raises(ValueError, match=r"expected images of shape .* got \(4, 2, 2\)"):
        completion_figure(originals, observed, completion, image_shape=(4, 2, 2))


def a_trace():
    steps = np.arange(0, 100, 20)
    bound = np.stack([-10 + 4 * (1 - np.exp(-steps / 30)), -7 + 2 * (1 - np.exp(-steps / 40))], axis=1)
    return FitTrace(steps, bound, np.full_like(bound, 0.3), np.zeros(2), np.asarray([True, False]), False)


def test_trace_has_a_band_of_one_error():
    figure = trace_figure(a_trace(), labels=["row 0", "row 1"])
    axes = figure.axes[0]
    band = axes.collections[0].get_paths()[0].vertices
    np.testing.assert_allclose(axes.lines[0].get_ydata(), a_trace().bound[:, 0])
    assert band[:, 1].max() == pytest.approx(a_trace().bound[:, 0].max() + 0.3)
    # the row still rising ends in an open circle
    assert [line.get_marker() for line in axes.lines] == ["None", "None", "o"]
    with pytest.raises(ValueError, match="at 4 steps; got"):
        trace_figure(a_trace()._replace(steps=np.arange(4)))


def test_convergence_median_and_band():
    curves = 10.0 ** -np.outer([1.0, 1.5, 2.0], np.arange(5))
    figure = convergence_figure({"sweep": curves, "one": curves[0]}, tolerance=1e-4, per_step={"sweep": 8, "one": 20})
    axes = figure.axes[0]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), curves[1])
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), 8 * np.arange(5))
    assert axes.get_yscale() == "log"
    assert len(axes.collections) == 1
    with pytest.raises(ValueError, match="at least one solver"):
        convergence_figure({})


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg", ".jpg"])
def test_equal_figures_give_equal_bytes(tmp_path, suffix):
    for name in ("a", "b"):
        originals, observed, completion = a_completion(1, (2, 2))
        save_figure(completion_figure(originals, observed, completion), tmp_path / f"{name}{suffix}")
    content = (tmp_path / f"a{suffix}").read_bytes()
    assert len(content) > 1000
    assert content == (tmp_path / f"b{suffix}").read_bytes()


def test_no_global_state():
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    trace_figure(a_trace())
    assert dict(mpl.rcParams) == before


def test_lines_of_inferred_images_and_flagged_samples_left_out():
    rng = np.random.default_rng(0)
    truth, observations = rng.random((3, 4, 4)), rng.random((3, 4, 4))
    samples = np.repeat(truth[:, None], 3, axis=1)
    samples[0, 1] = 0.0
    hidden, flagged = np.zeros(truth.shape, bool), np.zeros((3, 3), bool)
    hidden[:, 0], flagged[0, 1], flagged[1] = True, True, True
    figure = inference_figure(truth, observations, samples, hidden=hidden, flagged=flagged, title="half", max_rows=2)
    lines = ["half (first 2 of 3 rows)", "observation", "sample 1", "sample 2", "sample 3", "mean", "std", "truth"]
    assert heads(figure) == [*lines, "red frame: without weight"]
    pictures = [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images]
    assert len(pictures) == 2 * 7
    np.testing.assert_array_equal(np.all(np.isclose(pictures[0], HIDDEN), axis=-1), hidden[0])
    # without the flagged sample all agree; where all are flagged they are shown as they are
    for row in (0, 1):
        np.testing.assert_array_equal(pictures[2 * 4 + row], pictures[2 * 6 + row])
    assert [len(axes.patches) for axes in figure.axes[2:8]] == [0, 1, 1, 1, 0, 1]
    colours = inference_figure(*(np.repeat(values[..., None], 3, axis=-1) for values in (truth, observations, samples)))
    assert len([axes for axes in colours.axes if axes.images]) == 3 * 7


def test_methods_beside_each_other_share_their_colours():
    rng = np.random.default_rng(0)
    truth, observations = rng.random((2, 4, 4, 3)), rng.random((2, 4, 4, 3))
    samples = {
        "draws": rng.random((2, 5, 4, 4, 3)),
        "wide": 2 * rng.random((2, 5, 4, 4, 3)),
        "point": rng.random((2, 1, 4, 4, 3)),
    }
    figure = comparison_figure(truth, observations, samples, title="colours")
    lines = ["observation", "draws", "   mean", "   std", "wide", "   mean", "   std", "point", "truth"]
    assert heads(figure) == ["colours", *lines]
    pictures = [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images]
    assert len(pictures) == 2 * len(lines)
    scaled = (samples["point"][0, 0] - truth.min()) / (truth.max() - truth.min())
    np.testing.assert_allclose(pictures[2 * 7], np.clip(scaled, 0, 1))
    # one range for both deviations: the wider method's are lighter
    assert pictures[2 * 6].sum() > 1.3 * pictures[2 * 3].sum()
    with pytest.raises(ValueError, match=r"expected point \(2, S, 4, 4, 3\), as the truth; got \(1, 1, 4, 4, 3\)"):
        comparison_figure(truth, observations, {"point": samples["point"][:1]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"truth": np.zeros((2, 16))}, r"expected images \(rows, height, width\) .*; got \(2, 16\)"),
        ({"samples": np.zeros((2, 4, 4))}, r"samples \(2, S, 4, 4\), as the truth; got \(2, 4, 4\)"),
    ],
)
def test_inferred_images_that_do_not_fit(change, message):
    arguments = {"truth": np.zeros((2, 4, 4)), "observations": np.zeros((2, 4, 4)), "samples": np.zeros((2, 1, 4, 4))}
    with pytest.raises(ValueError, match=message):
        inference_figure(**arguments | change)
