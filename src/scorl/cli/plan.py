"""`scorl plan`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from scorl.cli.output import print_grid, quiet, say
from scorl.cli.paths import UserPath
from scorl.estimate.device import DEVICES

__all__ = ["plan"]

TOKENS = click.IntRange(min=1)


@click.command()
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--gpu",
    type=click.Choice(sorted(DEVICES)),
    help="The device.  [default: launcher.gpu, else this machine]",
)
@click.option("--config", type=UserPath(dir_okay=False), help="The model's config.json.")
@click.option("--prompt-tokens", type=TOKENS, help="Mean of first prompts.  [default: the task's, rendered]")
@click.option("--response-tokens", type=TOKENS, help="Mean of responses.  [default: engine.max_tokens]")
@click.option(
    "--steps", type=click.IntRange(min=0), help="Steps of each stage to measure here.  [default: 2 for tiny models]"
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plan(
    recipe: str,
    overrides: tuple[str, ...],
    gpu: str | None,
    config: Path | None,
    prompt_tokens: int | None,
    response_tokens: int | None,
    steps: int | None,
    as_json: bool,
) -> None:
    """Say what memory and time RECIPE takes on the GPUs that it names or on another device, before it is run there.

    Exit code 1: it does not fit; the settings that would make it fit are listed.
    """
    from scorl.estimate.prepare import prepared
    from scorl.recipe import resolve

    quiet()
    checked = resolve(recipe, overrides)
    estimate = prepared(
        checked,
        gpu,
        config,
        prompt_tokens,
        response_tokens,
        steps,
        lambda what: say(f"tracing {what}"),
    )
    if as_json:
        click.echo(json.dumps(estimate.as_dict(), indent=1))
    else:
        for grid in estimate.grids():
            print_grid(grid)
            click.echo()
    if estimate.problems:
        raise SystemExit(1)
