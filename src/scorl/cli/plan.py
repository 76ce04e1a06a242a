"""`scorl plan`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from scorl.cli.output import print_grid, quiet
from scorl.planning.device import DEVICES, EFFICIENCY

if TYPE_CHECKING:
    from scorl.planning.setup import Parallel

__all__ = ["plan"]

TOKENS = click.FloatRange(min=1)


@click.command()
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--gpu", type=click.Choice(sorted(DEVICES)), help="The device.  [default: this CPU, measured]")
@click.option("--gpus", "count", type=click.IntRange(min=1), help="How many.  [default: launcher.workers, or 1]")
@click.option("--parallel", type=click.Choice(["ddp", "fsdp2"]), help="How they share.  [default: launcher.parallel]")
@click.option("--engine", type=click.Choice(["torch", "vllm"]), help="What samples.  [default: the recipe's]")
@click.option("--config", type=click.Path(path_type=Path, dir_okay=False), help="The model's config.json.")
@click.option(
    "--like", type=click.Path(path_type=Path, exists=True, file_okay=False), help="A run whose lengths to take."
)
@click.option("--prompt-tokens", type=TOKENS, help="Mean of first prompts.  [default: the task's, rendered]")
@click.option("--turn-tokens", type=TOKENS, help="Tokens that ask for another attempt.  [default: the task's]")
@click.option("--response-tokens", type=TOKENS, help="Mean of responses.  [default: engine.max_tokens]")
@click.option("--longest-response", type=TOKENS, help="Of a step.  [default: engine.max_tokens]")
@click.option(
    "--efficiency",
    type=click.FloatRange(min=0, max=1, min_open=True),
    default=EFFICIENCY,
    show_default=True,
    help="Share of a GPU's operations that is reached.",
)
@click.option("--price-per-hour", type=click.FloatRange(min=0), help="Of one device.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plan(
    recipe: str,
    overrides: tuple[str, ...],
    gpu: str | None,
    count: int | None,
    parallel: Parallel | None,
    engine: str | None,
    config: Path | None,
    like: Path | None,
    prompt_tokens: float | None,
    turn_tokens: float | None,
    response_tokens: float | None,
    longest_response: float | None,
    efficiency: float,
    price_per_hour: float | None,
    as_json: bool,
) -> None:
    """Say what memory, time and devices RECIPE takes, without running it.

    Exit code 1: it does not fit; the settings that would make it fit are listed.
    """
    from scorl.planning.estimate import estimated
    from scorl.planning.prepare import Wanted, prepared
    from scorl.planning.table import grids
    from scorl.planning.texts import Given
    from scorl.recipe import resolve

    quiet()
    resolved = resolve(recipe, overrides)
    given = Given(like, prompt_tokens, turn_tokens, response_tokens, longest_response)
    setup = prepared(resolved, Wanted(gpu, count, parallel, engine, efficiency), given, config)
    found = estimated(setup, resolved.evaluation, price_per_hour)
    if as_json:
        click.echo(json.dumps(found.as_dict(), indent=1))
    else:
        for grid in grids(found):
            print_grid(grid)
            click.echo()
    if not found.fits:
        raise SystemExit(1)
