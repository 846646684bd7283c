"""How much can so many images show? The chance to confirm a failure, before any image is labelled.

    failure-directions power --images 2000 --classes 10 --slices 20 --error-rate 0.1 --slice-share 0.1 --slice-error 0.4
    failure-directions power --error-rate 0.1 --slice-share 0.1 --slice-error 0.4 --figure power.png

Images are those that confirm: without splits, half of what you have. With --figure, power is drawn against the number
of images, for shares of the class that fail and for error rates in them.
"""

import argparse

from ..runtime.errors import UserError, entry_point
from ..runtime.files import check_writable

FIGURE_IMAGES = (250, 500, 1_000, 2_000, 4_000, 8_000, 16_000)
FIGURE_SHARES = (0.05, 0.1, 0.2)
FIGURE_ERRORS = (2, 3, 5)  # times the error rate of the rest


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000, metavar="N", help="that confirm (default: 1000)")
    parser.add_argument("--classes", type=int, default=10, metavar="K", help="equally large (default: 10)")
    parser.add_argument("--slices", type=int, metavar="M", help="tested in all classes (default: 3 a class)")
    parser.add_argument("--error-rate", type=float, default=0.1, metavar="E", help="outside the failure (default: 0.1)")
    parser.add_argument(
        "--slice-share", type=float, default=0.1, metavar="S", help="of its class that the failure is (default: 0.1)"
    )
    parser.add_argument(
        "--slice-error", type=float, default=0.4, metavar="E2", help="error rate inside the failure (default: 0.4)"
    )
    parser.add_argument(
        "--purity", type=float, default=0.8, metavar="P", help="share of what is flagged that is of it (default: 0.8)"
    )
    parser.add_argument("--fdr", type=float, default=0.1, help="share of confirmed failures that may be false")
    parser.add_argument("--figure", metavar="FILE", help="draw power against images (.png, .pdf, .svg)")
    return parser.parse_args(argv)


@entry_point
def main(argv=None):
    args = parse_arguments(argv)
    if args.figure is not None:
        check_writable(args.figure)
    slices = 3 * args.classes if args.slices is None else args.slices
    from ..directions.confirmation import plan_power  # late: scipy takes a while

    def plan(images, share=args.slice_share, error=args.slice_error):
        return plan_power(images, args.classes, slices, args.error_rate, share, error, args.purity, args.fdr)

    planned = plan(args.images)
    if args.figure:
        draw(args, plan)
    wrong = f"{planned.flagged_error_rate:.0%} of them wrong against {planned.rest_error_rate:.0%} of the rest"
    print(
        f"{args.images:,} images of {args.classes} classes: {planned.images_per_class:,} a class, "
        f"of which {planned.flagged} are flagged, {wrong}"
    )
    print(f"chance to confirm it among {slices} slices at a false discovery rate of {args.fdr:g}: {planned.power:.0%}")
    if planned.images_needed is None:
        print("no number of images would do: what is flagged is hardly more often wrong than the rest")
    else:
        print(f"for a chance of 80 %: {planned.images_needed:,} images")
    if args.figure:
        print(f"figure: {args.figure}")


def draw(args, plan):
    """Power against images: a panel a share of the class that fails, a line an error rate in it."""
    from ..runtime.figure_files import save_figure
    from ..runtime.figures import Figure

    errors = [round(min(0.95, times * args.error_rate), 3) for times in FIGURE_ERRORS]
    if len(set(errors)) < len(errors):
        raise UserError(f"--error-rate {args.error_rate} leaves no room for failures; give one below 0.3")
    figure = Figure(figsize=(10, 3.2), dpi=110, layout="constrained")
    for ax, share in zip(figure.subplots(1, len(FIGURE_SHARES), sharey=True), FIGURE_SHARES, strict=True):
        for error in errors:
            powers = [plan(images, share, error).power for images in FIGURE_IMAGES]
            ax.plot(FIGURE_IMAGES, powers, marker="o", markersize=3, linewidth=1.2, label=f"{error:.0%} wrong in it")
        ax.axhline(0.8, color="grey", linewidth=0.6, linestyle="--")
        ax.set(xscale="log", ylim=(0, 1.02), title=f"{share:.0%} of a class fail", xlabel="images that confirm")
        ax.set_xticks(FIGURE_IMAGES, [f"{images:,}" for images in FIGURE_IMAGES], rotation=45, fontsize=7)
        ax.minorticks_off()
        ax.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("chance to confirm it")
    figure.axes[0].legend(frameon=False, fontsize=8)
    figure.suptitle(f"{args.classes} classes, {args.error_rate:.0%} wrong elsewhere", fontsize=10)
    save_figure(figure, args.figure)


if __name__ == "__main__":
    main()
