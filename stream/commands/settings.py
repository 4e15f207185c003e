"""`lurm settings`: every setting there is; also the generator of the reference page."""

import click

from stream.errors import ConfigInvalid
from stream.printable import say
from stream.settings import Leaf, Settings, load, reference

EXAMPLES = """
\b
Examples:
  lurm settings
  LURM_ENCODE__INTERVAL_S=5 lurm --config lurm.toml settings
  lurm settings --markdown > SETTINGS.md
"""


@click.command(epilog=EXAMPLES)
@click.option("--markdown", is_flag=True, help="The reference page: defaults only, no values.")
@click.pass_context
def settings(context: click.Context, *, markdown: bool) -> None:
    """List every setting with its variable, type, default, value and meaning.

    It also lists them when one of them is wrong, and then says so and ends with 2.
    """
    if markdown:
        say(*_page().splitlines())
        return
    try:
        found, problem = load(context.meta.get("stream.config")), None
    except ConfigInvalid as error:
        found, problem = None, error
    for leaf in reference():
        say(*_entry(leaf, found).splitlines())
    if problem is not None:
        raise problem


def _entry(leaf: Leaf, found: Settings | None) -> str:
    value = "" if found is None else f"  value: {_shown(_value(leaf, found))}"
    return f"{leaf.name}  {leaf.variable}\n    {leaf.meaning}\n    {leaf.kind}  default: {_shown(leaf.default)}{value}"


def _value(leaf: Leaf, found: Settings) -> str:
    section, key = leaf.name.split(".")
    value = getattr(getattr(found, section), key)
    return "" if value is None else str(value)


def _shown(text: str) -> str:
    return text or "(none)"


def _page() -> str:
    lines = [
        "# Settings",
        "",
        "Made by `lurm settings --markdown`. The environment goes before the TOML file given with `--config`; in the",
        "file, `topics.events` is the key `events` of the table `[topics]`. Seconds unless a name says otherwise.",
        "",
        "| setting | variable | type | default | meaning |",
        "|---|---|---|---|---|",
    ]
    for leaf in reference():
        default = f"`{leaf.default}`" if leaf.default else ""
        cells = (f"`{leaf.name}`", f"`{leaf.variable}`", leaf.kind, default, leaf.meaning)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)
