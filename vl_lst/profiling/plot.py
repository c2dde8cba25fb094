"""A figure for papers: memory against trainable parameters, one point per method.

A method that was measured both with and without recomputing blocks in the backward pass has two
points, joined by a line.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from eval.errors import InputError
from eval.outputs import atomic_path
from vl_lst.profiling.measure import MethodProfile, ProfileSettings

__all__ = ["PLOT_FORMATS", "plot_profiles", "require_plot_format"]

PLOT_FORMATS = ("svg", "png", "pdf")
LADDER = "lst"
RECOMPUTED = "blocks recomputed in the backward pass"
INK, MUTED, ACCENT, GRID = "#1f2328", "#59636e", "#0f766e", "#d8dee4"


class _Placement(NamedTuple):
    """Position of a label: its offset from the mark in points, and its alignment."""

    right: int
    up: int
    horizontal: str
    vertical: str


PLACEMENTS = (
    _Placement(0, 7, "center", "bottom"),
    _Placement(0, -7, "center", "top"),
    _Placement(8, 0, "left", "center"),
    _Placement(-8, 0, "right", "center"),
    _Placement(6, 8, "left", "bottom"),
    _Placement(-6, -8, "right", "top"),
    _Placement(0, 18, "center", "bottom"),
)


def require_plot_format(path: Path) -> str:
    """Return the format that the suffix of a file stands for.

    Raises:
        InputError: The suffix is none of `PLOT_FORMATS`.
    """
    kind = path.suffix.removeprefix(".").lower()
    if kind not in PLOT_FORMATS:
        raise InputError(
            f"cannot draw {path}: found the suffix {path.suffix!r}, expected one of "
            f"{', '.join(f'.{name}' for name in PLOT_FORMATS)}"
        )
    return kind


def plot_profiles(profiles: Sequence[MethodProfile], settings: ProfileSettings, path: Path) -> None:
    """Draw the figure and write it to a file.

    The memory of a method is its CUDA peak if that was measured for all methods, else the sum of
    weights, gradients, optimizer state and the memory saved for the backward pass.

    Args:
        profiles: Results of `profile_methods`.
        settings: Settings that they were measured with.
        path: File to write; its suffix selects one of `PLOT_FORMATS`.

    Raises:
        InputError: The suffix is none of them.
    """
    kind = require_plot_format(path)
    import matplotlib
    from matplotlib.figure import Figure

    # Keep text as text in SVG, and make the bytes depend on the numbers alone.
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
) -> dict[str, list[tuple[float, float]]]:
    """Draw everything except the labels; return the points of each method."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    has_peaks = all(profile.peak_allocated is not None for profile in profiles)
    shares = [profile.trainable_percent for profile in profiles]
    heights = [
        ((profile.peak_allocated if has_peaks else None) or profile.training_bytes) / 2**30
        for profile in profiles
    ]
    points: dict[str, list[tuple[float, float]]] = {}
    for profile, share, height in zip(profiles, shares, heights, strict=True):
        points.setdefault(profile.method, []).append((share, height))
        color = ACCENT if profile.method == LADDER else MUTED
        inside = "white" if profile.recomputes else color
        axes.scatter([share], [height], s=46, zorder=3, color=inside, edgecolors=color)
    for method, found in points.items():
        color = ACCENT if method == LADDER else MUTED
        axes.plot(*zip(*found, strict=True), color=color, linewidth=1, zorder=2)
    axes.set_xscale("log")
    axes.set_xlim(min(shares) / 2, max(*shares, 50) * 2)
    axes.set_ylim(0, max(heights) * 1.15)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:g}"))
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=MUTED)
    axes.set_xlabel("trainable parameters, % of all", color=INK)
    parts = "weights, gradients, optimizer, saved for backward"
    memory = "peak memory" if has_peaks else parts
    axes.set_ylabel(f"{memory}, GiB", color=INK)
    backbone = "/".join(dict.fromkeys(profile.backbone_precision for profile in profiles))
    precision = f"backbone {backbone}, arithmetic {settings.precision}"
    how = "estimated" if settings.estimate else f"measured on {settings.device.type}"
    axes.set_title(
        f"{settings.backbone}, batch {settings.workload.batch_size}, {settings.optimizer.name}, "
        f"{precision}, {how}",
        loc="left",
        fontsize=10,
        color=INK,
    )
    if any(profile.recomputes for profile in profiles):
        axes.scatter([], [], s=46, color="white", edgecolors=MUTED, label=RECOMPUTED)
        axes.legend(loc="best", frameon=False, fontsize=9, labelcolor=INK)
    return points


def _label(axes: Any, points: Mapping[str, Sequence[tuple[float, float]]]) -> None:
    """Label the first point of each method where the label covers no point, line or other label."""
    from matplotlib.transforms import Bbox

    scale = axes.figure.dpi / 72
    centres = axes.transData.transform([point for found in points.values() for point in found])
    taken = [
        Bbox.from_bounds(x - 4 * scale, y - 4 * scale, 8 * scale, 8 * scale) for x, y in centres
    ]
    for found in points.values():
        ends = axes.transData.transform(found)
        taken.append(Bbox([ends.min(0) - scale, ends.max(0) + scale]))  # the line that joins them
    for method, (point, *_) in points.items():
        is_ladder = method == LADDER
        for placement in PLACEMENTS:
            label = axes.annotate(
                method,
                point,
                xytext=(placement.right, placement.up),
                textcoords="offset points",
                ha=placement.horizontal,
                va=placement.vertical,
                color=ACCENT if is_ladder else INK,
                fontweight="bold" if is_ladder else "normal",
            )
            box = label.get_window_extent()
            if placement is PLACEMENTS[-1] or not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            label.remove()
