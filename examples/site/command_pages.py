"""The page of commands, written when the site is built: what each parser says of itself."""

import argparse
from pathlib import Path

from sphinx.application import Sphinx

_HEAD = """# Commands

What `--help` says, for each command.

```text
{help}
```
"""


def write_page(app: Sphinx) -> None:
    """Write ``generated/commands.md``."""
    from siammae.cli import _parser

    parser = _parser()
    formatted = {name: _help(one) for name, one in _commands(parser).items()}
    text = _HEAD.format(help=_help(parser)) + "".join(
        f"\n## siammae {name}\n\n```text\n{text}\n```\n" for name, text in formatted.items()
    )
    page = Path(app.confdir) / "generated" / "commands.md"
    page.parent.mkdir(exist_ok=True)
    if not page.is_file() or page.read_text(encoding="utf-8") != text:
        page.write_text(text, encoding="utf-8")


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    (action,) = [one for one in parser._actions if isinstance(one, argparse._SubParsersAction)]
    return dict(action.choices)


def _help(parser: argparse.ArgumentParser) -> str:
    return parser.format_help().strip().replace("```", "'''")


def setup(app: Sphinx) -> dict[str, bool]:
    """Let Sphinx call it."""
    app.connect("builder-inited", write_page)
    return {"parallel_read_safe": True}
