"""`scorl recipes` and `scorl schema`."""

from __future__ import annotations

import json

import click

__all__ = ["recipes", "schema"]


@click.command()
def recipes() -> None:
    """List the shipped recipes, each with what it is, takes and reaches."""
    from scorl.recipe.source import header, shipped_recipes

    for name, path in shipped_recipes().items():
        click.echo("\n  ".join([name, *header(path)]))


@click.command()
def schema() -> None:
    """Print the JSON schema of recipes."""
    from scorl.recipe import json_schema

    click.echo(json.dumps(json_schema(), indent=1))
