"""The pictures of two_layer.py: each function computes and draws one."""

import dataclasses
import math
import os

import matplotlib
import numpy as np

from keras_bcgd import theory

matplotlib.use("Agg")
import matplotlib.pyplot as plt

DERIVATIVES = {
    "relu": ("ReLU", "tab:blue"),
    "clipped_relu": ("clipped ReLU", "tab:orange"),
    "identity": ("identity", "tab:green"),
}
TO_TEACHER, TO_PI = "tab:blue", "tab:red"


@dataclasses.dataclass
class Settings:
    """What the flags of two_layer.py set."""

    seed: int
    m: int
    n: int
    starts: int
    batch_size: int


def save(figure, folder, name):
    """Writes a PNG and an SVG, each whole or not at all."""
    for suffix in ("png", "svg"):
        path = folder / f"{name}.{suffix}"
        temporary = folder / f".{name}.{suffix}.unfinished"
        # The same picture is the same file: no date, no random names.
        metadata = {"Date": None} if suffix == "svg" else {}
        with matplotlib.rc_context({"svg.hashsalt": name}):
            figure.savefig(temporary, format=suffix, dpi=100, metadata=metadata)
        os.replace(temporary, path)
    plt.close(figure)


def unit(a):
    return a / np.linalg.norm(a, axis=-1, keepdims=True)


def on_circle(angles):
    """Unit vectors in the plane, at these angles from (1, 0)."""
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1)


def random_problem(settings, starts):
    """`(v, w, v_star, w_star)`: many starts and one teacher."""
    rng = np.random.default_rng(settings.seed)
    v_star = rng.standard_normal(settings.m)
    w_star = unit(rng.standard_normal(settings.n))
    v = rng.standard_normal((starts, settings.m))
    w = unit(rng.standard_normal((starts, settings.n)))
    return v, w, v_star, w_star


def staircase(settings):
    """sigma(x, alpha) of 1, 2 and 6 bits beside the ramp."""
    figure, panels = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    pictures = {
        "1 bit, the theory's: one step": (1, 1),
        "2 bits: a staircase": (2, 1),
        "6 bits, from afar: a ramp": (6, 1 / 21),
    }
    for panel, (title, (bits, alpha)) in zip(
        panels, pictures.items(), strict=True
    ):
        top = 2**bits - 1
        x = np.linspace(-1, top * alpha + 1, 4001)
        steps = alpha * np.clip(np.ceil(x / alpha), 0, top)
        ramp = np.clip(x, 0, top * alpha)
        panel.plot(x, steps, color="tab:blue", label="staircase")
        panel.plot(x, ramp, "--", color="tab:orange", label="clipped ReLU")
        panel.set(title=title, xlabel="x", ylabel="sigma(x, alpha)")
    panels[0].legend()
    return figure, (
        "the derivative of the staircase is 0 on every step; its step-back "
        "view, the ramp, has the derivative 1 on all of them"
    )


