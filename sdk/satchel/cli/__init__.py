"""The `satchel` command: a shell around the library. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any

import click

__all__ = ["cli", "main"]

# command -> (module in this folder, one line for --help, so that --help imports none of them)
_COMMANDS = {
    "convert": ("convert", "Convert a model into a bundle that was proved for a device."),
    "compare": ("compare", "Compare every format and scheme of a device, and say which one would ship."),
    "tune": ("tune", "Search for the fastest or smallest bundle within budgets."),
    "train": ("train", "Train a model, or a new head on it, on labelled data."),
    "compress": ("train", "Make a model smaller: trim, prune, distil."),
    "predict": ("predict", "Answer inputs with a bundle."),
    "chat": ("chat", "Talk with a language model in a bundle."),
    "evaluate": ("evaluate", "Judge a bundle's answers on labelled data, beside the model's own."),
    "verify": ("verify", "Check a bundle's files and replay its golden samples here."),
    "inspect": ("inspect", "Show what a bundle holds, without loading its graphs."),
    "bench": ("bench", "Measure latency, cold start and memory of bundles, here or on a device."),
    "report": ("report", "Make a page of what bench measured, on one device or several."),
    "push": ("device", "Copy a bundle to a device, or take it back."),
    "run": ("device", "Answer inputs on a device, for a look."),
    "devices": ("lists", "List device profiles, or show one."),
    "formats": ("lists", "List formats and their schemes."),
    "tasks": ("lists", "List the tasks that a bundle can serve."),
    "toolchain": ("toolchain", "Install converters into environments of their own, list and remove them."),
    "doctor": ("doctor", "Look at this machine: packages, engines, caches, and what is missing."),
}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        module = importlib.import_module(f".{_COMMANDS[name][0]}", __name__)
        command: click.Command = getattr(module, name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], _COMMANDS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            ctx.fail(f"No such command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, about) for name, (_, about) in _COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:  # Any: what a command returns
        """The one place where an error of the library becomes a message and an exit code."""
        from satchel_runtimes.errors import SatchelError

        try:
            return super().invoke(ctx)
        except SatchelError as error:
            click.echo(error, err=True)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(130)


@click.group(
    cls=_Commands,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": lambda token: token.replace("_", "-"),
        "max_content_width": 100,
    },
)
@click.version_option(package_name="satchel")
def cli() -> None:
    """Pack a Hugging Face model for a device, prove that it still is the model, and carry it there.

    Exit codes: 0 fine, 1 another error that you can mend, 2 usage, 10 parity, 11 accuracy, 12 latency,
    13 size or memory, 14 not supported, 15 toolchain, 16 integrity, 130 interrupted.
    """


def main(args: Sequence[str] | None = None) -> None:
    """The console script. Output that meets a closed pipe ends quietly, as other tools do."""
    try:
        cli.main(args=list(args) if args is not None else None, prog_name="satchel")
    except BrokenPipeError:
        # Python would complain once more when it flushes stdout at exit.
        import os

        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
