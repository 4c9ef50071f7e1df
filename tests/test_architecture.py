"""The floors of the house: a package imports only what lies below it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "runtimes/satchel_runtimes": set(),
    "device_profiles/satchel_device_profiles": {"satchel_runtimes"},
    "benchmarks/satchel_benchmarks": {"satchel_runtimes", "satchel_device_profiles"},
    "converters/satchel_converters": {"satchel_runtimes", "satchel_device_profiles"},
    "sdk/satchel": {"satchel_runtimes", "satchel_device_profiles", "satchel_benchmarks", "satchel_converters"},
}


def imported_packages(file: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(file.read_text("utf-8"))))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize(("package", "below"), MAY_IMPORT.items())
def test_a_package_imports_only_what_lies_below_it(package: str, below: set[str]) -> None:
    itself = Path(package).name
    files = sorted((ROOT / package).rglob("*.py"))
    assert files, f"{package} holds no module: has the house moved?"
    for file in files:
        ours = {name for name in imported_packages(file) if name.startswith("satchel")}
        assert ours <= below | {itself}, f"{file.relative_to(ROOT)} reaches up"
