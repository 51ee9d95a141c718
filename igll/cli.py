"""Entry points: read the arguments, load the configuration, call the engine.

Exit codes: 0 done, 2 bad input, 1 failed, 130 or 143 interrupted (SIGINT, SIGTERM). igll-train also saves
and leaves on the signals by which a terminal or a scheduler warns: 129 (SIGHUP, unless it was ignored),
138 (SIGUSR1), 140 (SIGUSR2), 152 (SIGXCPU).
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn, get_args

from igll.arguments import Parser
from igll.errors import InputError, NumericsError, OutputError, ProcessEndedError, interruptions_first
from igll.heap import keep_freed_memory
from igll.launch import launch
from igll.weights import ACCEPTED, BEST

if TYPE_CHECKING:
    from igll.report.paper_tables import PaperTable
    from igll.report.size_table import SizeTable

OVERRIDES = "settings that replace the config's, such as train.batch_size=4 (several may follow)"
FIXED = (
    "settings that replace the checkpoint's: device=…, eval.weights=…, eval.amp=…, edges.*=… "
    "(several may follow)"
)


def train(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point ``igll-train``."""
    parser = Parser("igll-train", description="Train an inpainting network.")
    parser.add_argument("--config", required=True, help="YAML file, see configs/")
    parser.add_out(
        "folder of the run (default: that of a run's own config.yaml; else runs/NAME-OF-CONFIG)",
        required=False,
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on from the run's last checkpoint; begin if there is none"
    )
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help=OVERRIDES)
    options = parser.parse_intermixed_args(arguments)

    def work() -> int:
        from igll.config import load_config

        config = load_config(options.config, options.overrides)
        from igll.engine.run_checkpoints import run_of
        from igll.engine.train import train as run

        out = options.out or run_of(Path(options.config))
        code = run(config, out, options.resume)
        if code == 0 and launch().rank == 0:
            print(f"done: {out}/checkpoints/best.pt, {out}/metrics.jsonl, {out}/sheets/")
        return code

    exit_with(shared(work))


