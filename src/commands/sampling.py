"""The options of the commands that generate images: which diffusion model, and how it is sampled."""

from ..interfaces.defaults import SCENES_MODEL, SCENES_SAMPLING, USUAL_SAMPLING

MODEL_FORMS = f"a Stable Diffusion folder or single file, OWNER/NAME on the hub, or {SCENES_MODEL}, the embedded model"


def add_sampling_options(parser, followed="prompts"):
    """--batch-size, --steps and --guidance, of which the last says how closely to follow what is `followed`."""
    texts = ("images made at once", "of Euler's method", f"how closely to follow {followed}")
    for name, text in zip(USUAL_SAMPLING._fields, texts, strict=True):
        usual, of_scenes = getattr(USUAL_SAMPLING, name), getattr(SCENES_SAMPLING, name)
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=type(usual), help=f"{text} (default: {usual}; scenes: {of_scenes})"
        )


def complete_sampling(args):
    """Fill in what was not given, as it suits `args.model`."""
    for name, usual in (SCENES_SAMPLING if args.model == SCENES_MODEL else USUAL_SAMPLING)._asdict().items():
        if getattr(args, name) is None:
            setattr(args, name, usual)
