"""Writes docs/standin.md: the ways in which the stand-in can differ, as the code declares them."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEAD = """\
# The ways in which the stand-in can be hostile

<!-- Made by `make docs` from standin/switches.py and standin/faults.py. -->

`standin/` plays the server in the demo, the tests and the benchmarks. What is known of the real one may be wrong,
networks break, and servers lie: each such way is a switch or a fault, as data. `tests/model` puts them together in
stories.
`python -m standin -h` says how to set a switch by hand.
"""


def page() -> str:
    """The text of the page."""
    parts = [
        HEAD,
        "## Switches\n",
        "How the server behaves, all the time.\n",
        _table(_switches(), "default"),
    ]
    parts += [
        "## Faults\n",
        "What happens instead of a right answer: `Fault(Match(host, method, path), ACTION, times, probability)`.\n",
        _table(_faults(), "arguments"),
    ]
    return "\n".join(parts)


def _table(rows: list[tuple[str, str, str]], middle: str) -> str:
    lines = [f"| name | {middle} | what it does |", "|---|---|---|"]
    lines += [
        f"| `{name}` | {f'`{about}`' if about else ''} | {text} |" for name, about, text in rows
    ]
    return "\n".join(lines).replace("``", "`") + "\n"


def _switches() -> list[tuple[str, str, str]]:
    """Fields with their defaults, and the comment above them; neighbours may share one."""
    source = (ROOT / "standin/switches.py").read_text()
    made = next(each for each in ast.parse(source).body if isinstance(each, ast.ClassDef))
    lines, comment, rows = source.splitlines(), "", []

    for field in made.body:
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        above, at = [], field.lineno - 2

        while lines[at].strip().startswith("#:"):
            above.insert(0, lines[at].strip().removeprefix("#:").strip())
            at -= 1

        comment = " ".join(above) or comment
        rows.append(
            (field.target.id, "" if field.value is None else ast.unparse(field.value), comment)
        )

    return [(name, default, _cell(text)) for name, default, text in rows]


def _faults() -> list[tuple[str, str, str]]:
    """Actions, and the functions that make some, with the first paragraph of what they say of
    themselves."""
    tree = ast.parse((ROOT / "standin/faults.py").read_text())
    rows = []

    for each in tree.body:
        if isinstance(each, ast.ClassDef) and any(
            getattr(item, "name", "") == "__call__" for item in each.body
        ):
            if any(ast.unparse(base) == "Protocol" for base in each.bases):
                continue
            fields = [item for item in each.body if isinstance(item, ast.AnnAssign)]
            names = ", ".join(ast.unparse(field.target) for field in fields)
        elif (
            isinstance(each, ast.FunctionDef)
            and each.returns
            and ast.unparse(each.returns) in ("Respond", "Mutate")
        ):
            arguments = each.args
            named = [*arguments.args, *arguments.kwonlyargs]
            named += [kept for kept in (arguments.vararg, arguments.kwarg) if kept]
            names = ", ".join(item.arg for item in named)
        else:
            continue

        said = inspect.cleandoc(ast.get_docstring(each) or "").partition("\n\n")[0]
        rows.append((each.name, names, _cell(said)))

    return rows


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|").strip()


if __name__ == "__main__":
    (ROOT / "docs/standin.md").write_text(page())
