"""The reference of the commands in Markdown, made of the program itself."""

from __future__ import annotations

import click

from spann.cli.app import cli


def reference() -> str:
    """A page with a section for each command."""
    lines = ["# Commands", "", "Each command of `spann`, in the order of work. `spann COMMAND --help` says the same."]
    root = click.Context(cli, info_name="spann")
    for name in cli.list_commands(root):
        command = cli.get_command(root, name)
        assert command is not None
        lines += ["", *_section(command, click.Context(command, info_name=name, parent=root))]
    return "\n".join(lines) + "\n"


def _section(command: click.Command, context: click.Context) -> list[str]:
    """Usage, text and options of one command."""
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    lines = [f"## {context.info_name}", "", "```text", usage, "```", "", *_text(command.help or ""), ""]
    records = [p.get_help_record(context) for p in command.params if isinstance(p, click.Option)]
    shown = [(names, about) for names, about in filter(None, records)]
    if not shown:
        return lines
    lines += ["| option | |", "|---|---|"]
    return [*lines, *(f"| `{_cell(names)}` | {_cell(_plain(about))} |" for names, about in shown)]


def _text(help_text: str) -> list[str]:
    """The paragraphs of a command's help."""
    paragraphs = help_text.replace("\b", "").split("\n\n")
    return [line for p in paragraphs for line in (_plain(" ".join(p.split())), "")][:-1]


def _plain(text: str) -> str:
    """Text without meaning in Markdown."""
    for sign in "\\*_<>[]":
        text = text.replace(sign, f"\\{sign}")
    return text


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
