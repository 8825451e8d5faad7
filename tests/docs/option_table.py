"""The table of mount options in docs/operations.md: `python tests/docs/option_table.py` writes it anew."""

from __future__ import annotations

from pathlib import Path

from pictofs.config import MountSettings, Setting, declared

PAGE = Path(__file__).parents[2] / "docs/operations.md"
BEGIN, END = "<!-- options: begin -->\n", "<!-- options: end -->"


def _row(item: Setting) -> str:
    option = f"{item.flag} {item.metavar}" if item.metavar else item.flag
    default = item.shown if item.parse else "off"
    cells = (f"`{option}`", item.help, f"`{default}`", f"`{item.env}`" if item.env else "")
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def table() -> str:
    """The options as they are declared."""
    head = "| option | what it does | default | variable |\n|---|---|---|---|\n"
    return head + "".join(map(_row, declared(MountSettings)))


def main() -> None:
    text = PAGE.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    PAGE.write_text(before + BEGIN + table() + END + after)


if __name__ == "__main__":
    main()
