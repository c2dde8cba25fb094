"""Memory against trainable share, a point for each method, as in the paper's figure 1."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from eval.errors import InputError
from eval.outputs import atomic_path
from vl_lst.profiling.measure import MethodProfile, ProfileSettings

__all__ = ["PLOT_FORMATS", "plot_profiles", "require_plot_format"]

PLOT_FORMATS = ("svg", "png", "pdf")
LADDER = "lst"
INK, MUTED, ACCENT, GRID = "#1f2328", "#59636e", "#0f766e", "#d8dee4"


class _Place(NamedTuple):
    """Of a label beside its point, in points."""

    right: int
    up: int
    horizontal: str
    vertical: str


LABEL_PLACES = (
    _Place(0, 7, "center", "bottom"),
    _Place(0, -7, "center", "top"),
    _Place(8, 0, "left", "center"),
    _Place(-8, 0, "right", "center"),
    _Place(6, 8, "left", "bottom"),
    _Place(-6, -8, "right", "top"),
    _Place(0, 18, "center", "bottom"),
)


def require_plot_format(path: Path) -> str:
    """The format a file's suffix stands for.

    Raises:
        InputError: It is none of `PLOT_FORMATS`.
    """
    kind = path.suffix.removeprefix(".").lower()
    if kind not in PLOT_FORMATS:
        raise InputError(
            f"cannot draw {path}: found the suffix {path.suffix!r}, expected one of "
            f"{', '.join(f'.{name}' for name in PLOT_FORMATS)}"
        )
    return kind


def plot_profiles(profiles: Sequence[MethodProfile], settings: ProfileSettings, path: Path) -> None:
    """Draw and write the figure.

    Its height is the peak on CUDA where that was measured, else weights, gradients, optimiser state
    and what is saved for backward together.

    Args:
        profiles: From `profile_methods`.
        settings: They were measured with.
        path: Its suffix says in which of `PLOT_FORMATS`.

    Raises:
        InputError: In none of them.
    """
    kind = require_plot_format(path)
    import matplotlib
    from matplotlib.figure import Figure

    # Text stays text, and the same numbers give the same file.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "vl-lst"}):
        figure = Figure(figsize=(7.2, 4.6), dpi=150, layout="constrained")
        axes = figure.subplots()
        points = _draw(axes, profiles, settings)
        figure.draw_without_rendering()
        _label(axes, points)
        metadata = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format=kind, metadata=metadata[kind])


def _draw(
    axes: Any, profiles: Sequence[MethodProfile], settings: ProfileSettings
) -> dict[str, tuple[float, float]]:
    """Everything but the points' labels; returns where the point of each method is."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    peaks = all(profile.peak_allocated is not None for profile in profiles)
    shares = [profile.trainable_percent for profile in profiles]
    heights = [
        ((profile.peak_allocated if peaks else None) or profile.training_bytes) / 2**30
        for profile in profiles
    ]
    ladders = [profile.method == LADDER for profile in profiles]
    axes.scatter(
        shares, heights, s=46, zorder=3, color=[ACCENT if ladder else MUTED for ladder in ladders]
    )
    axes.set_xscale("log")
    axes.set_xlim(min(shares) / 2, max(*shares, 50) * 2)
    axes.set_ylim(0, max(heights) * 1.15)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:g}"))
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=MUTED)
    axes.set_xlabel("parameters that train, % of all", color=INK)
    what = "peak memory of a training step" if peaks else "weights, gradients, Adam, saved states"
    axes.set_ylabel(f"{what}, GiB", color=INK)
    precision = f"backbone {settings.backbone_precision}, arithmetic {settings.precision}"
    how = "estimated" if settings.estimate else f"measured on {settings.device.type}"
    axes.set_title(
        f"{settings.backbone}, batch {settings.workload.batch_size}, {precision}, {how}",
        loc="left",
        fontsize=10,
        color=INK,
    )
    points = zip(shares, heights, strict=True)
    return dict(zip((profile.method for profile in profiles), points, strict=True))


def _label(axes: Any, points: Mapping[str, tuple[float, float]]) -> None:
    """Write each method's name beside its point, where it covers neither point nor name."""
    from matplotlib.transforms import Bbox

    scale = axes.figure.dpi / 72
    centres = axes.transData.transform(list(points.values()))
    taken = [
        Bbox.from_bounds(x - 4 * scale, y - 4 * scale, 8 * scale, 8 * scale) for x, y in centres
    ]
    for method, point in points.items():
        ladder = method == LADDER
        for place in LABEL_PLACES:
            label = axes.annotate(
                method,
                point,
                xytext=(place.right, place.up),
                textcoords="offset points",
                ha=place.horizontal,
                va=place.vertical,
                color=ACCENT if ladder else INK,
                fontweight="bold" if ladder else "normal",
            )
            box = label.get_window_extent()
            if place is LABEL_PLACES[-1] or not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            label.remove()
