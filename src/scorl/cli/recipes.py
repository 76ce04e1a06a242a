"""`scorl recipes` and `scorl schema`."""

from __future__ import annotations

import json

import click

from scorl.errors import UserError, nearest

__all__ = ["recipes", "schema"]


@click.command()
@click.argument("name", required=False)
def recipes(name: str | None) -> None:
    """List the shipped recipes, each with what it is, takes and reaches; or print the one called NAME."""
    from scorl.recipe.source import header, shipped_recipes

    shipped = shipped_recipes()
    if name is None:
        for each, path in shipped.items():
            click.echo("\n  ".join([each, *header(path)]))
    elif name in shipped:
        click.echo(shipped[name].read_text(encoding="utf-8"), nl=False)
    else:
        raise UserError(f"no recipe '{name}' is shipped: {nearest(name, shipped)}")


@click.command()
def schema() -> None:
    """Print the JSON schema of recipes."""
    from scorl.recipe import json_schema

    click.echo(json.dumps(json_schema(), indent=1))