def terraces(settings):
    """The empirical loss for w on a circle and on a sphere, with paths."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(13, 5.2), layout="constrained", width_ratios=[1.25, 1]
    )
    rng = np.random.default_rng(settings.seed)
    v_star = np.array([1.0, -0.7, 1.2])
    num_samples = 50

    # On a circle: the angle of w is all there is.
    w_star = np.array([1.0, 0.0])
    Z = rng.standard_normal((num_samples, 3, 2))
    angles = np.linspace(-np.pi, np.pi, 4001)
    losses = theory.empirical_loss(v_star, on_circle(angles), v_star, w_star, Z)
    f = theory.population_loss(v_star, on_circle(angles), v_star, w_star)
    left.step(
        np.degrees(angles),
        losses,
        color="0.35",
        label=f"loss on {num_samples} samples",
    )
    left.plot(np.degrees(angles), f, ":", color="0.35", label="its mean, f")
    for start, color in ((-2.6, TO_TEACHER), (2.3, "tab:orange")):
        path = walk(v_star, on_circle(np.array(start)), w_star, Z, 0.15, 60)
        at = np.degrees(np.arctan2(path[:, 1], path[:, 0]))
        height = theory.empirical_loss(v_star, path, v_star, w_star, Z)
        left.plot(at, height, ".-", color=color, linewidth=0.7)
        left.plot(at[0], height[0], "o", color=color)
    left.set(
        xlabel="angle of w to w*, degrees", ylabel="loss", xlim=(-180, 180)
    )
    left.set_title(
        "w on a circle; each dot is a step of coarse gradient descent"
    )
    left.legend(loc="upper center")

    # On a sphere, laid flat around w*: distance is angle.
    w_star = np.array([1.0, 0.0, 0.0])
    Z = rng.standard_normal((num_samples, 3, 3))
    side = np.linspace(-np.pi, np.pi, 251)
    flat = np.stack(np.meshgrid(side, side), axis=-1)
    radius = np.linalg.norm(flat, axis=-1, keepdims=True)
    w = np.concatenate(
        [np.cos(radius), np.sin(radius) * flat / np.maximum(radius, 1e-9)], -1
    )
    losses = theory.empirical_loss(v_star, w, v_star, w_star, Z)
    losses[radius[..., 0] > np.pi] = np.nan
    mesh = right.pcolormesh(
        *[np.degrees(side)] * 2, losses, cmap="terrain", rasterized=True
    )
    figure.colorbar(mesh, ax=right, label=f"loss on {num_samples} samples")
    ends = []
    for direction in np.linspace(0, 2 * np.pi, 7)[:-1]:
        start = np.array(
            [math.cos(2.4), *(math.sin(2.4) * on_circle(direction))]
        )
        path = walk(v_star, start, w_star, Z, 0.15, 120)
        angle = np.degrees(theory.angle(path, w_star))
        x, y = angle * unit(path[:, 1:]).T
        right.plot(x, y, ".-", color="k", linewidth=0.7, markersize=3)
        right.plot(x[0], y[0], "o", color="k")
        ends.append(angle[-1])
    right.plot(0, 0, "*", color="white", markeredgecolor="k", markersize=14)
    right.set(xlabel="degrees from w*", aspect="equal")
    right.set_title("w on a sphere, laid flat; the star is w*")
    return figure, (
        f"on the sphere {np.sum(np.array(ends) < 30)} of 6 paths end within 30 "
        f"degrees of w* ({', '.join(f'{end:.0f}' for end in ends)})"
    )


def walk(v, w, w_star, Z, step_size, steps):
    """The w of coarse gradient descent with v held at v*, `(steps + 1, n)`."""
    path = [w]
    for _ in range(steps):
        _, coarse = theory.empirical_gradients(v, path[-1], v, w_star, Z)
        path.append(unit(path[-1] - step_size * coarse))
    return np.array(path)


def population(settings):
    """f over theta, at v = v* and at the best v, for three teachers."""
    figure, panels = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    theta = np.linspace(0, np.pi, 400)
    w_star = np.array([1.0, 0.0])
    teachers = {
        "a saddle, and a local minimum at 180": [1.5, -1.0, 0.3],
        "1'v* = 0: the minimum at 180 is global": [1.0, -1.5, 0.5],
        "neither: 2 (1'v*)^2 > (m + 1) ||v*||^2": [1.0, 0.9, 0.6],
    }
    saddles = []
    for panel, (title, v_star) in zip(panels, teachers.items(), strict=True):
        best = theory.stationary_v(theta, v_star)
        for v, label, color in (
            (v_star, "v = v*", "0.5"),
            (best, "the best v", "tab:blue"),
        ):
            f = theory.population_loss(v, on_circle(theta), v_star, w_star)
            panel.plot(np.degrees(theta), f, color=color, label=label)
        at = np.array([0, theory.saddle_angle(v_star), np.pi])
        at = at[~np.isnan(at)]
        v = theory.stationary_v(at, v_star)
        f = theory.population_loss(v, on_circle(at), v_star, w_star)
        kinds = theory.classify(v, on_circle(at), v_star, w_star)
        for x, y, kind in zip(np.degrees(at), f, kinds, strict=True):
            minimum = "minimizer" in kind
            panel.plot(x, y, "o" if minimum else "X", color="k", clip_on=False)
            panel.annotate(
                kind.replace(" at pi", "").replace(" ", "\n"),
                (x, y),
                xytext=(0, -10 if minimum else 8),
                textcoords="offset points",
                va="top" if minimum else "bottom",
                ha={0: "left", 180: "right"}.get(int(x), "center"),
                fontsize=9,
            )
            if kind == "saddle" and x < 180:
                saddles.append(f"{x:.0f}")
        panel.set(title=title, xlabel="theta(w, w*), degrees", ylabel="f")
        panel.set_xticks([0, 45, 90, 135, 180])
        panel.margins(y=0.2)
    panels[0].legend(loc="upper left")
    return figure, f"saddles at {' and '.join(saddles)} degrees; one has none"


def samples(settings):
    """Empirical losses along a great circle, and their largest gap to f."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(13, 4.2), layout="constrained"
    )
    _, _, v_star, w_star = random_problem(settings, 1)
    v = theory.stationary_v(np.pi / 4, v_star)
    rng = np.random.default_rng(settings.seed + 1)
    across = rng.standard_normal(settings.n)
    across = unit(across - across @ w_star * w_star)
    theta = np.linspace(0, np.pi, 361)
    w = on_circle(theta) @ np.stack([w_star, across])
    f = theory.population_loss(v, w, v_star, w_star)
    counts = np.array([10, 30, 100, 300, 1000, 3000])
    gaps = []
    for count in counts:
        some = []
        for draw in range(5):
            Z = rng.standard_normal((count, settings.m, settings.n))
            # Few w at a time: each has its own Z w.
            losses = np.concatenate(
                [
                    theory.empirical_loss(v, part, v_star, w_star, Z)
                    for part in np.array_split(w, 20)
                ]
            )
            some.append(np.max(np.abs(losses - f)))
            if draw == 0 and count in (10, 100, 1000):
                left.step(np.degrees(theta), losses, label=f"{count} samples")
        gaps.append(some)
    left.plot(np.degrees(theta), f, "k--", label="f, all samples")
    left.set(xlabel="theta(w, w*), degrees", ylabel="loss")
    left.set_title("The loss on N samples along a half circle from w* to -w*")
    left.legend()
    gaps = np.array(gaps)
    right.loglog(counts, gaps, "o", color="tab:blue", markersize=4)
    mean = np.exp(np.mean(np.log(gaps * np.sqrt(counts)[:, None])))
    right.loglog(counts, mean / np.sqrt(counts), "k:", label="c / sqrt(N)")
    right.set(xlabel="N, samples", ylabel="largest gap to f")
    right.set_title("Five draws of each N")
    right.legend()
    slope = np.polyfit(np.log(counts), np.mean(np.log(gaps), axis=1), 1)[0]
    return figure, f"the largest gap to f falls as N to the {slope:.2f}"


