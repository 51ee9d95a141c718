"""Times the generator against its dense form and the forms between them, in turns.

Usage: python scripts/dense_form.py [--config configs/aid_25.yaml] [--size 256] [--rounds 5] [--device cpu]

The dense form computes every pair of tokens, every layer over the whole frame, in plain convolutions. Then
come, one after the other: pairs of hole and background alone, enlargements computed at the small size, the
surroundings of the hole alone, and on a CPU convolutions with fewer products, and products by the kernels of
convolutions: the generator. Last, the largest difference between the results, and between the generator's and
its own under bfloat16 autocast.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from igll.cli import OVERRIDES, exit_with

if TYPE_CHECKING:
    from igll.models import Generator


def read_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        "dense_form.py",
        description="Time the generator against its dense form.",
        epilog=(__doc__ or "").partition("\n\n")[2].partition("\n\n")[2],
    )
    add = parser.add_argument
    add("--config", type=Path, help="whose model is timed (default: the published one)")
    add("--size", type=int, default=256, help="side of the image (256)")
    add("--rounds", type=int, default=5, help="timed passes of each (5)")
    add("--device", default="cpu", help="cpu or cuda (cpu)")
    add("--set", nargs="+", default=[], dest="overrides", metavar="key.sub=value", help=OVERRIDES)
    return parser.parse_args(arguments)


def forms_of(generator: Generator) -> dict[str, Callable[..., Any]]:
    """From the dense form to the generator, each called with image, mask and edge map."""
    from igll.models.dense import dense_form, plain_layers
    from igll.models.products import plain_products
    from igll.models.winograd import plain_convolutions

    def plain(form: Callable[..., Any]) -> Callable[..., Any]:
        return plain_products()(plain_convolutions()(form))

    return {
        "dense": dense_form(generator),
        "pairs": plain(plain_layers(generator)),
        "enlarging": plain(generator.fill),  # the whole frame, as no layout says otherwise
        "around": plain(generator),
        "generator": generator,
    }


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Read the arguments and run."""
    options = read_arguments(arguments)

    def work() -> int:
        import torch

        from igll.config import build_config, load_config
        from igll.engine.bench_cases import Case, fresh_generator, make_inputs
        from igll.engine.bench_timing import clock
        from igll.engine.cost import HOLES
        from igll.engine.devices import choose_device
        from igll.errors import InputError
        from igll.models import Generator

        if options.rounds < 1 or options.size < 32 or options.size % 4:
            raise InputError("--rounds starts at 1, and --size at 32 in steps of 4")
        given, device = options.overrides, choose_device(options.device)
        config = load_config(options.config, given) if options.config else build_config({}, given, "--set")
        generator = fresh_generator(config.model).to(device)
        if not isinstance(generator, Generator):
            raise InputError(f"model.name: {config.model.name} has no dense form; choose igll")
        if config.model.residual:
            torch.manual_seed(0)
            for net in (
                generator.pirn,
                generator.pern,
            ):  # whose last layers start at zero: all forms would agree
                torch.nn.init.normal_(net.decoder[-1].get_parameter("weight"), std=0.02)
        forms = forms_of(generator)
        print(
            "hole (%)"
            + "".join(f"{name + ' (ms)':>20}" for name in forms)
            + "  times faster  apart    bf16 apart"
        )
        for hole in HOLES:
            inputs = make_inputs(generator, Case(config.model.name, options.size, 1, hole), device)
            with torch.no_grad():
                found, wanted = (forms[name](*inputs)[1] for name in ("generator", "dense"))
                turns = [
                    [clock(device, partial(form, *inputs)) for form in forms.values()]
                    for _ in range(options.rounds + 1)
                ]
                with torch.autocast(device.type, torch.bfloat16):
                    half = generator(*inputs)[1]
            # The first round of each hole warms up.
            medians = [1e3 * statistics.median(times[1:]) for times in zip(*turns, strict=True)]
            shown = "".join(f"{median:20.1f}" for median in medians)
            apart, bf16 = (float((found - other).abs().max()) for other in (wanted, half))
            print(f"{hole:8}{shown}{medians[0] / medians[-1]:14.2f}  {apart:.1e}  {bf16:.1e}", flush=True)
        return 0

    exit_with(work)


if __name__ == "__main__":
    main()