def evaluate(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point ``igll-eval``; a first argument out of ``EVAL_COMMANDS`` names another task."""
    from igll.schema import ClassicalName

    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in EVAL_COMMANDS:
        EVAL_COMMANDS[given[0]](given[1:])
    parser = Parser(
        "igll-eval",
        description="Measure a trained network, or methods without training, on a test set.",
        epilog=f"Also: igll-eval {{{','.join(EVAL_COMMANDS)}}} --help",
    )
    parser.add_argument("--config", required=True, help="YAML file that names data, masks and metrics")
    parser.add_argument("--checkpoint", help=f"{ACCEPTED}; optional with --method")
    parser.add_argument(
        "--method",
        action="append",
        choices=get_args(ClassicalName),
        metavar="NAME",
        help=f"a method without training, besides eval.floors: {', '.join(get_args(ClassicalName))}",
    )
    parser.add_out("folder for metrics.json, the table and the pictures; earlier ones are replaced")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help=OVERRIDES)
    if given and not given[0].startswith("-") and "=" not in given[0]:
        parser.error(f"{given[0]}: no such task; there are {', '.join(EVAL_COMMANDS)}, or none with --config")
    options = parser.parse_intermixed_args(given)
    if options.checkpoint is None and not options.method:
        parser.error("name a --checkpoint, or a --method that needs none")

    def work() -> int:
        from igll.config import load_config

        config = load_config(options.config, options.overrides)
        from igll.engine.evaluate import evaluate as run

        run(config, options.checkpoint, options.out, options.method or ())
        return 0

    exit_with(shared(work))


def compare(arguments: Sequence[str]) -> NoReturn:
    """``igll-eval compare``."""
    parser = Parser(
        "igll-eval compare", description="Compare two evaluations image by image, with bootstrap intervals."
    )
    parser.add_argument("a", metavar="A", help="folder of results of igll-eval")
    parser.add_argument("b", metavar="B", help="another one, on the same images and masks")
    parser.add_argument(
        "--method",
        action="append",
        help="method to compare, as tables or configurations call it (default: IGLL); give it twice to name "
        "one of A and one of B",
    )
    parser.add_out("folder for comparison.json and comparison.md", required=False)
    parser.add_argument("--mix", action="store_true", help="compare although images, masks or metrics differ")
    options = parser.parse_args(arguments)

    def work() -> int:
        from igll.engine.compare import compare as run

        run(Path(options.a), Path(options.b), options.method or ["IGLL"], options.out, options.mix)
        return 0

    exit_with(work)


def methods(arguments: Sequence[str]) -> NoReturn:
    """``igll-eval methods``."""
    parser = Parser(
        "igll-eval methods",
        description="Write one table per task of every method measured on it, with bootstrap intervals.",
    )
    parser.add_argument("--runs", required=True, help="folder that holds the evaluations")
    parser.add_out("folder for the table as Markdown, CSV and JSON")
    parser.add_argument(
        "--reference",
        default="IGLL",
        help="method that the others are compared with, as tables or configurations call it (default: IGLL)",
    )
    options = parser.parse_args(arguments)

    def work() -> int:
        from igll.engine.method_table import write_method_table

        write_method_table(Path(options.runs), options.out, options.reference)
        return 0

    exit_with(work)


def table2(arguments: Sequence[str]) -> NoReturn:
    """``igll-eval table2``."""
    _paper_table("table2", "the comparison of methods", arguments)


def table3(arguments: Sequence[str]) -> NoReturn:
    """``igll-eval table3``."""
    parser = Parser(
        "igll-eval table3",
        description="Write Table 3 of the paper, sizes and costs of all models: counted beside printed.",
    )
    parser.add_argument("--runs", help="not read, as no run is needed; for the other tables' sake")
    parser.add_out("folder for the table as Markdown, CSV, LaTeX and JSON")
    options = parser.parse_args(arguments)

    def work() -> int:
        from igll.engine.paper_results import write_table3

        return _written(write_table3(options.out), options.out)

    exit_with(work)


def table4(arguments: Sequence[str]) -> NoReturn:
    """``igll-eval table4``."""
    _paper_table("table4", "the ablation", arguments)


def _paper_table(name: Literal["table2", "table4"], subject: str, arguments: Sequence[str]) -> NoReturn:
    parser = Parser(
        f"igll-eval {name}",
        description=f"Write Table {name[-1]} of the paper, {subject}: measured beside printed.",
    )
    parser.add_argument("--runs", required=True, help="folder that holds the runs and their evaluations")
    parser.add_out("folder for the table as Markdown, CSV, LaTeX and JSON")
    parser.add_argument("--mix", action="store_true", help="share a table although runs are unlike; says so")
    options = parser.parse_args(arguments)

    def work() -> int:
        from igll.engine.paper_results import write_paper_table

        table = write_paper_table(name, Path(options.runs), options.out, options.mix)
        return _written(table, options.out)

    exit_with(work)


def _written(table: PaperTable | SizeTable, out: Path) -> int:
    """Show a table that was written below a folder."""
    print(table.markdown())
    print(
        f"written below {out}: {', '.join(f'{table.name}{end}' for end in ('.md', '.csv', '.tex', '.json'))}"
    )
    return 0


EVAL_COMMANDS: dict[str, Callable[[Sequence[str]], NoReturn]] = {
    "compare": compare,
    "methods": methods,
    "table2": table2,
    "table3": table3,
    "table4": table4,
}


def infer(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point ``igll-infer``."""
    from igll.infer_arguments import infer_parser, infer_request

    options = infer_parser().parse_intermixed_args(arguments)

    def work() -> int:
        request = infer_request(options)
        from igll.engine.infer import infer as run

        return run(request)

    exit_with(work)


def demo(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point ``igll-demo``."""
    from igll.schema import ClassicalName

    parser = Parser(
        "igll-demo",
        description="Serve a page on this machine where the holes of an image are painted and filled.",
    )
    filler = parser.add_mutually_exclusive_group()
    filler.add_argument("--checkpoint", help=f"{ACCEPTED}; default: {BEST}")
    filler.add_argument(
        "--method",
        choices=get_args(ClassicalName),
        metavar="NAME",
        help=f"a method without training instead: {', '.join(get_args(ClassicalName))}",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1)")
    parser.add_argument(
        "--port", type=_port, help="port to listen at (default: the first free one from 7860 on)"
    )
    parser.add_argument("--browser", action="store_true", help="open the page in the browser")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help=FIXED)
    options = parser.parse_intermixed_args(arguments)

    def work() -> int:
        from igll.demo.server import DemoRequest, serve

        try:
            serve(DemoRequest(**vars(options)))
        except KeyboardInterrupt:
            return 130  # how the page is closed: nothing failed

    try:
        exit_with(work)
    except SystemExit as end:
        if end.code not in (130, 143):
            raise
        # At once: a filling that still computes in its thread makes an interpreter that shuts down abort.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code)


def export(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point ``igll-export``."""
    parser = Parser(
        "igll-export",
        description="Write a trained network as ONNX, for runtimes without Python; values are in [0, 1].",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=ACCEPTED)
    parser.add_argument("--out", required=True, help="the file to write, *.onnx")
    parser.add_argument(
        "--size",
        nargs=2,
        type=int,
        metavar=("H", "W"),
        help="height and width, for runtimes that want them fixed (default: any)",
    )
    parser.add_argument(
        "--check",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="hold ONNX Runtime's result against PyTorch's, and write nothing if they differ (default)",
    )
    options = parser.parse_args(arguments)

    def work() -> int:
        from igll.engine.export import ExportRequest, export_onnx

        size = None if options.size is None else (options.size[0], options.size[1])
        request = ExportRequest(options.checkpoint, Path(options.out), size, options.check)
        print(export_onnx(request).line(request.out))
        return 0

    exit_with(work)


def _port(text: str) -> int:
    """A port's number, for argparse."""
    number = int(text) if text.isdecimal() else 0
    if not 0 < number < 65536:
        raise argparse.ArgumentTypeError(f"{text} is not a port; give 1 to 65535")
    return number


def shared(work: Callable[[], int]) -> Callable[[], int]:
    """Work that all processes of torchrun do together; without torchrun, as it is."""

    def together() -> int:
        if launch().size == 1:
            return work()
        from igll.distributed import joined

        with joined():
            return work()

    return together


def exit_with(work: Callable[[], int]) -> NoReturn:
    """Run an entry point's work and leave with the promised exit code and one clear line on failure."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr is: names of files may be no text
    try:
        keep_freed_memory()
        with interruptions_first():
            code = work()
    except InputError as error:
        code = _fail(str(error), 2)
    except NumericsError as error:
        code = _fail(f"stopped before the update: {error}", 1)
    except OutputError as error:
        code = _fail(str(error), 1)
    except ProcessEndedError as error:
        code = _fail(str(error), error.code)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        code = _fail(f"{where}{error.strerror or error}", 1)
    except (MemoryError, RuntimeError) as error:
        # torch.OutOfMemoryError on CUDA, a bare RuntimeError on the CPU
        if isinstance(error, MemoryError) or "memory" in str(error):
            code = _fail("out of memory; lower train.batch_size, eval.batch_size or data.crop_size", 1)
        elif str(error).startswith("DataLoader worker"):
            code = _fail(
                f"{str(error).strip().rstrip('.')}, as systems do when memory runs out; lower data.workers; "
                "igll-train goes on from its last checkpoint with --resume",
                1,
            )
        else:
            raise
    except KeyboardInterrupt:
        code = _fail("interrupted", 130)
    distributed = sys.modules.get("igll.distributed")
    if distributed is not None and distributed.size() > 1:
        # Failed among others: a GPU may wait for a process that ended, and shutting down for the GPU.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _fail(message: str, code: int) -> int:
    """Print why, if there is anything to say."""
    sys.stdout.flush()
    if message:
        print(f"error: {message}", file=sys.stderr)
    return code


COMMANDS: dict[str, Callable[[Sequence[str]], NoReturn]] = {
    "train": train,
    "evaluate": evaluate,
    "infer": infer,
    "demo": demo,
    "export": export,
}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        print(f"usage: python -m igll.cli {{{','.join(COMMANDS)}}} ...", file=sys.stderr)
        sys.exit(2)
    COMMANDS[sys.argv[1]](sys.argv[2:])