def paths(settings):
    """Loss and angles of many starts, from anywhere."""
    figure, panels = plt.subplots(1, 3, figsize=(14, 4.4), layout="constrained")
    v, w, v_star, w_star = random_problem(settings, settings.starts)
    step_size = 0.9 * theory.step_size_bound(v, v_star)
    inside = theory.in_theorem_region(v, w, v_star, w_star)
    steps, losses, of_v, of_w = [0], [], [], []
    # In pieces: the angle of v is drawn too, at more and more distant steps.
    for length in (0, *([1] * 100), *([10] * 190)):
        piece = theory.descend(
            v, w, v_star, w_star, step_size, length, every=max(length, 1)
        )
        v, w = piece.v, piece.w
        steps.append(steps[-1] + length)
        losses.append(piece.losses[-1])
        of_v.append(np.degrees(theory.angle(v, v_star)))
        of_w.append(np.degrees(piece.angles[-1]))
    steps, losses, of_v, of_w = map(np.array, (steps[1:], losses, of_v, of_w))
    found = of_w[-1] < 90
    for i in range(settings.starts):
        style = {
            "color": TO_TEACHER if found[i] else TO_PI,
            "linewidth": 1.2 if inside[i] else 0.6,
            "alpha": 0.9 if inside[i] else 0.6,
        }
        panels[0].semilogy(steps, np.maximum(losses[:, i], 1e-16), **style)
        panels[1].plot(steps, of_w[:, i], **style)
        panels[2].plot(of_v[:, i], of_w[:, i], **style)
        panels[2].plot(of_v[0, i], of_w[0, i], ".", **style)
    panels[0].set(xlabel="step", ylabel="f", title="Loss")
    panels[1].set(xlabel="step", ylabel="theta(w, w*), degrees")
    panels[1].set_title("Blue: to the teacher. Red: to 180 degrees")
    panels[2].set(xlabel="theta(v, v*)", ylabel="theta(w, w*)")
    panels[2].set_title("Both angles; a dot is a start")
    panels[2].axhline(90, color="0.6", linewidth=0.6)
    panels[2].axvline(90, color="0.6", linewidth=0.6)
    rise = np.max(np.diff(losses, axis=0))
    return figure, (
        f"{np.sum(found)} of {settings.starts} starts end at the teacher, "
        f"{np.sum(inside & found)} of the {np.sum(inside)} in the theorem's "
        f"region (thick); largest rise of f {max(rise, 0):.0e}"
    )


