"""The paper's ablation (section 4.4): train and measure every row of Table 4, and write the table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from igll.config import Config, load_config
from igll.engine.reuse import assignment, check_same_run, is_measured, measure
from igll.engine.state import flat
from igll.engine.train import train
from igll.errors import InputError
from igll.report.paper_tables import PaperTable, read_results, table4
from igll.storage import make_folder


class Ablation(NamedTuple):
    """One row of the table.

    Attributes:
        name: Name of its config below ``configs/ablations`` and of its folder.
        row: The paper's name for it.
        keys: The settings in which it differs from the full model.
    """

    name: str
    row: str
    keys: tuple[str, ...] = ()


ABLATIONS = (
    Ablation("full", "IGLL"),
    Ablation("without_gam", "w/o GAM", ("model.gam",)),
    Ablation("without_ffsm", "w/o FFSM", ("model.ffsm",)),
    Ablation("without_structure_prior", "w/o structure prior", ("model.structure_prior",)),
    Ablation("without_position", "w/o position information", ("model.position",)),
    Ablation("three_heads", "w/ multi-head attention", ("model.heads",)),
    Ablation("without_svd", "w/o SVD loss", ("losses.svd", "losses.svd_discriminator")),
)


def run_ablation(configs: Path, out: Path, overrides: Sequence[str] = (), only: Sequence[str] = ()) -> int:
    """Train and measure the rows one after the other, and write Table 4 after each.

    What is there already is not done again: a row goes on from its last checkpoint, and a row that was
    trained and measured with these settings is left as it is.

    Args:
        configs: Folder of the rows' configs.
        out: Folder of the rows' runs (``out/NAME``, its evaluation in ``out/NAME/eval``) and of ``table4.*``.
        overrides: ``key.sub=value`` for every row, but never for what a row takes away.
        only: Names of the rows to run; empty: all. The table has those of earlier calls too.

    Returns:
        0 when done, 128 and the number of the signal when stopped by one after saving.

    Raises:
        InputError: If the input has to change; see the message.
        NumericsError: If a loss or gradient of a row stopped being finite.
    """
    chosen = {ablation.name: load_row(configs, ablation, overrides) for ablation in ABLATIONS}
    rows = [ablation for ablation in ABLATIONS if not only or ablation.name in only]
    for ablation in rows:
        check_same_run(out / ablation.name, chosen[ablation.name])
    make_folder(out)
    for number, ablation in enumerate(rows, start=1):
        run, config = out / ablation.name, chosen[ablation.name]
        head = f"[{number}/{len(rows)}] {ablation.name} ({ablation.row})"
        if _is_measured(run, config):
            print(f"{head}: done before; to measure it again, delete {run / 'eval'}", flush=True)
            continue
        print(f"{head}: training", flush=True)
        code = train(config, run, resume=True)
        if code:
            print(f"{head}: stopped and saved; the same command goes on from there", flush=True)
            return code
        print(f"{head}: measuring", flush=True)
        measure(config, run / "checkpoints" / "last.pt", run / "eval")
        collect(out, chosen).write(out)
    table = collect(out, chosen)
    paths = table.write(out)
    print(f"\n{table.markdown()}\nwritten: {', '.join(map(str, paths))}")
    return 0


def load_row(configs: Path, ablation: Ablation, overrides: Sequence[str]) -> Config:
    """The configuration of a row; an override of what the row takes away holds for the other rows alone.

    Raises:
        InputError: As :func:`igll.config.load_config`, or if nothing of what the row takes away is left.
    """
    full = load_config(configs / "full.yaml", overrides)
    own = [text for text in overrides if text.partition("=")[0].strip() not in ablation.keys]
    config = load_config(configs / f"{ablation.name}.yaml", own)
    mine, theirs = flat(config.model_dump()), flat(full.model_dump())
    alike = [key for key in ablation.keys if mine[key] == theirs[key]]
    if alike:
        raise InputError(
            f"{assignment(alike[0], mine[alike[0]])}: then '{ablation.row}' differs from the full model no "
            "more; leave this key alone"
        )
    return config


def _is_measured(run: Path, config: Config) -> bool:
    """Whether a row was trained and measured with just these settings, and not trained further since."""
    checkpoint = run / "checkpoints" / "last.pt"
    return checkpoint.exists() and is_measured(run / "eval", config, checkpoint)


def collect(out: Path, chosen: dict[str, Config]) -> PaperTable:
    """Table 4 of the rows that are measured with these settings; the others are "not run"."""
    done = [ablation for ablation in ABLATIONS if _is_measured(out / ablation.name, chosen[ablation.name])]
    results = read_results([out / ablation.name / "eval" / "metrics.json" for ablation in done])
    return table4({ablation.row: result for ablation, (_, result) in zip(done, results, strict=True)})
