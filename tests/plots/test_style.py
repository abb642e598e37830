import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from bonelib.config import CLASSES
from bonelib.plots.style import class_colours, new_figure, save_figure

# Machado 2009, severity 1: no deficiency, deuteranopia and protanopia, on linear RGB.
VISION = np.array(
    [
        np.eye(3),
        [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
        [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    ]
)


@pytest.mark.parametrize(("count", "distance"), [(2, 0.7), (3, 0.5), (4, 0.2), (5, 0.2), (6, 0.2)])
def test_colour_blind_readers_can_tell_the_classes_apart(count, distance):
    colours = class_colours([f"class {number}" for number in range(count)]).values()
    linear = np.power([to_rgb(colour) for colour in colours], 2.2)
    for seen in linear @ VISION.transpose(0, 2, 1):
        gaps = np.linalg.norm(seen[:, None] - seen[None], axis=2)
        assert gaps[~np.eye(count, dtype=bool)].min() > distance


def test_default_classes_are_blue_gold_and_magenta_in_order():
    colours = class_colours(CLASSES)
    assert list(colours) == list(CLASSES)
    assert [colour.upper() for colour in colours.values()] == ["#648FFF", "#FFB000", "#DC267F"]


def test_saved_figure_names_its_report_section(tmp_path):
    for section in ("data", "training"):
        figure, _ = new_figure(section)
        save_figure(figure, tmp_path / "figures" / "a.png")
        with Image.open(tmp_path / "figures" / "a.png") as image:
            assert image.text["section"] == section
            assert image.width == 800
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["a.png"]


def test_figure_is_shown_once_and_leaves_no_global_state():
    import matplotlib.pyplot as plt

    before, open_figures = dict(matplotlib.rcParams), plt.get_fignums()
    figure, axes = new_figure("data", 2, 3, title="A title")
    assert axes.shape == (2, 3)
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert plt.get_fignums() == open_figures
    assert dict(matplotlib.rcParams) == before