def basin(settings):
    """Where starts end, over the angles of v and w, at two lengths of v."""
    figure, panels = plt.subplots(
        1, 2, figsize=(12, 4.6), layout="constrained", sharey=True
    )
    v_star, w_star = np.array([0.9, -0.6]), np.array([1.0, 0.0])
    first = math.atan2(v_star[1], v_star[0])
    of_v = np.linspace(-np.pi, np.pi, 97)
    of_w = np.linspace(0, np.pi, 50)[1:-1]
    covered, missed, uncovered = 0, 0, 0
    for panel, factor in zip(panels, (0.5, 6), strict=True):
        length = factor * np.linalg.norm(v_star)
        v = length * on_circle(first + of_v)[None, :]
        w = on_circle(of_w)[:, None]
        step_size = 0.9 * theory.step_size_bound(v, v_star)
        path = theory.descend(v, w, v_star, w_star, step_size, 2500, every=2500)
        found = path.angles[-1] < np.pi / 2
        inside = theory.in_theorem_region(v, w, v_star, w_star)
        covered += np.sum(inside & found)
        missed += np.sum(inside & ~found)
        uncovered += np.sum(found & ~inside)
        degrees = np.degrees(of_v), np.degrees(of_w)
        colors = matplotlib.colors.ListedColormap(["#f4b6b0", "#b5d3ee"])
        panel.pcolormesh(*degrees, found, cmap=colors, rasterized=True)
        panel.contourf(
            *degrees, inside, [0.5, 1.5], hatches=["///"], colors="none"
        )
        panel.contour(*degrees, inside, [0.5], colors="k", linewidths=1)
        box = [-90, -90, 90, 90], [0, 90, 90, 0]
        panel.plot(*box, "k:", linewidth=1)
        panel.set_title(f"||v|| = {factor:g} ||v*||")
        panel.set(xlabel="angle of v to v*, degrees, signed")
        panel.set_xticks(range(-180, 181, 90))
        panel.set(yticks=range(0, 181, 45), ylim=(0, 180))
    panels[0].set(ylabel="theta(w, w*), degrees")
    figure.suptitle(
        "Blue: ends at the teacher. Red: at 180 degrees. "
        "Hatched: the theorem's region. Dotted: both angles below 90"
    )
    return figure, (
        f"of {covered + missed} starts in the theorem's region {missed} miss "
        f"the teacher; {uncovered} others find it too"
    )


def derivatives(settings):
    """The three coarse derivatives from the same starts."""
    figure, panels = plt.subplots(1, 3, figsize=(14, 4.2), layout="constrained")
    problem = random_problem(settings, 200)
    v, w, v_star, w_star = problem
    step_size = 0.9 * np.min(theory.step_size_bound(v, v_star))
    inside = theory.in_theorem_region(*problem)
    chosen = v[inside][:20], w[inside][:20], v_star, w_star
    remaining = []
    for name, (label, color) in DERIVATIVES.items():
        style = {"color": color, "label": label}
        path = theory.descend(*chosen, step_size, 2500, name, every=20)
        degrees = np.degrees(np.median(path.angles, axis=1))
        panels[0].semilogy(path.steps, np.maximum(degrees, 1e-8), **style)
        path = theory.descend_sampled(
            *chosen, step_size, 2500, settings.batch_size, name, every=20
        )
        degrees = np.degrees(np.median(path.angles, axis=1))
        panels[1].semilogy(path.steps, degrees, **style)

        # Those that end at pi: does the gradient vanish there?
        steps, sizes, point = np.arange(0, 4001, 100), [], (v, w)
        for step in steps:
            if step:
                path = theory.descend(
                    *point, v_star, w_star, step_size, 100, name, every=100
                )
                point = path.v, path.w
            coarse = theory.expected_coarse_gradient(
                *point, v_star, w_star, name
            )
            sizes.append(np.linalg.norm(coarse, axis=-1))
        at_pi = path.angles[-1] > 3
        if np.any(at_pi):
            size = np.median(np.array(sizes)[:, at_pi], axis=1)
            panels[2].semilogy(steps, np.maximum(size, 1e-16), **style)
            remaining.append(f"{label} {size[-1]:.0e}")
    panels[0].set(xlabel="step", ylabel="median theta(w, w*), degrees")
    panels[0].set_title("In expectation: another speed")
    panels[1].set(xlabel="step", ylabel="median theta(w, w*), degrees")
    panels[1].set_title(f"{settings.batch_size} samples a step: another noise")
    panels[2].set(xlabel="step", ylabel="median ||E[g]||")
    panels[2].set_title("Starts that end at 180 degrees")
    panels[0].legend()
    return figure, "||E[g]|| at 180 degrees: " + ", ".join(remaining)


FIGURES = {
    "staircase": staircase,
    "terraces": terraces,
    "population": population,
    "samples": samples,
    "paths": paths,
    "basin": basin,
    "derivatives": derivatives,
}
